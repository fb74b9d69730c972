"""How long the oldest record of each partition has been unfinished."""

import time
from collections.abc import Mapping

import msgspec

from filemill.domain.offsets import OffsetTracker
from filemill.domain.worker_events import OldestRecord
from filemill.ports import Clock


class _PartitionSample(msgspec.Struct):
    """The oldest unfinished record of a partition, and the times since when."""

    offset: int | None
    since: float
    committed_version: int
    uncommitted_since: float | None


class OldestRecordTracker:
    """Samples all partitions once for each heartbeat, so records cost nothing."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._samples: dict[int, _PartitionSample] = {}

    def sample(self, offsets: Mapping[int, OffsetTracker]) -> list[OldestRecord]:
        """The oldest unfinished record of each partition with unfinished or uncommitted records."""
        now = self._clock()
        self._samples = {
            partition: self._next(self._samples.get(partition), tracker, now)
            for partition, tracker in sorted(offsets.items())
        }
        return [
            OldestRecord(
                partition,
                sample.offset,
                round(now - sample.since, 1) if sample.offset is not None else 0.0,
                round(now - sample.uncommitted_since, 1) if sample.uncommitted_since is not None else 0.0,
            )
            for partition, sample in self._samples.items()
            if sample.offset is not None or sample.uncommitted_since is not None
        ]

    def _next(self, before: _PartitionSample | None, offsets: OffsetTracker, now: float) -> _PartitionSample:
        offset = offsets.position if offsets.unfinished else None
        version = offsets.committed_version
        uncommitted_since = None
        if offsets.has_uncommitted:
            same = before is not None and before.committed_version == version
            known = before.uncommitted_since if before is not None and same else None
            uncommitted_since = now if known is None else known
        since = before.since if before is not None and before.offset == offset else now
        return _PartitionSample(offset, since, version, uncommitted_since)
