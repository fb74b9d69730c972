"""Worker events and the worker's condition derived from them. Pure.

Workers publish these events to `worker.events`, with their id as the key. Status sync stores them; pages, notebooks and
`verify` read them. A killed worker sends no event: its condition follows from the time since its last heartbeat.
"""

import enum
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from filemill.domain.files import FileId
from filemill.domain.handlers import HandlerSpec
from filemill.domain.messages import Int32, Int64, Run, StageTimes, WorkerId
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.errors import InvalidMessage

HEARTBEAT_SECONDS = 2.0
# Three missed heartbeats: longer than a pause of the runtime, and as long as the group's session (6 s).
DEAD_AFTER_SECONDS = 3 * HEARTBEAT_SECONDS
# A record may take its processing time and this long before its worker counts as stuck.
STUCK_MARGIN_SECONDS = 10.0
# How often a worker announces its handlers.
HANDLERS_SECONDS = 30.0

# A greater clock skew of a worker causes a warning. An event needs some time to reach the broker.
SKEW_WARNING_SECONDS = 3.0

NonNegative = Annotated[float, msgspec.Meta(ge=0)]
# Bounds of what is stored and drawn for a worker. A worker cuts its texts far below, and no topic of requests has so
# many partitions.
PARTITIONS_MAX = 10_000
Partitions = Annotated[list[Int32], msgspec.Meta(max_length=PARTITIONS_MAX)]
Text = Annotated[str, msgspec.Meta(max_length=50_000)]
LogTail = Annotated[str, msgspec.Meta(max_length=100_000)]
QueueName = Annotated[str, msgspec.Meta(max_length=40)]
QUEUES_MAX = 100


class EventKind(enum.StrEnum):
    """The kinds of events."""

    STARTED = "started"
    ASSIGNED = "assigned"
    REVOKED = "revoked"
    LOST = "lost"
    HEARTBEAT = "heartbeat"
    RETRYING = "retrying"
    DEAD_LETTERED = "parked"
    ATTEMPTED = "attempted"
    CANCELLED = "cancelled"
    BREAKER_OPENED = "breaker-opened"
    BREAKER_CLOSED = "breaker-closed"
    QUIETED = "quieted"
    RESUMED = "resumed"
    HANDLERS = "handlers"
    STOPPED = "stopped"


# The events that say which partitions a worker owns after them.
OWNERSHIP_KINDS = frozenset(
    {
        EventKind.STARTED,
        EventKind.ASSIGNED,
        EventKind.REVOKED,
        EventKind.LOST,
        EventKind.HEARTBEAT,
        EventKind.STOPPED,
    }
)


class OldestRecord(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """The oldest unfinished record of a partition that a worker owns, and for how many seconds it has been the oldest.

    `offset` None: no record is unfinished. `uncommitted_seconds`: how long finished records have waited for an accepted
    commit.
    """

    partition: Int32
    offset: Int64 | None = None
    seconds: NonNegative = 0.0
    uncommitted_seconds: NonNegative = 0.0
    queue: QueueName = DEFAULT_QUEUE


class QueueVitals(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """The part of one queue in a heartbeat: the partitions that the worker owns of its topic, and its records."""

    queue: QueueName
    owned: Partitions = []
    epoch: Int64 | None = None
    in_flight: Int32 = 0
    paused: bool = False


class Vitals(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """The measurements in a heartbeat. Times in seconds, memory in bytes.

    `headroom_seconds`: what was left of `max.poll.interval.ms` at the last poll. `busy_seconds`: how long no record has
    finished although some are in flight. `finished` counts since the start. `oldest_records`: one for each partition
    with unfinished or uncommitted records. `queues`: the queues that the worker serves, if not `default` alone.
    """

    in_flight: Int32 = 0
    oldest_seconds: NonNegative = 0.0
    busy_seconds: NonNegative = 0.0
    headroom_seconds: float | None = None
    paused: bool = False
    retrying: Int32 = 0
    quiet: bool = False
    breaker: Text | None = None
    finished: Int64 = 0
    failed: Int64 = 0
    finished_per_second: NonNegative = 0.0
    cpu_seconds: NonNegative = 0.0
    rss_bytes: Int64 = 0
    oldest_records: Annotated[list[OldestRecord], msgspec.Meta(max_length=PARTITIONS_MAX)] = []
    queues: Annotated[list[QueueVitals], msgspec.Meta(max_length=QUEUES_MAX)] = []


class WorkerEvent(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """One event. `partitions` are those that the event concerns.

    `owned` are all partitions that the worker owns after it, if its kind is one of `OWNERSHIP_KINDS`. Partitions, epoch
    and offset are those of the topic of `queue`. `handlers` are all that the worker has; it announces them at its start
    and again at intervals, so that a new dashboard learns them.

    On Kafka `timestamp` is by the worker's clock, in the database by the database's. `skew_seconds` is how far the
    worker's clock was ahead (negative: behind). A `skew_seconds` that a worker sends is overwritten.
    """

    kind: EventKind
    worker_id: WorkerId
    timestamp: datetime
    protocol: Text | None = None
    member_id: Text | None = None
    epoch: Int64 | None = None
    partitions: Partitions = []
    owned: Partitions = []
    cause: Text | None = None
    version: Text | None = None
    pid: Int64 | None = None
    host: Text | None = None
    processing_seconds: NonNegative | None = None
    vitals: Vitals | None = None
    file_id: FileId | None = None
    run: Run | None = None
    partition: Int32 | None = None
    offset: Int64 | None = None
    attempt: Int32 | None = None
    stage: Text | None = None
    stage_ms: StageTimes = {}
    delay_seconds: NonNegative | None = None
    error: Text | None = None
    trace: Text | None = None
    # Of an attempt of a handler (ATTEMPTED): its version, the code of its failure, the end of its log, what it used.
    handler_version: Text | None = None
    code: Text | None = None
    log: LogTail | None = None
    cpu_seconds: NonNegative | None = None
    peak_bytes: Int64 | None = None
    queue: QueueName = DEFAULT_QUEUE
    handlers: Annotated[list[HandlerSpec], msgspec.Meta(max_length=200)] = []
    skew_seconds: float | None = None


_decoder = msgspec.json.Decoder(WorkerEvent)


def decode_event(value: bytes | None) -> WorkerEvent:
    """Decode a record of `worker.events`. Raises InvalidMessage."""
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


# A worker that did not report its stop can be forgotten after this silence, which no outage should last.
FORGET_AFTER_SECONDS = 600.0


class WorkerCondition(enum.StrEnum):
    """The condition of a worker."""

    BUSY = "busy"
    IDLE = "idle"
    STUCK = "stuck"
    DEAD = "dead"
    STOPPED = "stopped"


def worker_condition(
    last: WorkerEvent, vitals: Vitals | None, processing_seconds: float, silent_seconds: float
) -> WorkerCondition:
    """The condition of a worker, from its last event, its latest vitals and the seconds since its last event.

    Dead: no event for too long, and the last one is not "stopped". Stuck: it sends heartbeats, but no record in
    progress has finished for longer than one may take. Busy: records are in progress. Idle: none are.
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
