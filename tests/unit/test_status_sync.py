"""Status sync: each valid event is applied once, invalid ones are recorded, and no input stops the process."""

import json
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from filemill.adapters.memory.broker import MemoryBroker
from filemill.adapters.memory.database import MemoryDatabase
from filemill.adapters.memory.lease import MemoryLease
from filemill.adapters.memory.status_store import MemoryStatusStore
from filemill.domain.files import NewFile, Status, StatusUpdate, iso_milliseconds
from filemill.domain.messages import FileCreated, FileProgress, decode_created, encode
from filemill.domain.records import Record, TopicIdentity
from filemill.domain.signatures import ResultSigner
from filemill.errors import NotLeader, Unavailable, UnusableData
from filemill.ports import ApplyResult, RejectionCode
from filemill_workers import status_sync
from filemill_workers.status_sync import StatusSync
from tests.unit.executor_harness import wait_until

CREATED, PROGRESS, EVENTS = "file.created", "file.progress", "worker.events"
T0 = datetime(2026, 1, 4, 12, 0, tzinfo=UTC)
LEASE_SECONDS = 3.0


class MemoryReader:
    """Reads all partitions of the topics from the given positions. (port: TopicReader)."""

    def __init__(self, broker: MemoryBroker, topics: Sequence[str]) -> None:
        self._broker = broker
        self._names = topics
        self.at: dict[tuple[str, int], int] = {}
        self.known: dict[str, TopicIdentity] = {}
        self.closed = False

    def identities(self) -> dict[str, TopicIdentity]:
        found = {topic: self._broker.identity(topic) for topic in self._names}
        return {topic: identity for topic, identity in found.items() if identity is not None}

    def refresh(
        self, positions: Mapping[tuple[str, int], int], identities: Mapping[str, TopicIdentity] | None = None
    ) -> None:
        found = self.identities() if identities is None else identities
        self.at = {
            place: offset
            for place, offset in self.at.items()
            if place[0] in found and self.known[place[0]].is_same_topic(found[place[0]])
        }
        self.known |= found
        for topic in self._names:
            for partition in range(self._broker.partitions(topic)):
                self.at.setdefault((topic, partition), positions.get((topic, partition), 0))

    def read(self, limit: int, seconds: float) -> list[Record]:
        del seconds
        records: list[Record] = []
        for (topic, partition), position in self.at.items():
            taken = self._broker.log(topic, partition)[position : position + limit - len(records)]
            self.at[topic, partition] += len(taken)
            records += taken
        return records

    def ends(self) -> dict[tuple[str, int], int]:
        return {place: len(self._broker.log(*place)) for place in self.at}

    def close(self) -> None:
        self.closed = True


class SyncHarness:
    def __init__(self) -> None:
        self.now = 100.0
        self.database = MemoryDatabase(clock=lambda: self.now)
        self.broker = MemoryBroker({CREATED: 2, PROGRESS: 2, EVENTS: 1})
        self.readers: list[MemoryReader] = []
        self.ids = self.database.submit([NewFile(f"file {number}") for number in range(3)])

    def sync(
        self, holder: str = "a", batch: int = 100, signer: ResultSigner | None = None, **options: float
    ) -> StatusSync:
        lease = MemoryLease(self.database, "sync", holder, LEASE_SECONDS)

        def reader() -> MemoryReader:
            self.readers.append(MemoryReader(self.broker, [CREATED, PROGRESS, EVENTS]))
            return self.readers[-1]

        return StatusSync(
            MemoryStatusStore(self.database, lease),
            lease,
            reader,
            topic_created=CREATED,
            topic_worker_events=EVENTS,
            batch=batch,
            lease_seconds=LEASE_SECONDS,
            signer=signer,
            clock=lambda: self.now,
            **{"batching_seconds": 0.0, "busy_batching_seconds": 0.0, **options},
        )

    def completed(self, file_id: int, run: int | None = 1, partition: int = 0) -> None:
        event = FileCreated(
            file_id=file_id,
            s3_location=f"file-{file_id}-1.txt",
            status="completed",
            timestamp=T0,
            run=run,
            worker_id="w",
        )
        self.broker.append(CREATED, partition, encode(event))

    def progress(self, file_id: int) -> None:
        event = FileProgress(
            file_id=file_id, run=1, worker_id="w", partition=0, offset=0, attempt=1, step=1, steps=6, timestamp=T0
        )
        self.broker.append(PROGRESS, 0, encode(event))

    def statuses(self) -> list[Status]:
        return [self.database.files[file_id].status for file_id in self.ids]


def test_events_reach_the_rows_and_the_positions() -> None:
    harness = SyncHarness()
    harness.progress(1)
    harness.completed(1)
    harness.completed(2, partition=1)
    harness.progress(3)
    assert harness.sync().step()
    assert harness.statuses() == [Status.COMPLETED, Status.COMPLETED, Status.PROCESSING]
    assert harness.database.positions == {(CREATED, 0): 1, (CREATED, 1): 1, (PROGRESS, 0): 2}


def test_a_batch_after_a_large_one_waits_longer_for_further_events(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = SyncHarness()
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        harness.now += seconds
        waited.append(seconds)
        harness.progress(2)

    monkeypatch.setattr("filemill_workers.status_sync.time.sleep", sleep)
    sync = harness.sync(batching_seconds=0.05, busy_batching_seconds=0.2)
    for events, expected in ((1, 0.05), (status_sync.BUSY_RECORDS, 0.05), (1, 0.2), (1, 0.05)):
        for _ in range(events):
            harness.progress(1)
        waited.clear()
        sync.step()
        assert sum(waited) == pytest.approx(expected)
        assert sum(harness.database.positions.values()) == len(harness.broker.log(PROGRESS, 0)), "one transaction"


def test_a_full_batch_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = SyncHarness()
    monkeypatch.setattr("filemill_workers.status_sync.time.sleep", lambda _seconds: pytest.fail("it waited"))
    sync = harness.sync(batch=10, batching_seconds=0.05)
    for _ in range(20):
        harness.progress(1)
    sync.step()
    sync.step()
    assert harness.database.positions == {(PROGRESS, 0): 20}


def test_the_next_leader_continues_at_the_stored_positions() -> None:
    harness = SyncHarness()
    harness.completed(1)
    first = harness.sync("a")
    first.step()
    first.close()
    harness.completed(2)
    second = harness.sync("b")
    second.step()
    assert harness.readers[1].at[CREATED, 0] == 2
    assert harness.statuses()[:2] == [Status.COMPLETED] * 2


def test_a_paused_leader_continues_at_the_positions_of_another_one() -> None:
    harness = SyncHarness()
    sleeper, other = harness.sync("a"), harness.sync("b")
    sleeper.step()
    harness.completed(1)
    harness.now += LEASE_SECONDS
    other.step()
    harness.completed(2)
    harness.now += LEASE_SECONDS
    sleeper.step()
    assert harness.statuses()[:2] == [Status.COMPLETED] * 2
    assert [reader.at[CREATED, 0] for reader in harness.readers] == [0, 1, 2], "each continues at the stored position"


def test_an_invalid_record_is_recorded_and_skipped() -> None:
    harness = SyncHarness()
    values: list[bytes | None] = [None, b"", b"not json", b"\xff", b'{"fileId":true}', b'{"x":' + b"[" * 100_000]
    for topic in (CREATED, PROGRESS, EVENTS):
        for value in values:
            harness.broker.append(topic, 0, value)
    harness.completed(1)
    harness.sync().step()
    assert harness.statuses()[0] is Status.COMPLETED
    assert set(harness.database.rejected) == {(topic, 0, n) for topic in (CREATED, PROGRESS, EVENTS) for n in range(6)}
    assert harness.database.positions == {(CREATED, 0): 7, (PROGRESS, 0): 6, (EVENTS, 0): 6}


def test_an_unknown_file_id_is_recorded_and_skipped() -> None:
    harness = SyncHarness()
    harness.completed(99)
    harness.completed(1)
    harness.sync().step()
    assert harness.statuses()[0] is Status.COMPLETED
    assert list(harness.database.rejected) == [(CREATED, 0, 0)]
    assert "99" in harness.database.rejected[CREATED, 0, 0]
    assert harness.database.rejection_codes == {(CREATED, 0, 0): RejectionCode.UNKNOWN_FILE}


def test_a_record_with_unreadable_headers_is_recorded_and_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = SyncHarness()
    sync = harness.sync()
    sync.step()
    harness.completed(1)
    harness.completed(2)
    (reader,) = harness.readers
    read = reader.read

    def unreadable(limit: int, seconds: float) -> list[Record]:
        first, *others = read(limit, seconds)
        return [msgspec.structs.replace(first, headers_error="headers unreadable"), *others]

    monkeypatch.setattr(reader, "read", unreadable)
    sync.step()
    assert harness.statuses()[:2] == [Status.PENDING, Status.COMPLETED]
    assert harness.database.rejected == {(CREATED, 0, 0): "headers unreadable"}
    assert harness.database.rejection_codes == {(CREATED, 0, 0): RejectionCode.HEADERS_UNREADABLE}


def test_a_value_that_the_database_refuses_does_not_affect_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = SyncHarness()
    for file_id in (1, 2, 3):
        harness.completed(file_id)
    apply = MemoryStatusStore.apply

    def refuse(store: MemoryStatusStore, changes: Sequence[StatusUpdate], *others: Any) -> ApplyResult:
        if any(change.file_id == 2 for change in changes):
            raise UnusableData("no such value")
        return apply(store, changes, *others)

    monkeypatch.setattr(MemoryStatusStore, "apply", refuse)
    harness.sync().step()
    assert harness.statuses() == [Status.COMPLETED, Status.PENDING, Status.COMPLETED]
    assert harness.database.rejected == {(CREATED, 0, 1): "the database refuses it: no such value"}
    assert harness.database.rejection_codes == {(CREATED, 0, 1): RejectionCode.UNUSABLE_DATA}
    assert harness.database.positions[CREATED, 0] == 3


def test_an_unexpected_exception_skips_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = SyncHarness()
    harness.completed(1)
    harness.broker.append(CREATED, 0, b"boom")
    harness.completed(2)

    def decode(value: bytes | None) -> FileCreated:
        return 1 // 0 if value == b"boom" else decode_created(value)  # type: ignore[return-value]

    monkeypatch.setattr(status_sync, "decode_created", decode)
    harness.sync().step()
    assert harness.statuses()[:2] == [Status.COMPLETED] * 2
    assert "ZeroDivisionError" in harness.database.rejected[CREATED, 0, 1]
    assert harness.database.rejection_codes == {(CREATED, 0, 1): RejectionCode.NOT_INTERPRETED}


def test_worker_events_are_stored() -> None:
    harness = SyncHarness()
    harness.broker.append(EVENTS, 0, b'{"kind":"started","workerId":"w1","timestamp":"2026-01-04T12:00:00Z"}')
    harness.sync().step()
    assert harness.database.events[0, 0].worker_id == "w1"


def test_records_are_kept_during_a_postgres_outage_and_applied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    harness = SyncHarness()
    sync = harness.sync()
    sync.step()
    harness.completed(1)
    (reader,) = harness.readers
    read = reader.read

    def read_and_lose_postgres(limit: int, seconds: float) -> list[Record]:
        records = read(limit, seconds)
        harness.database.outage = "Postgres is unreachable"
        return records

    monkeypatch.setattr(reader, "read", read_and_lose_postgres)
    for _ in range(3):
        with pytest.raises(Unavailable):
            sync.step()
    monkeypatch.setattr(reader, "read", read)
    harness.database.outage = None
    harness.completed(2)
    sync.step()
    sync.step()
    assert harness.statuses()[:2] == [Status.COMPLETED] * 2
    assert harness.database.positions[CREATED, 0] == 2


def test_a_standby_reads_nothing() -> None:
    harness = SyncHarness()
    active, standby = harness.sync("a"), harness.sync("b")
    active.step()
    harness.completed(1)
    assert not standby.step()
    assert len(harness.readers) == 1
    assert harness.statuses()[0] is Status.PENDING


def test_an_expired_leader_is_rejected_and_the_next_one_reads_the_records_again() -> None:
    harness = SyncHarness()
    sleeper, successor = harness.sync("a"), harness.sync("b")
    sleeper.step()
    harness.completed(1)
    harness.database.leases["sync"].expires_at = harness.now
    assert successor.step()
    before = dict(harness.database.positions)
    with pytest.raises(NotLeader):
        sleeper.step()
    assert harness.database.positions == before
    sleeper.become_standby()
    assert harness.readers[0].closed
    assert not sleeper.step()


def test_records_of_a_former_leader_do_not_move_the_positions_back() -> None:
    harness = SyncHarness()
    sleeper, successor = harness.sync("a"), harness.sync("b")
    sleeper.step()
    harness.completed(1)
    harness.database.leases["sync"].expires_at = harness.now
    successor.step()
    with pytest.raises(NotLeader):
        sleeper.step()
    sleeper.become_standby()  # as `run` does
    harness.completed(2)
    successor.step()
    successor.close()
    assert sleeper.step()
    assert harness.database.positions[CREATED, 0] == 2
    assert harness.readers[-1].at[CREATED, 0] == 2


def test_an_idle_sync_keeps_its_lease() -> None:
    harness = SyncHarness()
    active, standby = harness.sync("a"), harness.sync("b")
    for _ in range(20):
        assert active.step()
        assert not standby.step()
        harness.now += LEASE_SECONDS / 3


def test_added_partitions_are_read_soon() -> None:
    harness = SyncHarness()
    sync = harness.sync()
    sync.step()
    harness.broker.add_partitions(CREATED, 3)
    harness.completed(1, partition=2)
    harness.now += status_sync.REFRESH_SECONDS
    sync.step()
    assert harness.statuses()[0] is Status.COMPLETED


def test_a_topic_that_was_recreated_while_no_sync_ran_is_read_from_its_beginning() -> None:
    harness = SyncHarness()
    first = harness.sync()
    first.step()
    for _ in range(5):
        harness.progress(3)
        harness.completed(3)
    first.step()
    first.close()
    assert harness.database.positions[CREATED, 0] == 5
    harness.broker.recreate(CREATED, 2)
    for _ in range(6):
        harness.completed(1)
    harness.sync("b").step()
    assert harness.statuses()[0] is Status.COMPLETED
    assert harness.database.positions == {(CREATED, 0): 6, (PROGRESS, 0): 5}


def test_a_topic_that_is_recreated_under_a_sync_is_read_from_its_beginning() -> None:
    harness = SyncHarness()
    sync = harness.sync()
    for _ in range(5):
        harness.completed(3)
    sync.step()
    harness.broker.recreate(CREATED, 2)
    harness.completed(1)
    harness.now += status_sync.REFRESH_SECONDS
    sync.step()
    assert harness.statuses()[0] is Status.COMPLETED
    assert harness.database.positions == {(CREATED, 0): 1}


def test_positions_of_delayed_records_belong_to_the_topic_that_they_were_read_from() -> None:
    harness = SyncHarness()
    sync = harness.sync()
    sync.step()
    for _ in range(5):
        harness.completed(3)
    apply, calls = MemoryStatusStore.apply, []

    def failing(self: MemoryStatusStore, *given: Any, **named: Any) -> ApplyResult:
        calls.append(1)
        if len(calls) <= 4:
            raise Unavailable("Postgres is unreachable")
        return apply(self, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemoryStatusStore, "apply", failing)
        for _ in range(4):
            with pytest.raises(Unavailable):
                sync.step()
            harness.now += LEASE_SECONDS / 3  # it keeps its lease, and would look at the topics
            if len(calls) == 1:
                harness.broker.recreate(CREATED, 2)
                harness.completed(1)
        for _ in range(2):
            sync.step()
        harness.now += status_sync.REFRESH_SECONDS
        sync.step()
    assert harness.statuses() == [Status.COMPLETED, Status.PENDING, Status.COMPLETED]
    assert harness.database.positions == {(CREATED, 0): 1}


def test_a_batch_has_a_maximum_size() -> None:
    harness = SyncHarness()
    for _ in range(10):
        harness.progress(1)
    sync = harness.sync(batch=4)
    sync.step()
    assert harness.database.positions == {(PROGRESS, 0): 4}


def test_a_running_sync_survives_outages_and_stops_cleanly() -> None:
    harness = SyncHarness()
    sync = harness.sync()
    harness.database.outage = "Postgres is unreachable"
    stop = threading.Event()
    thread = threading.Thread(target=sync.run, args=(stop,), daemon=True)
    thread.start()
    try:
        wait_until(lambda: "unreachable" in sync.state)
        harness.database.outage = None
        harness.completed(1)
        wait_until(lambda: harness.statuses()[0] is Status.COMPLETED)
    finally:
        stop.set()
        thread.join(20)
    assert not thread.is_alive()
    assert harness.readers[-1].closed
    assert MemoryLease(harness.database, "sync", "b", LEASE_SECONDS).acquire()


@pytest.mark.parametrize("hours", [6, -6])
def test_a_wrong_worker_clock_affects_only_the_recorded_skew(hours: int) -> None:
    harness = SyncHarness()
    claim = datetime.now(UTC) + timedelta(hours=hours)
    result = FileCreated(
        file_id=1,
        s3_location="file-1-1.txt",
        status="completed",
        timestamp=claim,
        started_at=claim - timedelta(seconds=7),
        worker_id="w",
    )
    harness.broker.append(CREATED, 0, encode(result))
    beat = {"kind": "heartbeat", "workerId": "w", "timestamp": iso_milliseconds(claim), "skewSeconds": 0}
    harness.broker.append(EVENTS, 0, json.dumps(beat).encode())
    before = datetime.now(UTC) - timedelta(seconds=1)
    assert harness.sync().step()
    row = harness.database.files[1]
    assert row.finished_at is not None
    assert row.started_at is not None
    assert before < row.finished_at <= datetime.now(UTC)
    assert row.finished_at - row.started_at == timedelta(seconds=7)
    event = harness.database.events[0, 0]
    assert before < event.timestamp <= datetime.now(UTC)
    assert event.skew_seconds == pytest.approx(hours * 3600, abs=5)


@pytest.mark.parametrize("begin", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_an_impossible_start_time_does_not_fail_the_batch(begin: str) -> None:
    harness = SyncHarness()
    result = {"fileId": 1, "s3Location": "x", "status": "completed", "timestamp": "2026-01-04T12:00:00Z"}
    harness.broker.append(CREATED, 0, json.dumps({**result, "startedAt": begin}).encode())
    assert harness.sync().step()
    row = harness.database.files[1]
    assert row.finished_at is not None
    assert row.started_at is not None
    assert timedelta(0) <= row.finished_at - row.started_at <= timedelta(days=30)
