"""The faults. Each function returns a fault for a lab; `pick` selects its target among the live processes.

lab.inject(faults.kill_worker(lab))
lab.inject(faults.s3_answers(lab, 503, seconds=5, share=0.3))
"""

import contextlib
import signal
import time
from functools import partial

from filemill.adapters.kafka.lab import delete_records, recreate_topic
from filemill.adapters.kafka.reader import read_topic
from filemill.adapters.postgres.file_actions import unfinished_runs
from filemill.adapters.postgres.request_losses import applied_positions
from filemill.adapters.postgres.topics import known_generations
from filemill.domain.messages import RUN_HEADER, file_id_in, int_header
from filemill.domain.permissions import local_admin
from filemill.entrypoints import bootstrap
from filemill.lab.clock import REMEDY, libfaketime
from filemill.lab.database import turn_read_only, turn_writable
from filemill.lab.planted_losses import read_results
from filemill.lab.raw_records import RawRecord, publish_raw
from filemill.lab.s3_proxy import FaultMode
from filemill.lab.session import wait_until
from filemill.lab.stack import CLOCK_SKEWED, PROCESSOR, Lab
from filemill.queries.verification import count_outbox
from filemill.runtime.fault import Fault, FaultCode, process_suspended, server_killed, server_suspended
from filemill.runtime.journal import JournalEntry
from filemill.services.offset_reset import ResetTarget, UnfinishedPolicy
from filemill.verification.topic_history import RecordPosition
from filemill.verification.topics import TopicScanner

# How long the next stage is blocked before a kill, so that records accumulate at this one.
GATHER_SECONDS = 0.5
JOIN_SECONDS = 30.0
EMPTY_SECONDS = 30.0
# The number of requests or results that a fault removes before they are read.
PLANTED = 20
BAD_HEADER = (b"caf\xe9", b"1")
POISON = b'{"fileId": "not a number", "title": 7}'


def kill_worker(lab: Lab, pick: int = 0, role: str = PROCESSOR, *, replace: bool = True) -> Fault:
    """SIGKILL; with `replace`, a replacement starts at once."""
    target = _pick(lab, role, pick)

    def begin(_entry: JournalEntry) -> None:
        lab.kill(target)
        if replace:
            lab.scale(lab.replicas[role], role)

    return Fault(name=f"{role} killed", code=FaultCode.of_kill(role), target=target, begin=begin)


def kill_before_put(lab: Lab, pick: int = 0) -> Fault:
    """SIGKILL of a processor while its uploads hang, so that records are between their work and their PUT."""
    killed = kill_worker(lab, pick)

    def begin(entry: JournalEntry) -> None:
        lab.proxy.set_fault(FaultMode("hang"))
        time.sleep(GATHER_SECONDS)
        entry.detail = {"killed_at": time.time()}
        killed.begin(entry)

    return Fault(
        name="processor killed before the PUT",
        code=killed.code,
        target=killed.target,
        begin=begin,
        undo=lambda: lab.proxy.set_fault(None),
    )


def kill_between_put_and_event(lab: Lab, pick: int = 0) -> Fault:
    """SIGKILL of a processor while the broker is suspended: objects are stored, their results are not published."""
    killed = kill_worker(lab, pick)
    kafka = lab.supervisor.server("kafka")

    def begin(entry: JournalEntry) -> None:
        kafka.suspend()
        time.sleep(GATHER_SECONDS)
        entry.detail = {"killed_at": time.time()}
        killed.begin(entry)

    return Fault(
        name="processor killed between PUT and event",
        code=killed.code,
        target=killed.target,
        begin=begin,
        undo=kafka.resume,
    )


def kill_between_event_and_commit(lab: Lab, pick: int = 0) -> Fault:
    """SIGKILL of a processor. It commits every 0.2 s, so some published results are not committed."""
    killed = kill_worker(lab, pick)
    return Fault(
        name="processor killed between event and commit", code=killed.code, target=killed.target, begin=killed.begin
    )


def kills_in_a_row(lab: Lab, count: int, pause_seconds: float = 0.2) -> Fault:
    """SIGKILL of one processor after another, each replaced at once."""

    def begin(entry: JournalEntry) -> None:
        moments = []
        for number in range(count):
            killed = kill_worker(lab, number)
            moments.append((killed.target, time.time()))
            killed.begin(entry)
            time.sleep(pause_seconds)
        entry.detail = {"kills": moments}

    return Fault(
        name="processors killed in a row", code=FaultCode.PROCESSORS_KILLED, target=f"{count} kills", begin=begin
    )


def suspend(lab: Lab, pick: int = 0, role: str = PROCESSOR, *, seconds: float) -> Fault:
    """SIGSTOP, and SIGCONT after `seconds`; longer than its session or lease, the worker becomes a zombie."""
    target = _pick(lab, role, pick)
    return process_suspended(role, target, lambda number: lab.signal(target, number), seconds)


def terminate(lab: Lab, pick: int = 0) -> Fault:
    """SIGTERM of a processor at work; a replacement starts after it has left."""
    target = _pick(lab, PROCESSOR, pick)

    def begin(entry: JournalEntry) -> None:
        began = time.monotonic()
        lab.supervisor.stop_worker(target)
        entry.detail = {"seconds_to_leave": round(time.monotonic() - began, 3)}
        lab.scale(lab.replicas[PROCESSOR])

    return Fault(
        name="processor asked to leave (SIGTERM)", code=FaultCode.PROCESSOR_TERMINATED, target=target, begin=begin
    )


def join_leave_join(lab: Lab) -> Fault:
    """A processor joins, leaves while the group still rebalances, and joins again; at the end it leaves."""
    count = lab.replicas[PROCESSOR]

    def begin(_entry: JournalEntry) -> None:
        lab.scale(count + 1)
        time.sleep(2.0)  # it is joining by then, or has just joined
        lab.scale(count)
        lab.scale(count + 1)
        lab.wait_for_group(JOIN_SECONDS)

    return Fault(
        name="processor joins, leaves, joins",
        code=FaultCode.PROCESSOR_REJOINED,
        begin=begin,
        undo=lambda: _ignore(lab.scale(count)),
    )


def scale(lab: Lab, count: int) -> Fault:
    """Scale to `count` processors."""
    return Fault(name=f"scaled to {count}", code=FaultCode.SCALED, begin=lambda _entry: _ignore(lab.scale(count)))


def add_partitions(lab: Lab, total: int) -> Fault:
    """Increase the partitions of `file.create` to `total`."""
    return Fault(
        name="partitions added",
        code=FaultCode.PARTITIONS_ADDED,
        target=f"to {total}",
        begin=lambda _entry: lab.add_partitions(total),
    )


def reset_offsets(lab: Lab, target: ResetTarget, then: UnfinishedPolicy = "resubmit") -> Fault:
    """Stop the processors, reset the group's offsets by the page's use case, and start the processors again."""
    count = lab.replicas[PROCESSOR]

    def begin(entry: JournalEntry) -> None:
        lab.scale(0)
        operations = bootstrap.operations(lab.settings, lab.engine)
        reset = bootstrap.offset_reset(lab.settings, lab.engine, admin=lab.admin(), file_operations=operations)
        wait_until(lambda: reset.refusal() is None, EMPTY_SECONDS, "the group has no members")
        plan = reset.plan(target)
        done = reset.apply(plan, target, then, local_admin("lab"))
        entry.detail = {"cancelled": len(done.cancelled), "repeated": plan.repeated}

    return Fault(
        name="offsets reset",
        code=FaultCode.OFFSETS_RESET,
        target=str(target),
        begin=begin,
        undo=lambda: _ignore(lab.scale(count)),
    )


def kill_server(lab: Lab, name: str, *, seconds: float) -> Fault:
    """SIGKILL of a server, which is started again after `seconds`."""
    return server_killed(lab.supervisor.server(name), seconds)


def suspend_server(lab: Lab, name: str, *, seconds: float) -> Fault:
    """SIGSTOP of a server: connections stay open and nothing answers."""
    return server_suspended(lab.supervisor.server(name), seconds)


def s3_answers(lab: Lab, code: int, *, seconds: float, share: float = 1.0) -> Fault:
    """S3 answers a share of the processors' requests with 503, or with 404 (no such bucket)."""
    mode = FaultMode("answer", share=share, code=code)
    return Fault(
        name=f"s3 answers {code}",
        code=FaultCode.S3_ERRORS,
        target="s3",
        seconds=seconds,
        begin=lambda _entry: lab.proxy.set_fault(mode),
        undo=lambda: lab.proxy.set_fault(None),
    )


def s3_slow(lab: Lab, *, seconds: float, delay_seconds: float) -> Fault:
    """Delay each S3 request of the processors."""
    mode = FaultMode("slow", seconds=delay_seconds)
    return Fault(
        name="s3 slow",
        code=FaultCode.S3_SLOW,
        target="s3",
        seconds=seconds,
        begin=lambda _entry: lab.proxy.set_fault(mode),
        undo=lambda: lab.proxy.set_fault(None),
    )


def poison(lab: Lab) -> Fault:
    """Publish a record on `file.create` whose value is not a request."""

    def begin(entry: JournalEntry) -> None:
        offsets = publish_raw(lab.settings, lab.settings.topic_create, [RawRecord(POISON)])
        entry.detail = {"unacknowledged": offsets.count(None)}

    return Fault(name="poisonous message", code=FaultCode.POISON_MESSAGE, target=lab.settings.topic_create, begin=begin)


def bad_headers(lab: Lab, pick: int = 0) -> Fault:
    """Publish a record with a header name that is not UTF-8 on each topic. The Kafka client cannot read its headers."""
    settings = lab.settings
    topics = (settings.topic_create, settings.topic_created, settings.topic_progress, settings.topic_worker_events)

    def begin(entry: JournalEntry) -> None:
        record = RawRecord(POISON, headers=[BAD_HEADER], partition=pick % lab.parameters.partitions)
        unacknowledged = sum(publish_raw(settings, topic, [record]).count(None) for topic in topics)
        entry.detail = {"unacknowledged": unacknowledged}

    return Fault(name="bad header", code=FaultCode.BAD_HEADER, target=", ".join(topics), begin=begin)


def delete_requests(lab: Lab, pick: int = 0) -> Fault:
    """Remove unread requests from one partition, as retention does while the processors are suspended."""
    settings, losses, target = lab.settings, lab.losses, lab.workers()

    def begin(entry: JournalEntry) -> None:
        _send(lab, target, signal.SIGSTOP)
        for _ in range(2):  # the first backlog answers fetches that wait at the broker, and will be read
            last = lab.load.backlog(PLANTED * lab.partitions)[-1]
            wait_until(partial(_published, lab, last), EMPTY_SECONDS, "the requests are on the topic")
        admin, topic = lab.admin(), settings.topic_create
        parts = admin.offsets(settings.offsets_group, topic)
        part = parts[pick % len(parts)]
        start = max(part.begin or 0, part.committed or 0)
        records = list(read_topic(settings, topic, [part], "lab", {(topic, part.partition): start}))
        requested = [
            (file_id, int_header(record.headers, RUN_HEADER) or 1)
            for record in records
            if (file_id := file_id_in(record.value)) is not None
        ]
        now = time.time()
        delete_records(settings, topic, {part.partition: part.end or 0})
        losses.removed.update({RecordPosition(0, record.partition, record.offset): now for record in records})
        losses.requests |= _unfinished(lab, requested)
        entry.detail = {"partition": part.partition, "removed": len(records), "before": part.end}

    return Fault(
        name="records deleted",
        code=FaultCode.RECORDS_DELETED,
        target=settings.topic_create,
        begin=begin,
        undo=lambda: _send(lab, target, signal.SIGCONT),
    )


def recreate_results(lab: Lab) -> Fault:
    """Delete and recreate the topic of results while it has results that no sync has read."""
    settings, losses, target = lab.settings, lab.losses, lab.workers()
    count = lab.replicas["sync"]

    def begin(entry: JournalEntry) -> None:
        lab.scale(0, "sync")
        scanner = TopicScanner(settings, lab.admin(), "lab")
        results = read_results(scanner)
        applied = len(results)

        def has_unread_results() -> bool:
            results.extend(read_results(scanner))
            return len(results) - applied >= PLANTED

        wait_until(has_unread_results, EMPTY_SECONDS, "the topic has results that no sync reads", every=GATHER_SECONDS)
        _send(lab, target, signal.SIGSTOP)
        time.sleep(GATHER_SECONDS)  # results in flight reach the broker
        results += read_results(scanner)
        read = _sync_positions(lab)
        recreate_topic(settings, settings.topic_created)
        unread = [
            (one.execution.file_id, one.execution.run or 1)
            for one in results
            if one.offset >= read.get(one.partition, 0)
        ]
        losses.executions += [one.execution for one in results]
        losses.results |= _unfinished(lab, unread)
        entry.detail = {"removed": len(results), "unread": len(unread)}

    def undo() -> None:
        _send(lab, target, signal.SIGCONT)
        lab.scale(count, "sync")

    return Fault(
        name="topic recreated",
        code=FaultCode.TOPIC_RECREATED,
        target=settings.topic_created,
        begin=begin,
        undo=undo,
    )


def read_only_database(lab: Lab, *, seconds: float) -> Fault:
    """Make the database read-only for `seconds`, as a failover to a standby does."""
    return Fault(
        name="database read-only",
        code=FaultCode.DATABASE_READ_ONLY,
        target="postgres",
        seconds=seconds,
        begin=lambda _entry: turn_read_only(lab.settings),
        undo=lambda: turn_writable(lab.settings),
    )


def clock_skewed(lab: Lab, *, ahead_seconds: float, seconds: float) -> Fault:
    """Start a processor whose clock goes ahead by `ahead_seconds` after half of `seconds`; then stop it.

    Raises RuntimeError if libfaketime is not installed.
    """
    if libfaketime() is None:
        raise RuntimeError(REMEDY)

    def begin(_entry: JournalEntry) -> None:
        lab.clock.jump(0)  # librdkafka does not start with a clock that is far ahead
        lab.scale(1, CLOCK_SKEWED)
        time.sleep(seconds / 2)
        lab.clock.jump(ahead_seconds)
        time.sleep(seconds / 2)

    return Fault(
        name="clock skewed",
        code=FaultCode.CLOCK_SKEWED,
        target=CLOCK_SKEWED,
        begin=begin,
        undo=lambda: _ignore(lab.scale(0, CLOCK_SKEWED)),
    )


def clock_jump(lab: Lab, *, ahead_seconds: float, seconds: float) -> Fault:
    """Start a processor whose clock jumps ahead, then behind by as much; then stop it.

    Raises RuntimeError if libfaketime is not installed.
    """
    if libfaketime() is None:
        raise RuntimeError(REMEDY)

    def begin(_entry: JournalEntry) -> None:
        lab.clock.jump(0)
        lab.scale(1, CLOCK_SKEWED)
        time.sleep(seconds / 2)  # it starts and joins the group
        lab.clock.jump(ahead_seconds)
        time.sleep(seconds / 4)
        lab.clock.jump(-ahead_seconds)
        time.sleep(seconds / 4)

    return Fault(
        name="clock jumps",
        code=FaultCode.CLOCK_JUMPED,
        target=CLOCK_SKEWED,
        begin=begin,
        undo=lambda: _ignore(lab.scale(0, CLOCK_SKEWED)),
    )


def _pick(lab: Lab, role: str, pick: int) -> str:
    living = lab.workers(role)
    if not living:
        raise RuntimeError(f"no {role} is alive")
    return living[pick % len(living)]


def _send(lab: Lab, workers: list[str], number: int) -> None:
    for worker in workers:
        with contextlib.suppress(KeyError):  # it has ended
            lab.signal(worker, number)


def _published(lab: Lab, last_id: int) -> bool:
    """Whether all requests up to this file have left the outbox."""
    with lab.engine.connect() as connection:
        return count_outbox(connection, last_id) == 0


def _sync_positions(lab: Lab) -> dict[int, int]:
    """The next offset of the results that the sync reads, by partition."""
    topic = lab.settings.topic_created
    identities = lab.admin().identities([topic])
    with lab.engine.connect() as connection:
        return applied_positions(connection, topic, known_generations(connection, identities)[topic])


def _unfinished(lab: Lab, runs: list[tuple[int, int]]) -> set[tuple[int, int]]:
    with lab.engine.connect() as connection:
        ids = set(unfinished_runs(connection, runs))
    return {(file_id, run) for file_id, run in runs if file_id in ids}


def _ignore(_value: object) -> None:
    pass
