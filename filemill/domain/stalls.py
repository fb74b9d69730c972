"""Partitions whose committed offset does not move although they have an owner and records to read, and why.

Pure. The samples say since when an offset stands still, and the owner's heartbeats say what it does meanwhile. A record
may take its processing time, and a change of owners a session and some seconds: until then nothing is stalled
(invariant 9 in docs/guarantees.md).
"""

import enum

import msgspec

from filemill.domain.worker_events import STUCK_MARGIN_SECONDS, Vitals, WorkerCondition


class StallReason(enum.StrEnum):
    """Why a committed offset does not move."""

    QUIET = "quiet"
    BREAKER = "breaker"
    RECORD = "record"
    COMMITS = "commits"
    SILENT = "silent"
    UNKNOWN = "unknown"


class PartitionOwner(msgspec.Struct, frozen=True, kw_only=True):
    """The owner of a partition, by its last heartbeat. `condition` None: it never sent one."""

    worker_id: str
    condition: WorkerCondition | None = None
    silent_seconds: float = 0.0
    processing_seconds: float | None = None
    vitals: Vitals | None = None


class UnchangedOffset(msgspec.Struct, frozen=True):
    """A partition with lag. For `seconds` its committed offset and its owner have been the same, by the samples.

    `undisturbed_seconds`: since its owner last started, got partitions, was resumed, or closed a breaker.
    """

    partition: int
    committed: int | None
    lag: int
    seconds: float
    undisturbed_seconds: float


class StalledPartition(msgspec.Struct, frozen=True):
    """A partition that does not move. `explained`: it is held on purpose, or a server is known to be unreachable."""

    partition: int
    committed: int | None
    lag: int
    seconds: float
    owner: str
    reason: StallReason
    sentence: str

    @property
    def explained(self) -> bool:
        """Whether that breaks no promise."""
        return self.reason in (StallReason.QUIET, StallReason.BREAKER)


def stall_timeout_seconds(processing_seconds: float, session_seconds: float) -> float:
    """How long a committed offset may stand still while a partition has lag and an owner."""
    return processing_seconds + session_seconds + STUCK_MARGIN_SECONDS


def find_stall(
    still: UnchangedOffset, owner: PartitionOwner, *, processing_seconds: float, session_seconds: float
) -> StalledPartition | None:
    """Whether the partition is stalled, and why. `processing_seconds` counts where the owner does not say its own."""
    own = processing_seconds if owner.processing_seconds is None else owner.processing_seconds
    limit = stall_timeout_seconds(own, session_seconds)
    if still.seconds <= limit:
        return None
    found = _stall_reason(still, owner, limit)
    if found is None:
        return None
    reason, why = found
    standing = f"the committed offset {still.committed:,} has not moved" if still.committed else "nothing is committed"
    sentence = f"partition {still.partition}: {standing} for {still.seconds:.0f} s, with a lag of {still.lag:,}: {why}"
    return StalledPartition(
        still.partition, still.committed, still.lag, round(still.seconds, 1), owner.worker_id, reason, sentence
    )


def _stall_reason(still: UnchangedOffset, owner: PartitionOwner, limit: float) -> tuple[StallReason, str] | None:
    name, vitals = f"its owner {owner.worker_id}", owner.vitals
    if owner.condition is None or vitals is None:
        return StallReason.UNKNOWN, f"{name} sends no heartbeats"
    if owner.condition in (WorkerCondition.DEAD, WorkerCondition.STOPPED):
        return StallReason.SILENT, f"{name} has been silent for {owner.silent_seconds:.0f} s"
    if vitals.quiet:
        return StallReason.QUIET, f"{name} is quiet; resume it with `filemill workers resume {owner.worker_id}`"
    if vitals.breaker:
        return StallReason.BREAKER, f"{name} waits for a server ({vitals.breaker})"
    if still.undisturbed_seconds <= limit:
        return None  # what held it is over; it has not had its time yet
    return _stuck_reason(still.partition, name, vitals, limit)


def _stuck_reason(partition: int, name: str, vitals: Vitals, limit: float) -> tuple[StallReason, str] | None:
    oldest = next((one for one in vitals.oldest_records if one.partition == partition), None)
    if oldest is None:
        if vitals.in_flight and vitals.busy_seconds <= limit:
            return None  # its records wait for a place that others of the same worker have
        return StallReason.UNKNOWN, f"{name} has none of its records in progress, for an unknown reason"
    if oldest.uncommitted_seconds > STUCK_MARGIN_SECONDS:
        seconds = oldest.uncommitted_seconds
        return StallReason.COMMITS, f"{name} finishes records, but no commit was accepted for {seconds:.0f} s"
    if oldest.offset is None or oldest.seconds <= limit:
        return None
    return StallReason.RECORD, f"{name} is stuck on record P{partition}·{oldest.offset} for {oldest.seconds:.0f} s"
