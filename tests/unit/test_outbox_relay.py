"""The relay: each request is published with its number on its partition, whatever crashes in between."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from filemill.adapters.memory.broker import MemoryBroker
from filemill.adapters.memory.database import MemoryDatabase
from filemill.adapters.memory.lease import MemoryLease
from filemill.adapters.memory.outbox import MemoryOutbox
from filemill.adapters.memory.publisher import MemoryPublisher
from filemill.domain.files import NewFile
from filemill.domain.messages import (
    RUN_HEADER,
    SEQUENCE_HEADER,
    TRACEPARENT_HEADER,
    header,
    int_header,
    valid_traceparent,
)
from filemill.domain.partitioning import Placement, cycle_breaks
from filemill.errors import Unavailable
from filemill.ports import ClaimedRow, Outbox, PublishedRow
from filemill_workers import outbox_relay
from filemill_workers.outbox_relay import OutboxRelay

TOPIC = "file.create"
LEASE_SECONDS = 3.0
BATCH = 4


class RelayHarness:
    """A database, a broker of three partitions, a clock that the test moves, and relays on them."""

    def __init__(self) -> None:
        self.now = 100.0
        self.database = MemoryDatabase(clock=lambda: self.now)
        self.broker = MemoryBroker({TOPIC: 3})

    def relay(
        self,
        holder: str = "a",
        *,
        queue_records: int = 1000,
        outbox: Callable[[MemoryDatabase, MemoryLease], Outbox] = MemoryOutbox,
        submit: outbox_relay.Submit = outbox_relay.run_inline,
    ) -> OutboxRelay:
        lease = MemoryLease(self.database, "relay", holder, LEASE_SECONDS)
        return OutboxRelay(
            outbox(self.database, lease),
            lease,
            MemoryPublisher(self.broker, queue_records),
            topic=TOPIC,
            identity=lambda: self.broker.identity(TOPIC),
            batch=BATCH,
            lease_seconds=LEASE_SECONDS,
            clock=lambda: self.now,
            submit=submit,
        )

    def submit(self, count: int) -> list[int]:
        return self.database.submit([NewFile(f"file {number}", "d") for number in range(count)])

    def placements(self) -> list[tuple[int, int]]:
        """Sequence number and partition of each record, by number, including repeated ones."""
        return sorted(
            (int_header(record.headers, SEQUENCE_HEADER) or 0, record.partition)
            for record in self.broker.records(TOPIC)
        )

    def distinct_placements(self) -> list[Placement]:
        return [Placement(number, partition) for number, partition in sorted(set(self.placements()))]


def _until_idle(*relays: OutboxRelay) -> None:
    for _ in range(200):
        if not sum(relay.step() for relay in relays):
            return
    pytest.fail("the relay did not become idle")


def _cycle(first: int, last: int) -> list[tuple[int, int]]:
    return [(number, (number - 1) % 3) for number in range(first, last + 1)]


def test_requests_are_published_in_strict_round_robin() -> None:
    harness = RelayHarness()
    harness.submit(10)
    _until_idle(harness.relay())
    assert harness.placements() == _cycle(1, 10)
    assert harness.database.outbox == {}
    assert sorted(harness.database.publications) == list(range(1, 11))


def test_a_record_is_the_reference_message_with_sequence_run_and_trace_headers() -> None:
    harness = RelayHarness()
    (file_id,) = harness.submit(1)
    _until_idle(harness.relay())
    (record,) = harness.broker.records(TOPIC)
    assert set(json.loads(record.value or b"")) == {"fileId", "title", "description", "timestamp"}
    assert json.loads(record.value or b"")["fileId"] == file_id
    assert int_header(record.headers, SEQUENCE_HEADER) == 1
    assert int_header(record.headers, RUN_HEADER) == 1
    assert valid_traceparent(header(record.headers, TRACEPARENT_HEADER))


def test_each_partition_has_its_numbers_in_ascending_order() -> None:
    harness = RelayHarness()
    harness.submit(25)
    _until_idle(harness.relay())
    for partition in range(3):
        numbers = [int_header(record.headers, SEQUENCE_HEADER) for record in harness.broker.log(TOPIC, partition)]
        assert numbers == sorted(numbers, key=lambda number: number or 0)


def test_the_cycle_continues_after_a_restart() -> None:
    harness = RelayHarness()
    harness.submit(4)
    first = harness.relay("a")
    _until_idle(first)
    first.close()
    harness.submit(4)
    _until_idle(harness.relay("b"))
    assert harness.placements() == _cycle(1, 8)


def test_a_crash_between_numbering_and_producing_loses_nothing() -> None:
    harness = RelayHarness()
    harness.submit(5)
    lease = MemoryLease(harness.database, "relay", "a", LEASE_SECONDS)
    lease.acquire()
    MemoryOutbox(harness.database, lease).claim(5, 3)  # … and here it dies
    harness.now += LEASE_SECONDS
    harness.submit(2)
    _until_idle(harness.relay("b"))
    assert harness.placements() == _cycle(1, 7)


def test_a_crash_between_producing_and_deleting_repeats_number_and_partition() -> None:
    harness = RelayHarness()
    harness.submit(4)
    first = harness.relay("a", submit=Later())
    first.step()  # the broker has the records; it crashes before the rows are marked as published
    assert harness.placements() == _cycle(1, 4)
    harness.now += LEASE_SECONDS
    harness.broker.add_partitions(TOPIC, 5)
    harness.submit(1)
    _until_idle(harness.relay("b"))
    assert harness.placements() == sorted(_cycle(1, 4) * 2 + [(5, 4)])
    assert sorted(harness.database.publications) == [1, 2, 3, 4, 5]


def test_a_refused_delivery_is_repeated_with_its_number_and_partition() -> None:
    harness = RelayHarness()
    harness.submit(3)
    relay = harness.relay()
    harness.broker.reject_reason = "Broker: Not enough in-sync replicas"
    for _ in range(5):
        relay.step()
    assert harness.placements() == []
    assert "Not enough in-sync replicas" in (relay.problem or "")
    harness.submit(3)
    harness.broker.reject_reason = None
    _until_idle(relay)
    assert harness.placements() == _cycle(1, 6)
    assert relay.state == "active"


@pytest.mark.parametrize("queue_records", [1, 2, 3])
def test_a_full_queue_loses_and_repeats_no_request(queue_records: int) -> None:
    harness = RelayHarness()
    harness.submit(30)
    _until_idle(harness.relay(queue_records=queue_records))
    assert harness.placements() == _cycle(1, 30)


@pytest.mark.parametrize("queue_records", [2, 1000])
def test_the_number_of_claimed_requests_is_limited_during_an_outage(queue_records: int) -> None:
    harness = RelayHarness()
    harness.submit(100)
    relay = harness.relay(queue_records=queue_records)
    relay.step()
    harness.broker.outage = "Kafka is unreachable"
    for _ in range(50):
        relay.step()
    numbered = [row for row in harness.database.outbox.values() if row.sequence is not None]
    assert len(numbered) <= BATCH * (outbox_relay.IN_FLIGHT_BATCHES + 1)
    harness.broker.outage = None
    _until_idle(relay)
    assert harness.placements() == _cycle(1, 100)


def test_nothing_is_numbered_before_the_partitions_are_known() -> None:
    harness = RelayHarness()
    harness.submit(2)
    relay = harness.relay()
    harness.broker.outage = "Kafka is unreachable"
    with pytest.raises(Unavailable, match="Kafka is unreachable"):
        relay.step()
    assert [row.sequence for row in harness.database.outbox.values()] == [None, None]


def test_a_missing_topic_says_what_to_do() -> None:
    harness = RelayHarness()
    harness.broker = MemoryBroker({})
    harness.submit(1)
    with pytest.raises(Unavailable, match="filemill topics create"):
        harness.relay().step()


def test_added_partitions_join_the_cycle() -> None:
    harness = RelayHarness()
    relay = harness.relay()
    harness.submit(4)
    _until_idle(relay)
    harness.broker.add_partitions(TOPIC, 5)
    harness.now += outbox_relay.PARTITIONS_REFRESH_SECONDS
    harness.submit(6)
    _until_idle(relay)
    assert harness.placements() == [*_cycle(1, 4), (5, 4), (6, 0), (7, 1), (8, 2), (9, 3), (10, 4)]
    assert cycle_breaks(harness.distinct_placements(), 5) == []


def test_a_standby_publishes_nothing() -> None:
    harness = RelayHarness()
    active, standby = harness.relay("a"), harness.relay("b")
    assert not active.step()
    harness.submit(3)
    for _ in range(5):
        assert not standby.step()
    assert standby.state == "standby"
    assert harness.placements() == []
    _until_idle(active)
    assert harness.placements() == _cycle(1, 3)


def test_a_paused_relay_is_replaced_and_becomes_standby() -> None:
    harness = RelayHarness()
    sleeper, successor = harness.relay("a"), harness.relay("b")
    harness.submit(2)
    _until_idle(sleeper)
    harness.now += LEASE_SECONDS
    harness.submit(2)
    _until_idle(successor)
    harness.submit(2)
    assert not sleeper.step()
    assert sleeper.state == "standby"
    _until_idle(successor)
    assert harness.placements() == _cycle(1, 6)


def test_a_claim_without_the_lease_is_rejected() -> None:
    """By its own clock the relay still holds the lease, by the database's clock it does not."""
    harness = RelayHarness()
    sleeper, successor = harness.relay("a"), harness.relay("b")
    sleeper.step()
    harness.database.leases["relay"].expires_at = harness.now
    successor.step()
    harness.submit(3)
    assert not sleeper.step()
    assert sleeper.state == "standby"
    assert [row.sequence for row in harness.database.outbox.values()] == [None] * 3
    _until_idle(successor)
    assert harness.placements() == _cycle(1, 3)


def test_an_active_relay_keeps_its_lease_while_it_is_idle() -> None:
    harness = RelayHarness()
    active, standby = harness.relay("a"), harness.relay("b")
    for _ in range(20):
        active.step()
        standby.step()
        harness.now += LEASE_SECONDS / 3
    assert (active.state, standby.state) == ("active", "standby")


def test_records_in_flight_are_not_repeated_when_the_lease_is_regained() -> None:
    harness = RelayHarness()
    relay = harness.relay("a")
    relay.step()
    harness.submit(3)
    harness.broker.outage = "Kafka is unreachable"
    relay.step()
    harness.now += LEASE_SECONDS
    other = MemoryLease(harness.database, "relay", "b", LEASE_SECONDS)
    assert other.acquire()
    assert not relay.step()
    other.release()
    harness.broker.outage = None
    _until_idle(relay)
    assert harness.placements() == _cycle(1, 3)


def test_rows_acknowledged_during_a_postgres_outage_are_marked_later_and_not_repeated() -> None:
    harness = RelayHarness()
    harness.submit(3)
    relay = harness.relay()
    relay.step()
    assert harness.database.publications == {}
    harness.database.outage = "Postgres is unreachable"
    for seconds in (0, LEASE_SECONDS):
        harness.now += seconds
        with pytest.raises(Unavailable):
            relay.step()
    harness.database.outage = None
    _until_idle(relay)
    assert harness.placements() == _cycle(1, 3)
    assert harness.database.outbox == {}


class _LostAnswer(MemoryOutbox):
    """Postgres commits the claim, and the response is lost."""

    failures = 1

    def claim(self, limit: int, partitions: int, generation: int = 1) -> list[ClaimedRow]:
        rows = super().claim(limit, partitions, generation)
        if rows and self.failures:
            self.failures -= 1
            raise Unavailable("the connection broke")
        return rows


def test_rows_of_a_claim_whose_response_was_lost_are_produced() -> None:
    harness = RelayHarness()
    harness.submit(6)
    relay = harness.relay(outbox=_LostAnswer)
    with pytest.raises(Unavailable):
        relay.step()
    _until_idle(relay)
    assert harness.placements() == _cycle(1, 6)
    assert harness.database.outbox == {}


class _BreaksInheriting(MemoryOutbox):
    """Postgres fails after the first page of unpublished rows."""

    calls = 0

    def unpublished(self, limit: int, after: int = 0) -> list[ClaimedRow]:
        self.calls += 1
        if self.calls == 2:
            raise Unavailable("the connection broke")
        return super().unpublished(limit, after)


def test_an_interrupted_recovery_is_repeated() -> None:
    harness = RelayHarness()
    harness.submit(BATCH * 3)
    lease = MemoryLease(harness.database, "relay", "a", LEASE_SECONDS)
    lease.acquire()
    MemoryOutbox(harness.database, lease).claim(BATCH * 3, 3)
    lease.release()
    successor = harness.relay("b", outbox=_BreaksInheriting)
    with pytest.raises(Unavailable):
        successor.step()
    _until_idle(successor)
    assert harness.placements() == _cycle(1, BATCH * 3)
    assert harness.database.outbox == {}


def test_closing_marks_all_acknowledged_rows_and_releases_the_lease() -> None:
    harness = RelayHarness()
    relay = harness.relay("a")
    relay.step()
    harness.submit(BATCH * 3)
    harness.broker.outage = "Kafka is unreachable"
    for _ in range(3):
        harness.now += outbox_relay.CLAIM_SECONDS
        relay.step()
    harness.broker.outage = None
    relay.close()
    assert harness.placements() == _cycle(1, BATCH * 3)
    assert harness.database.outbox == {}, "otherwise the next leader would repeat the records"
    assert MemoryLease(harness.database, "relay", "b", LEASE_SECONDS).acquire()


def test_closing_during_a_postgres_outage_raises_nothing() -> None:
    harness = RelayHarness()
    harness.submit(1)
    relay = harness.relay()
    relay.step()
    assert harness.placements() == [(1, 0)]
    harness.database.outage = "Postgres is unreachable"
    relay.close()
    harness.database.outage = None
    harness.now += LEASE_SECONDS
    _until_idle(harness.relay("b"))
    assert harness.placements() == [(1, 0), (1, 0)]


class Later:
    """Runs the calls when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], None], Future[None]]] = []

    def __call__(self, call: Callable[[], None]) -> Future[None]:
        future: Future[None] = Future()
        self.waiting.append((call, future))
        return future

    def run(self) -> None:
        call, future = self.waiting.pop()
        try:
            call()
        except Unavailable as error:
            future.set_exception(error)
        else:
            future.set_result(None)


def test_production_continues_up_to_a_limit_while_rows_are_marked() -> None:
    harness, later = RelayHarness(), Later()
    harness.submit(100)
    relay = harness.relay(submit=later)
    for _ in range(50):
        assert relay.step(), "there is more to do"
    assert len(later.waiting) == 1, "one at a time"
    assert harness.placements() == _cycle(1, BATCH * outbox_relay.IN_FLIGHT_BATCHES)
    assert harness.database.publications == {}
    for _ in range(200):
        if later.waiting:
            later.run()
        relay.step()
    assert harness.placements() == _cycle(1, 100)
    assert harness.database.outbox == {}


def test_the_outbox_is_claimed_at_most_once_per_interval_while_records_are_in_flight() -> None:
    harness, later = RelayHarness(), Later()
    relay = harness.relay(submit=later)
    harness.submit(1)
    relay.step()
    harness.submit(1)
    for _ in range(5):
        relay.step()
    assert harness.placements() == _cycle(1, 1)
    harness.now += outbox_relay.CLAIM_SECONDS
    relay.step()
    assert harness.placements() == _cycle(1, 2)
    for _ in range(5):
        if later.waiting:
            later.run()
        relay.step()
    assert harness.database.outbox == {}
    harness.submit(1)
    relay.step()
    assert harness.placements() == _cycle(1, 3), "at once if nothing is in flight"


def test_rows_whose_marking_failed_are_marked_later_and_not_repeated() -> None:
    harness, later = RelayHarness(), Later()
    harness.submit(BATCH)
    relay = harness.relay(submit=later)
    while not later.waiting:
        relay.step()
    harness.database.outage = "Postgres is unreachable"
    later.run()
    with pytest.raises(Unavailable):
        relay.step()
    harness.database.outage = None
    harness.now += LEASE_SECONDS  # it looks for numbered rows again, as any new leader
    failures = 0
    for _ in range(20):
        try:
            relay.step()
        except Unavailable:
            failures += 1
        if later.waiting:
            later.run()
    assert failures <= 1, "the error of the failed call"
    assert harness.placements() == _cycle(1, BATCH)
    assert harness.database.outbox == {}


def test_a_paused_leader_finds_rows_that_another_leader_numbered() -> None:
    harness = RelayHarness()
    sleeper = harness.relay("a")
    sleeper.step()
    harness.submit(1)
    harness.now += LEASE_SECONDS
    other = MemoryLease(harness.database, "relay", "b", LEASE_SECONDS)
    assert other.acquire()
    assert MemoryOutbox(harness.database, other).claim(BATCH, 3), "numbered, and then it crashes"
    harness.now += LEASE_SECONDS
    _until_idle(sleeper)
    assert harness.placements() == _cycle(1, 1)
    assert harness.database.outbox == {}


def test_two_relays_record_one_publication_of_a_row() -> None:
    harness = RelayHarness()
    harness.submit(1)
    later = Later()
    first = harness.relay("a", submit=later)
    while not later.waiting:
        first.step()
    harness.now += LEASE_SECONDS
    _until_idle(harness.relay("b"))
    later.run()
    assert len(harness.database.publications) == 1


def test_requests_of_a_recreated_topic_get_new_numbers_and_block_no_others() -> None:
    harness = RelayHarness()
    harness.broker.recreate(TOPIC, 6)
    harness.submit(6)
    harness.broker.reject_reason = "no leader"
    relay = harness.relay()
    for _ in range(3):
        relay.step()
    numbered = sorted(row.sequence for row in harness.database.outbox.values() if row.sequence)
    assert numbered == [1, 2, 3, 4], "a batch was numbered for six partitions, and refused"
    harness.broker.reject_reason = None
    harness.broker.recreate(TOPIC, 3)
    harness.submit(3)
    harness.now += outbox_relay.PARTITIONS_REFRESH_SECONDS
    _until_idle(relay)
    assert harness.placements() == _cycle(5, 13)
    assert sorted(harness.database.discarded_sequences) == [1, 2, 3, 4]
    assert {row.claimed.generation for row in harness.database.publications.values()} == {2}
    assert harness.database.outbox == {}


def test_the_next_leader_assigns_new_numbers_if_the_topic_was_recreated() -> None:
    harness = RelayHarness()
    harness.submit(5)
    lease = MemoryLease(harness.database, "relay", "a", LEASE_SECONDS)
    lease.acquire()
    outbox = MemoryOutbox(harness.database, lease)
    identity = harness.broker.identity(TOPIC)
    assert identity is not None
    outbox.claim(5, 3, outbox.topic_generation(TOPIC, identity))  # … and here it dies
    harness.broker.recreate(TOPIC, 2)
    harness.now += LEASE_SECONDS
    _until_idle(harness.relay("b"))
    assert [number for number, _ in harness.placements()] == [6, 7, 8, 9, 10]
    assert {partition for _, partition in harness.placements()} == {0, 1}


def test_added_partitions_do_not_change_the_topic_generation() -> None:
    harness = RelayHarness()
    harness.submit(4)
    relay = harness.relay()
    harness.broker.reject_reason = "no leader"
    relay.step()
    harness.broker.reject_reason = None
    harness.broker.add_partitions(TOPIC, 5)
    harness.now += outbox_relay.PARTITIONS_REFRESH_SECONDS
    _until_idle(relay)
    assert harness.placements() == _cycle(1, 4)
    assert harness.database.discarded_sequences == {}


def test_a_running_relay_is_woken_after_a_commit_and_survives_outages() -> None:
    # Without a wake it would sleep for longer than the test.
    intervals = outbox_relay.RelayIntervals(idle_min=60.0, idle_max=60.0, backoff_max=60.0)
    harness = RelayHarness()
    harness.database.clock = time.monotonic
    lease = MemoryLease(harness.database, "relay", "a", LEASE_SECONDS)
    publisher = MemoryPublisher(harness.broker)
    relay = OutboxRelay(
        MemoryOutbox(harness.database, lease),
        lease,
        publisher,
        topic=TOPIC,
        identity=lambda: harness.broker.identity(TOPIC),
        batch=BATCH,
        lease_seconds=LEASE_SECONDS,
        intervals=intervals,
    )
    stop = threading.Event()
    thread = threading.Thread(target=relay.run, args=(stop,), daemon=True)
    harness.database.outage = "Postgres is unreachable"
    thread.start()
    try:
        _wait(lambda: "Postgres is unreachable" in (relay.problem or ""))
        harness.database.outage = None
        relay.wake()
        _wait(lambda: relay.state == "active")
        harness.submit(5)
        relay.wake()
        _wait(lambda: harness.placements() == _cycle(1, 5))
        _wait(lambda: not harness.database.outbox)
    finally:
        stop.set()
        relay.wake()
        thread.join(20)
    assert not thread.is_alive()
    assert MemoryLease(harness.database, "relay", "b", LEASE_SECONDS).acquire()


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.002)


# --- anything, in any order


class _Unreliable(MemoryOutbox):
    """Loses the response to a call now and then."""

    lose_next = False

    def claim(self, limit: int, partitions: int, generation: int = 1) -> list[ClaimedRow]:
        rows = super().claim(limit, partitions, generation)
        self._answer()
        return rows

    def discard_sequences(self, rows: Sequence[ClaimedRow]) -> int:
        count = super().discard_sequences(rows)
        self._answer()
        return count

    def mark_published(self, published: Sequence[PublishedRow]) -> None:
        super().mark_published(published)
        self._answer()

    def _answer(self) -> None:
        if _Unreliable.lose_next:
            _Unreliable.lose_next = False
            raise Unavailable("the answer was lost")


class Relays(RuleBasedStateMachine):
    """Two relays that crash, pause and lose their servers while requests are submitted."""

    @initialize()
    def begin(self) -> None:
        _Unreliable.lose_next = False
        self.harness = RelayHarness()
        self.relays = [self._relay(0), self._relay(1)]
        self.gone: set[int] = set()  # numbers on topics that were deleted
        self.before = 0  # numbers up to here were given for one of those

    def _relay(self, number: int) -> OutboxRelay:
        return self.harness.relay(f"relay-{number}", queue_records=7, outbox=_Unreliable)

    @rule(count=st.integers(1, 9))
    def submit(self, count: int) -> None:
        if self.harness.database.outage is None:
            self.harness.submit(count)

    @rule(number=st.integers(0, 1), steps=st.integers(1, 3))
    def step(self, number: int, steps: int) -> None:
        for _ in range(steps):
            try:
                self.relays[number].step()
            except Unavailable:
                return

    @rule(number=st.integers(0, 1))
    def crash(self, number: int) -> None:
        self.relays[number] = self._relay(number)

    @rule(number=st.integers(0, 1))
    def leave(self, number: int) -> None:
        try:
            self.relays[number].close()
        finally:
            self.relays[number] = self._relay(number)

    @rule(seconds=st.sampled_from([0.5, 1.5, LEASE_SECONDS]))
    def time_passes(self, seconds: float) -> None:
        self.harness.now += seconds

    @rule(unreachable=st.booleans())
    def kafka(self, unreachable: bool) -> None:
        self.harness.broker.outage = "Kafka is unreachable" if unreachable else None

    @rule(refuses=st.booleans())
    def replicas(self, refuses: bool) -> None:
        self.harness.broker.reject_reason = "refused" if refuses else None

    @rule(unreachable=st.booleans())
    def postgres(self, unreachable: bool) -> None:
        self.harness.database.outage = "Postgres is unreachable" if unreachable else None

    @rule()
    def lose_a_response(self) -> None:
        _Unreliable.lose_next = True

    @precondition(lambda self: self.harness.broker.partitions(TOPIC) < 6)
    @rule()
    def add_a_partition(self) -> None:
        self.harness.broker.add_partitions(TOPIC, self.harness.broker.partitions(TOPIC) + 1)

    @precondition(lambda self: self.before < self.harness.database.next_sequence - 1)
    @rule(partitions=st.integers(1, 6))
    def recreate_the_topic(self, partitions: int) -> None:
        self.gone |= {number for number, _ in self.harness.placements()}
        self.before = self.harness.database.next_sequence - 1
        self.harness.broker.recreate(TOPIC, partitions)

    @invariant()
    def a_number_has_one_partition_and_one_file(self) -> None:
        seen: dict[int, tuple[int, bytes | None]] = {}
        for record in self.harness.broker.records(TOPIC):
            number = int_header(record.headers, SEQUENCE_HEADER) or 0
            assert seen.setdefault(number, (record.partition, record.value)) == (record.partition, record.value)

    @invariant()
    def every_published_row_is_on_kafka(self) -> None:
        published = self.gone | {number for number, _ in self.harness.placements()}
        assert set(self.harness.database.publications) <= published
        waiting = {row.file_id for row in self.harness.database.outbox.values()}
        settled = {row.claimed.file_id for row in self.harness.database.publications.values()}
        assert waiting | settled == set(self.harness.database.files)
        assert not waiting & settled

    def teardown(self) -> None:
        """When all servers are reachable again, every request is published in the cycle."""
        if not hasattr(self, "harness"):
            return
        _Unreliable.lose_next = False
        self.harness.database.outage = self.harness.broker.outage = self.harness.broker.reject_reason = None
        self.harness.now += LEASE_SECONDS
        self.step(0, 1)
        _until_idle(self.relays[0])
        self.a_number_has_one_partition_and_one_file()
        self.every_published_row_is_on_kafka()
        assert self.harness.database.outbox == {}
        numbers = (
            {placement.sequence for placement in self.harness.distinct_placements()}
            | self.gone
            | set(self.harness.database.discarded_sequences)
        )
        assert numbers == set(range(1, self.harness.database.next_sequence))
        # A relay that has not heard of the new topic yet may number a batch or two for the old one.
        stale = {
            number for number, row in self.harness.database.publications.items()
            if row.claimed.generation < len(self.harness.database.topics[TOPIC])
        } if self.harness.database.topics else set()  # fmt: skip
        placements = [
            placement
            for placement in self.harness.distinct_placements()
            if placement.sequence not in stale | set(self.harness.database.discarded_sequences)
        ]
        assert cycle_breaks(placements, self.harness.broker.partitions(TOPIC)) == []


TestRelays = Relays.TestCase
TestRelays.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
