"""The consumer group, its lag now and over time, and the leases.

The group monitor writes the samples; PostgreSQL downsamples long histories. Periods are bounded by `now()`, because
`clock_timestamp()` is volatile and cannot be an index condition. Unknown is None, never zero.
"""

from datetime import datetime, timedelta
from decimal import Decimal

import msgspec
import sqlalchemy as sa


class GroupMember(msgspec.Struct, frozen=True, rename="camel"):
    """A member of the consumer group, and the partitions of `file.create` that it owns."""

    member_id: str
    client_id: str
    host: str
    partitions: list[int]


class GroupState(msgspec.Struct, frozen=True):
    """The consumer group when it was last sampled, `age_seconds` ago."""

    sampled_at: datetime
    age_seconds: float
    state: str
    protocol: str | None
    members: list[GroupMember]


class PartitionLag(msgspec.Struct, frozen=True):
    """The latest sample of a partition.

    `behind_seconds`: how long the oldest uncommitted record has waited, according to the samples; at most one interval
    too long. 0: no lag. None: the samples of the last hour do not tell.
    """

    partition: int
    begin_offset: int | None
    end_offset: int | None
    committed_offset: int | None
    lag: int | None
    behind_seconds: float | None = None


class Lags(msgspec.Struct, frozen=True):
    """The latest samples of all partitions, `age_seconds` ago."""

    sampled_at: datetime
    age_seconds: float
    partitions: list[PartitionLag]
    generation: int = 1  # of the topic

    @property
    def total(self) -> int | None:
        """The number of uncommitted records; None: a partition's lag is unknown."""
        lags = [part.lag for part in self.partitions if part.lag is not None]
        return sum(lags) if len(lags) == len(self.partitions) else None

    @property
    def behind_seconds(self) -> float | None:
        """`behind_seconds` of the partition that is furthest behind; None: it is unknown for a partition with lag."""
        spans = [part.behind_seconds for part in self.partitions]
        return max((span for span in spans if span is not None), default=None) if None not in spans else None


class Flow(msgspec.Struct, frozen=True):
    """Records per second that were produced to the topic and committed by the group, over the last `seconds`."""

    produced: float | None
    committed: float | None
    seconds: float


class LagHistory(msgspec.Struct, frozen=True):
    """Lag per partition over time: `lags[partition][i]` at `moments[i]`; None: unknown.

    A gap in the samples is one moment without values, so that a chart draws no line across it. With `bin_seconds`, each
    value is the greatest of its bin, so that downsampling hides no peak.
    """

    moments: list[datetime]
    lags: dict[int, list[int | None]]
    bin_seconds: float | None


class LeaseState(msgspec.Struct, frozen=True):
    """The holder of the lease `name` (relay, sync, monitor). `held`: the lease has not expired."""

    name: str
    holder: str
    held: bool


_LEASES = sa.text("SELECT name, holder, expires_at > clock_timestamp() FROM leases ORDER BY name")
_GROUP = sa.text("""
    SELECT sampled_at, extract(epoch FROM clock_timestamp() - sampled_at), state, protocol, members
    FROM group_samples WHERE group_id = :group ORDER BY sampled_at DESC LIMIT 1
""")
# Behind since the latest sample whose end offset is not beyond the offset that is committed now.
_LAGS = sa.text("""
    SELECT latest.sampled_at, extract(epoch FROM clock_timestamp() - latest.sampled_at),
           partition, begin_offset, end_offset, committed_offset, lag,
           CASE WHEN lag = 0 THEN 0 WHEN lag > 0 THEN (
               SELECT extract(epoch FROM latest.sampled_at - past.sampled_at)
               FROM lag_samples AS past
               WHERE past.group_id = :group AND past.partition = latest.partition
                 AND past.sampled_at > now() - interval '1 hour'
                 AND past.generation = latest.generation
                 AND past.end_offset <= coalesce(latest.committed_offset, latest.begin_offset)
               ORDER BY past.sampled_at DESC LIMIT 1
           ) END, latest.generation
    FROM lag_samples AS latest
    WHERE group_id = :group AND sampled_at = (SELECT max(sampled_at) FROM lag_samples WHERE group_id = :group)
    ORDER BY partition
""")
# Over the partitions in both samples: a partition that was added in between has no rate yet.
_FLOW = sa.text("""
    WITH edges AS (
        SELECT min(sampled_at) AS first, max(sampled_at) AS last
        FROM lag_samples WHERE group_id = :group AND sampled_at > now() - CAST(:period AS interval)
    )
    SELECT extract(epoch FROM edges.last - edges.first), sum(late.end_offset - early.end_offset),
           sum(coalesce(late.committed_offset, late.begin_offset)
               - coalesce(early.committed_offset, early.begin_offset))
    FROM edges
    JOIN lag_samples AS early ON early.group_id = :group AND early.sampled_at = edges.first
    JOIN lag_samples AS late ON late.group_id = :group AND late.sampled_at = edges.last
     AND late.partition = early.partition AND late.generation = early.generation
    GROUP BY edges.first, edges.last
""")
_HISTORY = sa.text("""
    SELECT sampled_at, partition, lag FROM lag_samples
    WHERE group_id = :group AND sampled_at > now() - CAST(:period AS interval)
    ORDER BY sampled_at, partition
""")
_THINNED_HISTORY = sa.text("""
    SELECT date_bin(CAST(:bin AS interval), sampled_at, TIMESTAMPTZ '2000-01-01') AS moment, partition, max(lag)
    FROM lag_samples
    WHERE group_id = :group AND sampled_at > now() - CAST(:period AS interval)
    GROUP BY moment, partition ORDER BY moment, partition
""")


def leases(connection: sa.Connection) -> dict[str, LeaseState]:
    """All leases that were ever acquired, by name."""
    return {row[0]: LeaseState(*row) for row in connection.execute(_LEASES)}


def group_state(connection: sa.Connection, group: str) -> GroupState | None:
    """The group's latest sample; None: there is none."""
    row = connection.execute(_GROUP, {"group": group}).one_or_none()
    if row is None:
        return None
    members = msgspec.convert(row[4], list[GroupMember])
    return GroupState(row[0], max(0.0, float(row[1])), row[2], row[3], members)


def lags(connection: sa.Connection, group: str) -> Lags | None:
    """The latest sample of each partition; None: there is none."""
    rows = connection.execute(_LAGS, {"group": group}).all()
    if not rows:
        return None
    parts = [PartitionLag(row[2], row[3], row[4], row[5], row[6], _seconds(row[7])) for row in rows]
    return Lags(rows[0][0], max(0.0, float(rows[0][1])), parts, rows[0][8])


def _seconds(value: Decimal | None) -> float | None:
    return None if value is None else float(value)


def flow(connection: sa.Connection, group: str, seconds: float = 60.0) -> Flow:
    """Rates over the last `seconds`, from the samples; None if there are fewer than two."""
    row = connection.execute(_FLOW, {"group": group, "period": timedelta(seconds=seconds)}).one_or_none()
    if row is None or not row[0]:
        return Flow(None, None, seconds)
    span = float(row[0])
    produced, committed = (None if moved is None else max(0.0, float(moved) / span) for moved in row[1:])
    return Flow(produced, committed, span)


def lag_history(
    connection: sa.Connection, group: str, period: timedelta, *, interval_seconds: float = 2.0, points: int = 300
) -> LagHistory:
    """The lag over the last `period`, in at most about `points` moments. `interval_seconds`: the monitor's interval."""
    width = period.total_seconds() / points
    thinned = width > 2 * interval_seconds
    query, parameters = (_THINNED_HISTORY, {"bin": timedelta(seconds=width)}) if thinned else (_HISTORY, {})
    rows = connection.execute(query, {"group": group, "period": period, **parameters}).all()
    usual = timedelta(seconds=width if thinned else interval_seconds)
    moments: list[datetime] = []
    found: dict[tuple[datetime, int], int | None] = {}
    for moment, partition, lag in rows:
        if not moments or moment != moments[-1]:
            if moments and moment - moments[-1] > 3 * usual:
                moments.append(moments[-1] + usual)
            moments.append(moment)
        found[moment, partition] = lag
    partitions = sorted({partition for _, partition in found})
    series = {partition: [found.get((moment, partition)) for moment in moments] for partition in partitions}
    return LagHistory(moments, series, width if thinned else None)
