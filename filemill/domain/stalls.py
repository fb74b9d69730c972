"""Stalled partitions: the committed offset does not advance although there are an owner and records to read. Pure.

Samples show since when an offset has not changed. The owner's heartbeats show the reason. A record may take its
processing time, and a change of owners a session and some seconds; only after that is a partition stalled (invariant 9
in docs/guarantees.md).
"""

import enum

import msgspec

from filemill.domain.worker_events import STUCK_MARGIN_SECONDS, Vitals, WorkerCondition


class StallReason(enum.StrEnum):
    """Why a committed offset does not advance."""

    QUIET = "quiet"
    BREAKER = "breaker"
    RECORD = "record"
    COMMITS = "commits"
    SILENT = "silent"
    UNKNOWN = "unknown"


class PartitionOwner(msgspec.Struct, frozen=True, kw_only=True):
    """The owner of a partition, by its last heartbeat. `condition` None: it has never sent one."""

    worker_id: str
    condition: WorkerCondition | None = None
    silent_seconds: float = 0.0
    processing_seconds: float | None = None
    vitals: Vitals | None = None


class UnchangedOffset(msgspec.Struct, frozen=True):
    """A partition with lag whose committed offset and owner have not changed for `seconds`.

    `undisturbed_seconds`: the time since its owner started, got partitions, was resumed or closed a breaker.
    """

    partition: int
    committed: int | None
    lag: int
    seconds: float
    undisturbed_seconds: float


class StalledPartition(msgspec.Struct, frozen=True):
    """A stalled partition. `sentence` is the description for people."""

    partition: int
    committed: int | None
    lag: int
    seconds: float
    owner: str
    reason: StallReason
    sentence: str

    @property
    def explained(self) -> bool:
        """Whether the stall is expected: the owner is quiet, or a server is known to be unreachable."""
        return self.reason in (StallReason.QUIET, StallReason.BREAKER)


def stall_timeout_seconds(processing_seconds: float, session_seconds: float) -> float:
    """How long a committed offset may be unchanged while a partition has lag and an owner."""
    return processing_seconds + session_seconds + STUCK_MARGIN_SECONDS


def find_stall(
    unchanged: UnchangedOffset, owner: PartitionOwner, *, processing_seconds: float, session_seconds: float
) -> StalledPartition | None:
    """The stall of a partition and its reason, or None.

    `processing_seconds` is used if the owner's heartbeats do not contain its own.
    """
    own = processing_seconds if owner.processing_seconds is None else owner.processing_seconds
    limit = stall_timeout_seconds(own, session_seconds)
    if unchanged.seconds <= limit:
        return None
    found = _stall_reason(unchanged, owner, limit)
    if found is None:
        return None
    reason, explanation = found
    state = (
        f"the committed offset {unchanged.committed:,} has not advanced"
        if unchanged.committed
        else "nothing is committed"
    )
    sentence = f"partition {unchanged.partition}: {state} for {unchanged.seconds:.0f} s, with a lag of"
    sentence += f" {unchanged.lag:,}: {explanation}"
    return StalledPartition(
        unchanged.partition,
        unchanged.committed,
        unchanged.lag,
        round(unchanged.seconds, 1),
        owner.worker_id,
        reason,
        sentence,
    )


def _stall_reason(unchanged: UnchangedOffset, owner: PartitionOwner, limit: float) -> tuple[StallReason, str] | None:
    name, vitals = f"its owner {owner.worker_id}", owner.vitals
    if owner.condition is None or vitals is None:
        return StallReason.UNKNOWN, f"{name} sends no heartbeats"
    if owner.condition in (WorkerCondition.DEAD, WorkerCondition.STOPPED):
        return StallReason.SILENT, f"{name} has sent nothing for {owner.silent_seconds:.0f} s"
    if vitals.quiet:
        return StallReason.QUIET, f"{name} is quiet; resume it with `filemill workers resume {owner.worker_id}`"
    if vitals.breaker:
        return StallReason.BREAKER, f"{name} waits for a server ({vitals.breaker})"
    if unchanged.undisturbed_seconds <= limit:
        return None  # the owner resumed only recently
    return _stuck_reason(unchanged.partition, name, vitals, limit)


def _stuck_reason(partition: int, name: str, vitals: Vitals, limit: float) -> tuple[StallReason, str] | None:
    oldest = next((one for one in vitals.oldest_records if one.partition == partition), None)
    if oldest is None:
        if vitals.in_flight and vitals.busy_seconds <= limit:
            return None  # the worker processes records of its other partitions first
        return StallReason.UNKNOWN, f"{name} has none of its records in progress; the reason is unknown"
    if oldest.uncommitted_seconds > STUCK_MARGIN_SECONDS:
        seconds = oldest.uncommitted_seconds
        return StallReason.COMMITS, f"{name} finishes records, but no commit was accepted for {seconds:.0f} s"
    if oldest.offset is None or oldest.seconds <= limit:
        return None
    return StallReason.RECORD, f"{name} is stuck on record P{partition}·{oldest.offset} for {oldest.seconds:.0f} s"
