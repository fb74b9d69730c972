"""For how long a worker's partitions have been at the same record."""

import time
from collections.abc import Callable, Mapping

import msgspec

from filemill.domain.offsets import OffsetTracker
from filemill.domain.worker_events import OldestRecord


class _PartitionSample(msgspec.Struct):
    """What a partition was at, and since when."""

    offset: int | None
    since: float
    acknowledged: int
    uncommitted_since: float | None


class OldestRecordTracker:
    """Looks at all partitions now and then, as often as a heartbeat is sent, and costs nothing in between."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[int, _PartitionSample] = {}

    def sample(self, offsets: Mapping[int, OffsetTracker]) -> list[OldestRecord]:
        """The oldest unfinished record of each partition that has one, or has records that wait for a commit."""
        now = self._clock()
        self._seen = {
            partition: self._next(self._seen.get(partition), each, now) for partition, each in sorted(offsets.items())
        }
        return [
            OldestRecord(
                partition,
                seen.offset,
                round(now - seen.since, 1) if seen.offset is not None else 0.0,
                round(now - seen.uncommitted_since, 1) if seen.uncommitted_since is not None else 0.0,
            )
            for partition, seen in self._seen.items()
            if seen.offset is not None or seen.uncommitted_since is not None
        ]

    def _next(self, before: _PartitionSample | None, offsets: OffsetTracker, now: float) -> _PartitionSample:
        offset = offsets.position if offsets.unfinished else None
        acknowledged = offsets.committed_version
        uncommitted_since = None
        if offsets.has_uncommitted:
            same = before is not None and before.acknowledged == acknowledged
            known = before.uncommitted_since if before is not None and same else None
            uncommitted_since = now if known is None else known
        since = before.since if before is not None and before.offset == offset else now
        return _PartitionSample(offset, since, acknowledged, uncommitted_since)
