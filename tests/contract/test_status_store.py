"""StatusStore: updates in any order are applied monotonically, and atomically with the positions."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from filemill.domain.files import CurrentState, Status, StatusUpdate, supersedes
from filemill.domain.records import TopicIdentity
from filemill.domain.worker_events import EventKind, WorkerEvent
from filemill.errors import NotLeader, UnusableData
from filemill.ports import ApplyResult, ReceivedEvent, RejectedRecord, RejectionCode, StatusStore
from tests.contract.harness import DatabaseHarness, FencedLease, MemoryHarness, PostgresHarness

UNKNOWN_ID = 2**62
T0 = datetime(2026, 1, 4, 12, 0, tzinfo=UTC)


def _leader(database: DatabaseHarness, holder: str = "a") -> tuple[FencedLease, StatusStore]:
    lease = database.lease(holder, "sync")
    assert lease.acquire()
    return lease, database.store(lease)


def _progress(file_id: int, seconds: float, *, run: int | None = 1, step: int = 0) -> StatusUpdate:
    return StatusUpdate(
        file_id=file_id,
        run=run,
        status=Status.PROCESSING,
        at=T0 + timedelta(seconds=seconds),
        worker_id="w",
        partition=1,
        offset=15,
        attempt=1,
        step=step,
        steps=6,
    )


def _completed(file_id: int, seconds: float = 60, *, run: int | None = 1, worker: str | None = "w") -> StatusUpdate:
    return StatusUpdate(
        file_id=file_id,
        run=run,
        status=Status.COMPLETED,
        at=T0 + timedelta(seconds=seconds),
        s3_location=f"file-{file_id}-1.txt",
        sha256="ab" * 32,
        size=7,
        worker_id=worker,
        partition=1,
        offset=15,
        attempt=1,
        started_at=T0,
    )


def _failed(file_id: int, seconds: float = 60, *, run: int | None = 1) -> StatusUpdate:
    return StatusUpdate(file_id=file_id, run=run, status=Status.FAILED, at=T0 + timedelta(seconds=seconds), error="no")


def test_a_file_goes_from_pending_through_processing_to_completed(database: DatabaseHarness) -> None:
    (file_id,) = database.submit(["a"])
    _, store = _leader(database)
    assert store.apply([_progress(file_id, 1, step=3)], {}) == ApplyResult(1, [])
    row = database.row(file_id)
    assert (row["status"], row["step"], row["steps"], row["worker_id"]) == ("processing", 3, 6, "w")
    assert store.apply([_completed(file_id)], {}) == ApplyResult(1, [])
    row = database.row(file_id)
    assert row["status"] == "completed"
    assert (row["s3_location"], row["sha256"], row["size"]) == (f"file-{file_id}-1.txt", "ab" * 32, 7)
    assert (row["started_at"], row["finished_at"]) == (T0, T0 + timedelta(seconds=60))
    assert (row["partition"], row["offset"], row["attempt"], row["step"]) == (1, 15, 1, 6)


def test_a_value_out_of_range_rejects_the_batch(database: DatabaseHarness) -> None:
    good, bad = database.submit(["a", "b"])
    _, store = _leader(database)
    beyond = msgspec.structs.replace(_completed(bad), attempt=2**31)
    with pytest.raises(UnusableData):
        store.apply([_completed(good), beyond], {("file.created", 0): 2})
    assert database.row(good)["status"] == "pending"
    assert store.positions() == {}
    assert store.apply([_completed(good)], {}) == ApplyResult(1, [])


def test_progress_after_a_final_status_changes_nothing(database: DatabaseHarness) -> None:
    (file_id,) = database.submit(["a"])
    _, store = _leader(database)
    store.apply([_completed(file_id)], {})
    before = database.row(file_id)
    assert store.apply([_progress(file_id, 99)], {}) == ApplyResult(0, [])
    assert database.row(file_id) == before


@pytest.mark.parametrize("one_batch", [True, False])
def test_the_first_final_status_of_a_run_wins(database: DatabaseHarness, one_batch: bool) -> None:
    (file_id,) = database.submit(["a"])
    _, store = _leader(database)
    changes = [_failed(file_id, 50), _completed(file_id, 40)]
    for batch in [changes] if one_batch else [[change] for change in changes]:
        store.apply(batch, {})
    row = database.row(file_id)
    assert (row["status"], row["error"], row["finished_at"]) == ("failed", "no", T0 + timedelta(seconds=50))


def test_updates_of_a_former_run_are_ignored(database: DatabaseHarness) -> None:
    (file_id,) = database.submit(["a"])
    _, store = _leader(database)
    store.apply([_failed(file_id, run=1)], {})
    database.retry(file_id)
    store.apply([_progress(file_id, 100, run=2)], {})
    row = database.row(file_id)
    assert (row["run"], row["status"], row["error"], row["finished_at"]) == (2, "processing", None, None)
    assert store.apply([_completed(file_id, run=1)], {}) == ApplyResult(0, [])
    assert database.row(file_id) == row


def test_an_update_without_a_run_means_the_current_run(database: DatabaseHarness) -> None:
    first, second = database.submit(["a", "b"])
    _, store = _leader(database)
    store.apply([_failed(first, run=1)], {})
    database.retry(first)
    store.apply([_progress(first, 1, run=2)], {})
    store.apply([_completed(first, run=None, worker=None), _completed(second, run=None, worker=None)], {})
    rows = [database.row(first), database.row(second)]
    said = [(row["run"], row["status"], row["worker_id"]) for row in rows]
    assert said == [(2, "completed", None), (1, "completed", None)]


@pytest.mark.parametrize("one_batch", [True, False])
@pytest.mark.parametrize("run", [2, 2**31 - 1])
def test_an_update_of_a_future_run_is_rejected(database: DatabaseHarness, run: int, one_batch: bool) -> None:
    first, second = database.submit(["a", "b"])
    _, store = _leader(database)
    forged = [_failed(first, 1, run=run), _progress(second, 1, run=run, step=5)]
    honest = [_progress(first, 2, step=1), _completed(second)]
    for batch in [[*forged, *honest]] if one_batch else [forged, honest]:
        applied = store.apply(batch, {})
        if batch[0] is forged[0]:
            assert sorted(applied.rejected) == [0, 1]
            assert {one.code for one in applied.rejected.values()} == {RejectionCode.FUTURE_RUN}
            assert f"run {run} " in applied.rejected[0].reason
    rows = [database.row(first), database.row(second)]
    assert [(row["run"], row["status"], row["step"]) for row in rows] == [(1, "processing", 1), (1, "completed", None)]


@pytest.mark.parametrize("one_batch", [True, False])
def test_a_result_with_the_key_of_another_file_is_rejected(database: DatabaseHarness, one_batch: bool) -> None:
    victim, forger = database.submit(["a", "b"])
    _, store = _leader(database)
    forged = [
        msgspec.structs.replace(_completed(forger), s3_location=key)
        for key in (f"file-{victim}-1.txt", f"/file-{victim}-1.txt", f"file-{victim}-9.png", "x/../y")
    ]
    honest = [_completed(victim), _completed(forger, 99)]
    for batch in [[*forged, *honest]] if one_batch else [forged, honest]:
        applied = store.apply(batch, {})
        if batch[0] is forged[0]:
            assert sorted(applied.rejected) == [0, 1, 2, 3]
            assert {one.code for one in applied.rejected.values()} == {RejectionCode.FOREIGN_OBJECT}
            assert f"file {victim}" in applied.rejected[0].reason
    assert [database.row(one)["s3_location"] for one in (victim, forger)] == [
        f"file-{victim}-1.txt",
        f"file-{forger}-1.txt",
    ]


@pytest.mark.parametrize("one_batch", [True, False])
def test_a_foreign_key_belongs_to_the_first_file_with_it(database: DatabaseHarness, one_batch: bool) -> None:
    first, second, third = database.submit(["a", "b", "c"])
    _, store = _leader(database)

    def completed(file_id: int, key: str) -> StatusUpdate:
        return msgspec.structs.replace(_completed(file_id, run=None, worker=None), s3_location=key)

    own = completed(first, "made/1.txt")
    others = [completed(second, "made//1.txt"), completed(third, "made/3.txt")]
    if one_batch:
        assert list(store.apply([own, *others], {}).rejected) == [1]
    else:
        assert store.apply([own], {}).rejected == {}
        assert list(store.apply(others, {}).rejected) == [0]
        assert store.apply([own], {}).rejected == {}, "applied twice"
    assert [database.row(one)["s3_location"] for one in (first, second, third)] == ["made/1.txt", None, "made/3.txt"]


def test_the_later_of_two_steps_wins(database: DatabaseHarness) -> None:
    (file_id,) = database.submit(["a"])
    _, store = _leader(database)
    store.apply([_progress(file_id, 20, step=2)], {})
    store.apply([_progress(file_id, 10, step=5)], {})
    assert database.row(file_id)["step"] == 2
    store.apply([_progress(file_id, 30, step=0), _progress(file_id, 25, step=4)], {})
    assert database.row(file_id)["step"] == 0, "a new worker started from the beginning"


def test_unknown_ids_are_returned_once(database: DatabaseHarness) -> None:
    (file_id,) = database.submit(["a"])
    _, store = _leader(database)
    applied = store.apply(
        [
            _completed(UNKNOWN_ID + 1),
            _completed(file_id),
            _progress(UNKNOWN_ID, 1),
            _failed(UNKNOWN_ID, run=None),
        ],
        {("file.created", 0): 4},
    )
    assert applied == ApplyResult(1, [UNKNOWN_ID, UNKNOWN_ID + 1])
    assert database.row(file_id)["status"] == "completed"


def test_positions_are_stored_with_the_updates(database: DatabaseHarness) -> None:
    (file_id,) = database.submit(["a"])
    _, store = _leader(database)
    assert store.positions() == {}
    store.apply([_progress(file_id, 1)], {("file.created", 0): 4, ("file.progress", 2): 9})
    store.apply([], {("file.created", 0): 5})
    assert store.positions() == {("file.created", 0): 5, ("file.progress", 2): 9}


FIRST, SECOND = TopicIdentity("id-1", "cluster", 3), TopicIdentity("id-2", "cluster", 3)


def test_positions_of_a_former_topic_are_ignored(database: DatabaseHarness) -> None:
    lease, store = _leader(database)
    assert store.positions({"file.created": FIRST, "file.progress": FIRST}) == {}
    store.apply([], {("file.created", 0): 4, ("file.progress", 2): 9})
    assert store.positions({"file.created": SECOND, "file.progress": FIRST}) == {("file.progress", 2): 9}
    store.apply([], {("file.created", 1): 1})
    assert store.positions() == {("file.created", 1): 1, ("file.progress", 2): 9}
    again = database.store(lease)
    assert again.positions({"file.created": SECOND}) == {("file.created", 1): 1, ("file.progress", 2): 9}
    assert database.store(lease).positions({"file.created": TopicIdentity("id-2", "another", 3)}) == {
        ("file.progress", 2): 9
    }


def test_positions_without_a_topic_belong_to_the_first_one(database: DatabaseHarness) -> None:
    lease, store = _leader(database)
    store.apply([], {("file.created", 0): 4})
    assert database.store(lease).positions({"file.created": FIRST}) == {("file.created", 0): 4}


def test_records_of_a_recreated_topic_are_stored_separately(database: DatabaseHarness) -> None:
    _, store = _leader(database)
    for number, identity in enumerate((FIRST, SECOND), 1):
        store.positions({"file.created": identity, "worker.events": identity})
        event = WorkerEvent(kind=EventKind.STARTED, worker_id=f"w{number}", timestamp=T0)
        store.apply([], {}, [RejectedRecord("file.created", 0, 0, f"reason {number}")], [ReceivedEvent(0, 0, event)])
        store.apply([], {}, [RejectedRecord("file.created", 0, 0, "again")], [ReceivedEvent(0, 0, event)])
        assert database.events() == {(0, 0): f"w{number}"}
        assert database.rejected() == {("file.created", 0, 0): f"reason {number}"}


def test_an_empty_batch_changes_nothing(database: DatabaseHarness) -> None:
    _, store = _leader(database)
    assert store.apply([], {}) == ApplyResult(0, [])
    assert store.positions() == {}


def test_rejected_records_are_stored_once(database: DatabaseHarness) -> None:
    _, store = _leader(database)
    first, second = ("file.created", 1, 7), ("file.created", 2, 7)
    store.apply([], {("file.created", 1): 8}, [RejectedRecord(*first, "not JSON")])
    unknown = RejectedRecord(*second, "no id", RejectionCode.UNKNOWN_FILE)
    store.apply([], {}, [RejectedRecord(*first, "again"), unknown])
    assert database.rejected() == {first: "not JSON", second: "no id"}
    assert database.rejection_codes() == {first: "invalid-message", second: "unknown-file"}
    assert store.positions() == {("file.created", 1): 8}


def test_worker_events_are_stored_once(database: DatabaseHarness) -> None:
    _, store = _leader(database)
    said = [
        ReceivedEvent(0, 3, WorkerEvent(kind=EventKind.STARTED, worker_id="w1", timestamp=T0)),
        ReceivedEvent(1, 3, WorkerEvent(kind=EventKind.HEARTBEAT, worker_id="w2", timestamp=T0)),
    ]
    store.apply([], {("worker.events", 0): 4}, (), said)
    store.apply([], {}, (), said[:1])
    assert database.events() == {(0, 3): "w1", (1, 3): "w2"}


def test_a_replaced_holder_writes_nothing(database: DatabaseHarness) -> None:
    (file_id,) = database.submit(["a"])
    _, sleeper = _leader(database, "first")
    sleeper.apply([_progress(file_id, 1)], {("file.created", 0): 4})
    before = database.row(file_id)
    database.expire("sync")
    _, successor = _leader(database, "second")
    with pytest.raises(NotLeader):
        sleeper.apply(
            [_completed(file_id)],
            {("file.created", 0): 99},
            [RejectedRecord("file.created", 0, 98, "never")],
            [ReceivedEvent(0, 3, WorkerEvent(kind=EventKind.STARTED, worker_id="w1", timestamp=T0))],
        )
    assert database.row(file_id) == before
    assert successor.positions() == {("file.created", 0): 4}
    assert database.rejected() == {}
    assert database.events() == {}


def test_updates_positions_and_rejections_are_atomic(postgres: PostgresHarness) -> None:
    (file_id,) = postgres.submit(["a"])
    _, store = _leader(postgres)
    before = postgres.row(file_id)
    with pytest.raises(Exception, match="NUL"):
        store.apply([_completed(file_id)], {("file.created", 0): 4}, [RejectedRecord("file.created", 0, 3, "a\0b")])
    assert postgres.row(file_id) == before
    assert store.positions() == {}


def test_a_pending_update_changes_nothing(postgres: PostgresHarness) -> None:
    (file_id,) = postgres.submit(["a"])
    _, store = _leader(postgres)
    store.apply([_progress(file_id, 1)], {})
    store.apply([StatusUpdate(file_id=file_id, run=1, status=Status.PENDING, at=T0 + timedelta(seconds=9))], {})
    assert postgres.row(file_id)["status"] == "processing"


def _begun(file_id: int, worker: str, seconds: float, at: float | None = None) -> StatusUpdate:
    """Progress, `at` seconds after T0, of a delivery that began after `seconds`; on the worker's clock a day ago."""
    start = T0 + timedelta(seconds=seconds)
    update = _progress(file_id, seconds if at is None else at)
    stated = start - timedelta(days=1)
    return msgspec.structs.replace(update, worker_id=worker, started_at=start, stated_start=stated)


@pytest.mark.parametrize("one_batch", [True, False])
def test_each_delivery_is_stored_once_and_the_row_has_the_start_of_the_last(
    database: DatabaseHarness, one_batch: bool
) -> None:
    (file_id,) = database.submit(["a"])
    _, store = _leader(database)
    progress = [
        _begun(file_id, "a", 1),
        _begun(file_id, "a", 1, 2),
        _begun(file_id, "b", 6),
        _begun(file_id, "b", 6, 7),
    ]
    for batch in [progress] if one_batch else [[one] for one in progress]:
        store.apply(batch, {})
    day = timedelta(days=1)
    assert database.deliveries() == {
        (file_id, 1, "a", T0 + timedelta(seconds=1) - day, False),
        (file_id, 1, "b", T0 + timedelta(seconds=6) - day, False),
    }
    row = database.row(file_id)
    assert (row["worker_id"], row["started_at"]) == ("b", T0 + timedelta(seconds=6))


def test_progress_without_a_start_keeps_no_start_of_another_worker(database: DatabaseHarness) -> None:
    (file_id,) = database.submit(["a"])
    _, store = _leader(database)
    store.apply([_begun(file_id, "a", 1)], {})
    store.apply([_progress(file_id, 9, step=2)], {})  # of an older version: its worker is "w"
    assert (database.row(file_id)["worker_id"], database.row(file_id)["started_at"]) == ("w", None)


@pytest.mark.parametrize("one_batch", [True, False])
def test_a_result_after_the_end_of_its_run_is_stored_as_repeated(database: DatabaseHarness, one_batch: bool) -> None:
    file_id, cancelled = database.submit(["a", "b"])
    _, store = _leader(database)
    start = T0 - timedelta(days=1)
    results = [
        msgspec.structs.replace(_completed(file_id, seconds, worker=worker), stated_start=start)
        for seconds, worker in ((60, "a"), (70, "b"))
    ]
    late = [StatusUpdate(file_id=cancelled, run=1, status=Status.CANCELLED, at=T0), _completed(cancelled)]
    batches = [[*results, *late]] if one_batch else [[one] for one in (*results, *late)]
    assert sum(store.apply(batch, {}).changed for batch in batches) == 2
    assert database.deliveries() == {(file_id, 1, "b", start, True)}


# --- any batches in any order: the in-memory store, the SQL and the pure rule agree

_moments = st.integers(0, 6).map(lambda seconds: T0 + timedelta(seconds=seconds))


@st.composite
def _updates(draw: st.DrawFn) -> StatusUpdate:
    """An update of one of three files or of an unknown one, in one of three runs or without a run."""
    status = draw(st.sampled_from([Status.PROCESSING, Status.COMPLETED, Status.FAILED, Status.CANCELLED]))
    foreign = draw(st.booleans())
    ended = status is not Status.PROCESSING
    started_at = None if foreign else draw(st.none() | _moments)
    return StatusUpdate(
        file_id=draw(st.sampled_from([0, 0, 1, 2, UNKNOWN_ID])),
        run=draw(st.sampled_from([None, 1, 1, 2, 3])),
        status=status,
        at=draw(_moments),
        s3_location=draw(st.sampled_from(["k1", "k2"])) if status is Status.COMPLETED else None,
        sha256=draw(st.sampled_from(["h1", None])) if ended else None,
        size=draw(st.sampled_from([1, None])) if ended else None,
        worker_id=None if foreign else draw(st.sampled_from(["w1", "w2"])),
        partition=None if foreign else draw(st.integers(0, 2)),
        offset=None if foreign else draw(st.integers(0, 3)),
        attempt=None if foreign else draw(st.integers(1, 3)),
        step=None if ended else draw(st.integers(0, 6)),
        steps=None if ended else 6,
        started_at=started_at,
        stated_start=started_at,
        error=draw(st.sampled_from(["e1", "e2"])) if status is Status.FAILED else None,
    )


@pytest.fixture(scope="module")
def real(request: pytest.FixtureRequest) -> PostgresHarness:
    """One database for all examples; each example submits new files."""
    return PostgresHarness(request.getfixturevalue("contract_engine"))


@given(batches=st.lists(st.lists(_updates(), max_size=8), max_size=5))
@examples(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_fake_and_postgres_match_the_rule_for_any_batch(
    real: PostgresHarness, batches: list[list[StatusUpdate]]
) -> None:
    fake = MemoryHarness()
    real_lease = real.lease("a", "sync")
    if not real_lease.acquire():
        real.expire("sync")
        assert real_lease.acquire()
    stores: list[tuple[DatabaseHarness, StatusStore, list[int]]] = [
        (fake, _leader(fake)[1], fake.submit("abc")),
        (real, real.store(real_lease), real.submit("abc")),
    ]
    expected = [CurrentState(1, Status.PENDING)] * 3
    for number, batch in enumerate(batches):
        outcomes: list[tuple[int, list[bool], list[int], Any, Any]] = []
        for database, store, ids in stores:
            named = [_renamed(change, ids) for change in batch]
            applied = store.apply(named, {("t", 0): number})
            rows = [database.row(file_id) for file_id in ids]
            for row, file_id in zip(rows, ids, strict=True):
                row["s3_location"] = row["s3_location"] and row["s3_location"].replace(f"file-{file_id}-", "own-")
            unknown = [unknown == UNKNOWN_ID for unknown in applied.unknown_ids]
            outcomes.append((applied.changed, unknown, sorted(applied.rejected), rows, _deliveries(database, ids)))
        assert outcomes[0] == outcomes[1], "the in-memory store and Postgres differ"
        before, expected = expected, _by_the_rule(expected, batch)
        for row, state, former in zip(outcomes[1][3], expected, before, strict=True):
            assert (row["run"], row["status"]) == (state.run, state.status)
            assert (row["run"], Status(row["status"]).rank) >= (former.run, former.status.rank)
            if state.status is Status.PROCESSING:
                assert row["progress_at"] == state.progress_at
            if row["run"] == former.run and former.status.terminal:
                assert row["status"] == former.status
        expected = _retried(expected, [(database, ids) for database, _, ids in stores])


def _deliveries(database: DatabaseHarness, ids: list[int]) -> set[Any]:
    return {(ids.index(file_id), *rest) for file_id, *rest in database.deliveries() if file_id in ids}


def _retried(states: list[CurrentState], databases: list[tuple[DatabaseHarness, list[int]]]) -> list[CurrentState]:
    """Start a new run of every file that can have one."""
    over = [place for place, state in enumerate(states) if state.status in (Status.FAILED, Status.CANCELLED)]
    for database, ids in databases:
        for place in over:
            database.retry(ids[place])
    return [
        CurrentState(state.run + 1, Status.PENDING) if place in over else state for place, state in enumerate(states)
    ]


def _renamed(change: StatusUpdate, ids: list[int]) -> StatusUpdate:
    """The update with the file's real id, also in its key."""
    file_id = UNKNOWN_ID if change.file_id == UNKNOWN_ID else ids[change.file_id]
    key = change.s3_location and f"file-{file_id}-{change.s3_location}.txt"
    return msgspec.structs.replace(change, file_id=file_id, s3_location=key)


def _by_the_rule(states: list[CurrentState], batch: list[StatusUpdate]) -> list[CurrentState]:
    """Applies one update after the other; those without a run last, because they mean the current run."""
    after = list(states)
    for change in sorted(batch, key=lambda change: change.run is None):
        if change.file_id == UNKNOWN_ID:
            continue
        state = after[change.file_id]
        if supersedes(change, state):
            progress_at = change.at if change.status is Status.PROCESSING else state.progress_at
            after[change.file_id] = CurrentState(change.run or state.run, change.status, progress_at)
    return after
