"""Lease: one holder at a time; a silent holder is replaced, and fenced when it continues."""

import threading
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.lease import PostgresLease
from filemill.errors import NotLeader, Unavailable
from tests.contract.harness import LEASE_SECONDS, DatabaseHarness, PostgresHarness

DEADLINE_SECONDS = 10.0


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.01)


def test_only_one_of_two_processes_holds_the_lease(database: DatabaseHarness) -> None:
    first, second = database.lease("a"), database.lease("b")
    assert first.acquire()
    assert not second.acquire()
    assert first.acquire(), "the holder may acquire again"
    assert second.fencing is None


def test_a_renewal_keeps_the_fencing_token(database: DatabaseHarness) -> None:
    lease = database.lease("a")
    assert lease.acquire()
    number = lease.fencing
    assert lease.acquire()
    assert lease.fencing == number


def test_a_renewal_extends_the_expiry(database: DatabaseHarness) -> None:
    first, second = database.lease("a"), database.lease("b")
    first.acquire()
    number = first.fencing
    for _ in range(3):
        database.advance(LEASE_SECONDS * 0.6)
        assert first.acquire()
        assert first.fencing == number, "renewed, not acquired again"
        assert not second.acquire()
    database.advance(LEASE_SECONDS * 1.1)
    assert second.acquire()


def test_a_failed_acquire_does_not_extend_the_expiry(database: DatabaseHarness) -> None:
    first, second = database.lease("a"), database.lease("b")
    first.acquire()
    for _ in range(2):
        database.advance(LEASE_SECONDS * 0.4)
        assert not second.acquire()
    database.advance(LEASE_SECONDS * 0.3)
    assert second.acquire()


def test_a_silent_holder_is_replaced_with_a_greater_token(database: DatabaseHarness) -> None:
    first, second = database.lease("a"), database.lease("b")
    first.acquire()
    former = first.fencing
    database.expire()
    assert second.acquire()
    assert second.fencing is not None
    assert former is not None
    assert second.fencing > former


def test_a_replaced_holder_becomes_a_standby(database: DatabaseHarness) -> None:
    first, second = database.lease("a"), database.lease("b")
    first.acquire()
    database.expire()
    second.acquire()
    assert not first.acquire()
    assert second.acquire(), "the failed acquire changed nothing"


def test_an_expired_holder_acquires_again_with_a_greater_token(database: DatabaseHarness) -> None:
    lease = database.lease("a")
    lease.acquire()
    former = lease.fencing
    database.expire()
    assert lease.acquire()
    assert lease.fencing is not None
    assert former is not None
    assert lease.fencing > former


def test_each_takeover_has_a_greater_token(database: DatabaseHarness) -> None:
    numbers = []
    for holder in "abcab":
        lease = database.lease(holder)
        assert lease.acquire()
        numbers.append(lease.fencing or 0)
        database.expire()
    assert numbers == sorted(set(numbers))


def test_a_restarted_process_waits_for_the_expiry(database: DatabaseHarness) -> None:
    assert database.lease("a").acquire()
    again = database.lease("a")
    assert not again.acquire()
    database.expire()
    assert again.acquire()


def test_a_released_lease_is_free_at_once(database: DatabaseHarness) -> None:
    first, second = database.lease("a"), database.lease("b")
    first.acquire()
    former = first.fencing or 0
    first.release()
    assert first.fencing is None
    assert second.acquire()
    assert (second.fencing or 0) > former


def test_a_replaced_holder_cannot_release_the_lease(database: DatabaseHarness) -> None:
    first, second, third = database.lease("a"), database.lease("b"), database.lease("c")
    first.acquire()
    database.expire()
    second.acquire()
    first.release()
    assert not third.acquire()


def test_releasing_a_lease_that_is_not_held_does_nothing(database: DatabaseHarness) -> None:
    database.lease("a").release()
    holder = database.lease("b")
    assert holder.acquire()
    database.lease("c").release()
    assert not database.lease("d").acquire()


def test_leases_with_different_names_are_independent(database: DatabaseHarness) -> None:
    assert database.lease("a", "relay").acquire()
    assert database.lease("b", "sync").acquire()
    database.expire("relay")
    assert database.lease("c", "relay").acquire()


def test_concurrent_acquires_produce_one_holder(postgres: PostgresHarness) -> None:
    leases = [postgres.lease(f"holder-{number}") for number in range(8)]
    gate = threading.Barrier(len(leases))
    held: list[bool] = []

    def ask(lease: PostgresLease) -> None:
        gate.wait()
        held.append(lease.acquire())

    threads = [threading.Thread(target=ask, args=(lease,)) for lease in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(held) == [False] * 7 + [True]


def test_a_fenced_transaction_of_an_expired_holder_is_rolled_back(postgres: PostgresHarness) -> None:
    first, second = postgres.lease("a"), postgres.lease("b")
    first.acquire()
    postgres.expire()
    second.acquire()
    with pytest.raises(NotLeader), postgres.engine.begin() as connection:  # noqa: PT012 - the order is tested
        connection.execute(sa.text("INSERT INTO sync_positions VALUES ('t', 0, 7)"))
        first.fence(connection)
    with postgres.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM sync_positions")).scalar_one() == 0
    assert first.fencing is None


def test_fence_rejects_an_expired_holder_even_without_a_successor(postgres: PostgresHarness) -> None:
    lease = postgres.lease("a")
    lease.acquire()
    postgres.expire()
    with pytest.raises(NotLeader), postgres.engine.begin() as connection:
        lease.fence(connection)


def test_nobody_takes_over_between_fence_and_commit(postgres: PostgresHarness) -> None:
    first, second = postgres.lease("a"), postgres.lease("b")
    first.acquire()
    outcome: list[bool] = []
    rival = threading.Thread(target=lambda: outcome.append(second.acquire()))
    with postgres.engine.begin() as connection:
        first.fence(connection)
        rival.start()
        _eventually(lambda: _waits_for_a_lock(postgres.engine))
        assert not outcome
    rival.join(DEADLINE_SECONDS)
    assert outcome == [False]


def test_a_holder_suspended_inside_a_transaction_is_replaced(postgres: PostgresHarness) -> None:
    first, second = (PostgresLease(postgres.engine, "relay", holder, 1.0) for holder in "ab")
    first.acquire()
    began = time.monotonic()
    took_over = threading.Event()

    def stand_by() -> None:
        while not second.acquire():
            assert time.monotonic() < began + DEADLINE_SECONDS
        took_over.set()

    rival = threading.Thread(target=stand_by, daemon=True)
    with pytest.raises(Unavailable), postgres.engine.begin() as connection:  # noqa: PT012 - the holder stops in the middle
        first.fence(connection)
        connection.execute(sa.text("INSERT INTO sync_positions VALUES ('t', 0, 7)"))
        rival.start()
        assert took_over.wait(DEADLINE_SECONDS)
        connection.execute(sa.text("SELECT 1"))
    assert time.monotonic() - began < 5, "docs: a take-over within 5 s of a stop"
    with postgres.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM sync_positions")).scalar_one() == 0


def _waits_for_a_lock(engine: sa.Engine) -> bool:
    query = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with engine.connect() as connection:
        return bool(connection.execute(query).scalar_one())
