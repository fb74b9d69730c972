"""What workers say of themselves, and what that makes of them.

Pure. Workers publish these events to `worker.events`, keyed by their id; status sync stores them; pages, notebooks and
`verify` read them. A worker that is killed says nothing: that is told from the silence after its last heartbeat.
"""

import enum
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from filemill.domain.files import FileId
from filemill.domain.messages import Int32, Int64, Run, StageTimes, WorkerId
from filemill.errors import InvalidMessage

HEARTBEAT_SECONDS = 2.0
# Three heartbeats missed. Longer than a pause of the runtime, as long as the group's own patience (6 s).
DEAD_AFTER_SECONDS = 3 * HEARTBEAT_SECONDS
# A record may take its simulated time and this much more before its worker counts as stuck.
STUCK_MARGIN_SECONDS = 10.0

# A worker's clock that is further off than this is worth a word. An event may take a moment to reach the broker.
SKEW_WARNING_SECONDS = 3.0

NonNegative = Annotated[float, msgspec.Meta(ge=0)]


class EventKind(enum.StrEnum):
    """What an event is about."""

    STARTED = "started"
    ASSIGNED = "assigned"
    REVOKED = "revoked"
    LOST = "lost"
    HEARTBEAT = "heartbeat"
    RETRYING = "retrying"
    DEAD_LETTERED = "parked"
    CANCELLED = "cancelled"
    BREAKER_OPENED = "breaker-opened"
    BREAKER_CLOSED = "breaker-closed"
    QUIETED = "quieted"
    RESUMED = "resumed"
    STOPPED = "stopped"


class OldestRecord(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The oldest unfinished record of a partition that a worker owns, and for how many seconds it has been that.

    `offset` None: nothing is unfinished. `uncommitted_seconds`: for how long finished records wait for a commit that is
    accepted.
    """

    partition: Int32
    offset: Int64 | None = None
    seconds: NonNegative = 0.0
    uncommitted_seconds: NonNegative = 0.0


class Vitals(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """How a worker is doing, in its heartbeats. Times in seconds, memory in bytes.

    `headroom_seconds` is what is left of `max.poll.interval.ms` since the last poll; `busy_seconds` since when nothing
    has finished although something is in flight (0 where something has, or nothing is); `finished` counts since the
    start. `oldest_records`: one of each partition with unfinished or uncommitted records.
    """

    in_flight: Int32 = 0
    oldest_seconds: NonNegative = 0.0
    busy_seconds: NonNegative = 0.0
    headroom_seconds: float | None = None
    paused: bool = False
    retrying: Int32 = 0
    quiet: bool = False
    breaker: str | None = None
    finished: Int64 = 0
    failed: Int64 = 0
    finished_per_second: NonNegative = 0.0
    cpu_seconds: NonNegative = 0.0
    rss_bytes: Int64 = 0
    oldest_records: list[OldestRecord] = []


class WorkerEvent(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One event. `partitions` are those that it is about, `owned` all that the worker then has.

    `timestamp` is the worker's own time on Kafka. In the database it is the database's, and `skew_seconds` says how far
    the worker's clock was ahead of that (negative: behind); what a worker says of its skew itself is overwritten.
    """

    kind: EventKind
    worker_id: WorkerId
    timestamp: datetime
    protocol: str | None = None
    member_id: str | None = None
    epoch: Int64 | None = None
    partitions: list[Int32] = []
    owned: list[Int32] = []
    cause: str | None = None
    version: str | None = None
    pid: Int64 | None = None
    host: str | None = None
    processing_seconds: NonNegative | None = None
    vitals: Vitals | None = None
    file_id: FileId | None = None
    run: Run | None = None
    partition: Int32 | None = None
    offset: Int64 | None = None
    attempt: Int32 | None = None
    stage: str | None = None
    stage_ms: StageTimes = {}
    delay_seconds: NonNegative | None = None
    error: str | None = None
    trace: str | None = None
    skew_seconds: float | None = None


_decoder = msgspec.json.Decoder(WorkerEvent)


def decode_event(value: bytes | None) -> WorkerEvent:
    """Read a record of `worker.events`. Raises InvalidMessage."""
    try:
        event = _decoder.decode(value or b"")
        if b"\\u0000" in (value or b""):
            raise InvalidMessage("the event contains a NUL")
        str(event).encode()
        event.timestamp.astimezone(UTC)
    except (msgspec.DecodeError, UnicodeError, RecursionError, OverflowError) as error:
        raise InvalidMessage(f"not a worker event: {error}") from None
    if event.timestamp.tzinfo is None:
        raise InvalidMessage("the event's timestamp has no time zone")
    return event


class WorkerCondition(enum.StrEnum):
    """What a worker is, as four things that call for four different acts, and two that call for none."""

    BUSY = "busy"
    IDLE = "idle"
    STUCK = "stuck"
    DEAD = "dead"
    STOPPED = "stopped"


def worker_condition(
    last: WorkerEvent, vitals: Vitals | None, processing_seconds: float, silent_seconds: float
) -> WorkerCondition:
    """What a worker is, by its last event, its latest vitals, and for how long nothing was heard of it.

    Dead: silent, and it did not say goodbye. Stuck: it speaks, holds records, and has finished none for longer than one
    takes. Busy: it holds records. Idle: it holds none.
    """
    if last.kind is EventKind.STOPPED:
        return WorkerCondition.STOPPED
    if silent_seconds > DEAD_AFTER_SECONDS:
        return WorkerCondition.DEAD
    if vitals is None or not vitals.in_flight:
        return WorkerCondition.IDLE
    if vitals.busy_seconds > processing_seconds + STUCK_MARGIN_SECONDS:
        return WorkerCondition.STUCK
    return WorkerCondition.BUSY
