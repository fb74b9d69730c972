"""The lag of the processors' group as Kafka has it now. The other queries show the monitor's samples of it."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.reader import read_records_at
from filemill.config.settings import Settings
from filemill.domain.consumer_groups import GroupDescription, LogOffsets

# With more partitions that lag, the ages are those of so many, the ones with the greatest lag.
AGES_MAX = 64


class LivePartition(msgspec.Struct, frozen=True):
    """A partition of the request topic. `committed` None: the group never committed there, and reads from its begin.

    `lag` is the number of offsets that are not committed. `waiting_seconds`: for how long the first of these records
    has been on the topic, by this machine's clock; None: there is none, or it is not known. `owner`: the client id of
    the member that owns the partition.
    """

    partition: int
    begin: int | None
    committed: int | None
    end: int | None
    lag: int | None
    waiting_seconds: float | None
    owner: str | None


class LiveLag(msgspec.Struct, frozen=True):
    """A group and its lag. `state` and `protocol` are the broker's words; `total` is None if a lag is unknown."""

    group: str
    topic: str
    state: str
    protocol: str | None
    members: int
    total: int | None
    waiting_seconds: float | None
    partitions: list[LivePartition]


def live_lag(settings: Settings, admin: KafkaAdmin, group: str) -> LiveLag:
    """Ask Kafka for offsets and members of a group at the same time. Raises Unavailable."""
    topic = settings.topic_create
    with ThreadPoolExecutor(2, "lag") as pool:
        asked = pool.submit(admin.describe_group, group, topic)
        parts = admin.offsets(group, topic)
        ages = _waiting_seconds(settings, topic, parts)
        described = asked.result()
    owners = _owners(described)
    partitions = [
        LivePartition(
            part.partition,
            part.begin,
            part.committed,
            part.end,
            part.lag,
            ages.get(part.partition),
            owners.get(part.partition),
        )
        for part in parts
    ]
    lags = [part.lag for part in parts if part.lag is not None]
    return LiveLag(
        group,
        topic,
        described.state.replace("_", " ").lower(),
        described.protocol,
        len(described.members),
        sum(lags) if len(lags) == len(parts) else None,
        max(ages.values(), default=None),
        partitions,
    )


def _owners(group: GroupDescription) -> dict[int, str]:
    return {partition: member.client_id for member in group.members for partition in member.partitions}


def _waiting_seconds(
    settings: Settings, topic: str, parts: list[LogOffsets], now: Callable[[], float] = time.time
) -> dict[int, float]:
    """The age of the first uncommitted record of each partition that lags."""
    lagging = sorted((part for part in parts if part.lag), key=lambda part: part.lag or 0)[-AGES_MAX:]
    places = [(part.partition, (part.end or 0) - (part.lag or 0)) for part in lagging]
    found = read_records_at(settings, topic, places, "lag")
    return {
        record.partition: max(0.0, now() - record.timestamp_ms / 1000) for record in found if record.timestamp_ms > 0
    }
