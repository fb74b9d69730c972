"""The faults. Each function makes one for a lab, on a target that `pick` chooses among those that live.

lab.inject(faults.kill_worker(lab))
lab.inject(faults.s3_answers(lab, 503, seconds=5, share=0.3))
"""

import contextlib
import signal
import time
from functools import partial

import sqlalchemy as sa

from filemill.adapters.kafka.client import KafkaPublisher
from filemill.adapters.kafka.reader import read_topic
from filemill.adapters.postgres.file_actions import unfinished_runs
from filemill.adapters.postgres.tables import OutboxRow, SyncPosition
from filemill.domain.messages import RUN_HEADER, file_id_in, int_header
from filemill.entrypoints import bootstrap
from filemill.lab.clock import REMEDY, libfaketime
from filemill.lab.database import turn_read_only, turn_writable
from filemill.lab.planted_losses import read_results
from filemill.lab.raw_records import RawRecord, publish_raw
from filemill.lab.s3_proxy import FaultMode
from filemill.lab.session import wait_until
from filemill.lab.stack import CLOCK_SKEWED, PROCESSOR, Lab
from filemill.lab.topics import delete_records, recreate_topic
from filemill.runtime.fault import Fault, FaultCode, process_suspended, server_killed, server_suspended
from filemill.runtime.journal import JournalEntry
from filemill.services.offset_reset import ResetTarget, UnfinishedPolicy
from filemill.verification.topic_history import RecordPosition

# How long the way on is blocked before a kill, so that records gather at that stage.
GATHER_SECONDS = 0.5
JOIN_SECONDS = 30.0
EMPTY_SECONDS = 30.0
FLUSH_SECONDS = 10.0
# So many requests or results that a fault removes before they are read.
PLANTED = 20
BAD_HEADER = (b"caf\xe9", b"1")
POISON = b'{"fileId": "not a number", "title": 7}'


def kill_worker(lab: Lab, pick: int = 0, role: str = PROCESSOR, *, replace: bool = True) -> Fault:
    """SIGKILL; a replacement starts at once. Of a processor's records most are in work, some finished, uncommitted."""
    target = _pick(lab, role, pick)

    def begin(_entry: JournalEntry) -> None:
        lab.kill(target)
        if replace:
            lab.scale(lab.replicas[role], role)

    return Fault(name=f"{role} killed", code=FaultCode.of_kill(role), target=target, begin=begin)


def kill_before_put(lab: Lab, pick: int = 0) -> Fault:
    """SIGKILL while its uploads hang: records between their work and their PUT."""
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
    """SIGKILL while the broker is stopped: objects are stored, their results wait."""
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
    """SIGKILL at any moment: commits come every 0.2 s, so some results are always announced and not committed."""
    killed = kill_worker(lab, pick)
    return Fault(
        name="processor killed between event and commit", code=killed.code, target=killed.target, begin=killed.begin
    )


def kills_in_a_row(lab: Lab, count: int, pause_seconds: float = 0.2) -> Fault:
    """One processor after the other, each replaced at once."""

    def begin(entry: JournalEntry) -> None:
        moments = []
        for number in range(count):
            killed = kill_worker(lab, number)
            moments.append((killed.target, time.time()))
            killed.begin(entry)
            time.sleep(pause_seconds)
        entry.detail = {"kills": moments}

    return Fault(name="processors killed in a row", target=f"{count} kills", begin=begin)


def suspend(lab: Lab, pick: int = 0, role: str = PROCESSOR, *, seconds: float) -> Fault:
    """SIGSTOP, and SIGCONT after a while: a zombie, if that is longer than its session or lease."""
    target = _pick(lab, role, pick)
    return process_suspended(role, target, lambda number: lab.signal(target, number), seconds)


def terminate(lab: Lab, pick: int = 0) -> Fault:
    """SIGTERM amid its work; a replacement starts once it has left."""
    target = _pick(lab, PROCESSOR, pick)

    def begin(entry: JournalEntry) -> None:
        began = time.monotonic()
        lab.supervisor.stop_worker(target)
        entry.detail = {"seconds_to_leave": round(time.monotonic() - began, 3)}
        lab.scale(lab.replicas[PROCESSOR])

    return Fault(name="processor asked to leave (SIGTERM)", target=target, begin=begin)


def join_leave_join(lab: Lab) -> Fault:
    """A processor joins, leaves while the group still rebalances, and joins again; at the end it leaves."""
    count = lab.replicas[PROCESSOR]

    def begin(_entry: JournalEntry) -> None:
        lab.scale(count + 1)
        time.sleep(2.0)  # it has begun to join by then, or has just joined
        lab.scale(count)
        lab.scale(count + 1)
        lab.wait_for_group(JOIN_SECONDS)

    return Fault(name="processor joins, leaves, joins", begin=begin, undo=lambda: _ignore(lab.scale(count)))


def scale(lab: Lab, count: int) -> Fault:
    """Have so many processors from now on."""
    return Fault(name=f"scaled to {count}", begin=lambda _entry: _ignore(lab.scale(count)))


def add_partitions(lab: Lab, total: int) -> Fault:
    """More partitions for `file.create`."""
    return Fault(name="partitions added", target=f"to {total}", begin=lambda _entry: lab.add_partitions(total))


def reset_offsets(lab: Lab, target: ResetTarget, then: UnfinishedPolicy = "resubmit") -> Fault:
    """The processors stop, the group's offsets are moved as the page moves them, the processors start again."""
    count = lab.replicas[PROCESSOR]

    def begin(entry: JournalEntry) -> None:
        lab.scale(0)
        operations = bootstrap.operations(lab.settings, lab.engine)
        reset = bootstrap.offset_reset(lab.settings, lab.engine, admin=lab.admin(), operations=operations)
        wait_until(lambda: reset.refusal() is None, EMPTY_SECONDS, "the group has no members")
        plan = reset.plan(target)
        done = reset.apply(plan, target, then, "lab")
        entry.detail = {"cancelled": len(done.cancelled), "repeated": plan.repeated}

    return Fault(name="offsets reset", target=str(target), begin=begin, undo=lambda: _ignore(lab.scale(count)))


def kill_server(lab: Lab, name: str, *, seconds: float) -> Fault:
    """SIGKILL of a server, down for a while, then started again."""
    return server_killed(lab.supervisor.server(name), seconds)


def suspend_server(lab: Lab, name: str, *, seconds: float) -> Fault:
    """SIGSTOP of a server: connections stay open and nothing answers."""
    return server_suspended(lab.supervisor.server(name), seconds)


def s3_answers(lab: Lab, code: int, *, seconds: float, share: float = 1.0) -> Fault:
    """S3 answers a share of the processors' requests with 503, or with 404 for the bucket."""
    bad = FaultMode("answer", share=share, code=code)
    return Fault(
        name=f"s3 answers {code}",
        target="s3",
        seconds=seconds,
        begin=lambda _entry: lab.proxy.set_fault(bad),
        undo=lambda: lab.proxy.set_fault(None),
    )


def s3_slow(lab: Lab, *, seconds: float, delay_seconds: float) -> Fault:
    """Each request of the processors to S3 takes this much longer."""
    bad = FaultMode("slow", seconds=delay_seconds)
    return Fault(
        name="s3 slow",
        target="s3",
        seconds=seconds,
        begin=lambda _entry: lab.proxy.set_fault(bad),
        undo=lambda: lab.proxy.set_fault(None),
    )


def poison(lab: Lab) -> Fault:
    """A message that nobody can read, amid good ones."""

    def begin(entry: JournalEntry) -> None:
        publisher = KafkaPublisher(lab.settings, "poison")
        publisher.publish(lab.settings.topic_create, POISON, partition=0)
        entry.detail = {"unacknowledged": publisher.flush(FLUSH_SECONDS)}

    return Fault(name="poisonous message", target=lab.settings.topic_create, begin=begin)


def bad_headers(lab: Lab, pick: int = 0) -> Fault:
    """Records with a header name that is not UTF-8, which the Kafka client cannot read, on each topic that is read."""
    settings = lab.settings
    topics = (settings.topic_create, settings.topic_created, settings.topic_progress, settings.topic_worker_events)

    def begin(entry: JournalEntry) -> None:
        record = RawRecord(POISON, headers=[BAD_HEADER], partition=pick % lab.parameters.partitions)
        refused = sum(publish_raw(settings, topic, [record]).count(None) for topic in topics)
        entry.detail = {"unacknowledged": refused}

    return Fault(name="bad header", target=", ".join(topics), begin=begin)


def delete_requests(lab: Lab, pick: int = 0) -> Fault:
    """Requests that nobody has read are removed from one partition, as retention does while the processors stand."""
    settings, losses, target = lab.settings, lab.losses, lab.workers()

    def begin(entry: JournalEntry) -> None:
        _send(lab, target, signal.SIGSTOP)
        for _ in range(2):  # the first answer the fetches that wait at the broker, and will be read
            last = lab.load.backlog(PLANTED * lab.partitions)[-1]
            wait_until(partial(_published, lab, last), EMPTY_SECONDS, "the requests are on the topic")
        admin, topic = lab.admin(), settings.topic_create
        parts = admin.offsets(settings.offsets_group, topic)
        part = parts[pick % len(parts)]
        start = max(part.begin or 0, part.committed or 0)
        records = list(read_topic(settings, topic, [part], "lab", {(topic, part.partition): start}))
        asked = [
            (file_id, int_header(record.headers, RUN_HEADER) or 1)
            for record in records
            if (file_id := file_id_in(record.value)) is not None
        ]
        now = time.time()
        delete_records(settings, topic, {part.partition: part.end or 0})
        losses.removed.update({RecordPosition(0, record.partition, record.offset): now for record in records})
        losses.requests |= _unfinished(lab, asked)
        entry.detail = {"partition": part.partition, "removed": len(records), "before": part.end}

    return Fault(
        name="records deleted",
        target=settings.topic_create,
        begin=begin,
        undo=lambda: _send(lab, target, signal.SIGCONT),
    )


def recreate_results(lab: Lab) -> Fault:
    """The topic of results is deleted and created again while some that no sync has read are on it."""
    settings, losses, target = lab.settings, lab.losses, lab.workers()
    count = lab.replicas["sync"]

    def begin(entry: JournalEntry) -> None:
        lab.scale(0, "sync")
        read_to: dict[int, int] = {}
        results = read_results(settings, lab.admin(), read_to)
        applied = len(results)

        def gathered() -> bool:
            results.extend(read_results(settings, lab.admin(), read_to))
            return len(results) - applied >= PLANTED

        wait_until(gathered, EMPTY_SECONDS, "results come that no sync reads", every=GATHER_SECONDS)
        _send(lab, target, signal.SIGSTOP)
        time.sleep(GATHER_SECONDS)  # what they had sent reaches the broker
        results += read_results(settings, lab.admin(), read_to)
        recreate_topic(settings, settings.topic_created)
        read = _sync_positions(lab)
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

    return Fault(name="topic recreated", target=settings.topic_created, begin=begin, undo=undo)


def read_only_database(lab: Lab, *, seconds: float) -> Fault:
    """PostgreSQL turns read-only, as after a failover to a standby, and writable again."""
    return Fault(
        name="database read-only",
        target="postgres",
        seconds=seconds,
        begin=lambda _entry: turn_read_only(lab.settings),
        undo=lambda: turn_writable(lab.settings),
    )


def clock_skewed(lab: Lab, *, ahead_seconds: float, seconds: float) -> Fault:
    """A processor of its own joins and works; then its clock is this much ahead until it leaves.

    Raises RuntimeError where libfaketime is missing.
    """
    if libfaketime() is None:
        raise RuntimeError(REMEDY)

    def begin(_entry: JournalEntry) -> None:
        lab.clock.jump(0)  # librdkafka does not start with a clock that is far off
        lab.scale(1, CLOCK_SKEWED)
        time.sleep(seconds / 2)
        lab.clock.jump(ahead_seconds)
        time.sleep(seconds / 2)

    return Fault(
        name="clock skewed", target=CLOCK_SKEWED, begin=begin, undo=lambda: _ignore(lab.scale(0, CLOCK_SKEWED))
    )


def clock_jump(lab: Lab, *, ahead_seconds: float, seconds: float) -> Fault:
    """A processor of its own joins; its clock jumps ahead, then as far behind, then it leaves.

    Raises RuntimeError where libfaketime is missing.
    """
    if libfaketime() is None:
        raise RuntimeError(REMEDY)

    def begin(_entry: JournalEntry) -> None:
        lab.clock.jump(0)
        lab.scale(1, CLOCK_SKEWED)
        time.sleep(seconds / 2)  # it starts, joins and works
        lab.clock.jump(ahead_seconds)
        time.sleep(seconds / 4)
        lab.clock.jump(-ahead_seconds)
        time.sleep(seconds / 4)

    return Fault(name="clock jumps", target=CLOCK_SKEWED, begin=begin, undo=lambda: _ignore(lab.scale(0, CLOCK_SKEWED)))


def _pick(lab: Lab, role: str, pick: int) -> str:
    living = lab.workers(role)
    if not living:
        raise RuntimeError(f"no {role} lives")
    return living[pick % len(living)]


def _send(lab: Lab, workers: list[str], number: int) -> None:
    for worker in workers:
        with contextlib.suppress(KeyError):  # it has ended
            lab.signal(worker, number)


def _published(lab: Lab, last_id: int) -> bool:
    """Whether nothing up to this file waits in the outbox."""
    waiting = sa.select(sa.func.count()).select_from(OutboxRow).where(OutboxRow.file_id <= last_id)
    with lab.engine.connect() as connection:
        return connection.execute(waiting).scalar_one() == 0


def _sync_positions(lab: Lab) -> dict[int, int]:
    """How far the sync has read the results, by partition."""
    places = sa.select(SyncPosition.partition, SyncPosition.next_offset)
    with lab.engine.connect() as connection:
        rows = connection.execute(places.where(SyncPosition.topic == lab.settings.topic_created))
        return {row.partition: row.next_offset for row in rows}


def _unfinished(lab: Lab, runs: list[tuple[int, int]]) -> set[tuple[int, int]]:
    with lab.engine.connect() as connection:
        ids = set(unfinished_runs(connection, runs))
    return {(file_id, run) for file_id, run in runs if file_id in ids}


def _ignore(_value: object) -> None:
    pass
