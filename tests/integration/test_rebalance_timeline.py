"""The rebalance timeline on a real broker: a consumer that sends no worker events is shown as an owner."""

import contextlib
import threading
from collections.abc import Iterator
from datetime import timedelta

import sqlalchemy as sa
from confluent_kafka import Consumer

from filemill.config.settings import Settings
from filemill.queries.history import OwnershipHistory, ownership
from filemill_dashboard.views.rebalances import OwnershipChange, ownership_changes, ownership_periods
from tests.integration.group_samples import GROUP, insert_samples
from tests.integration.harness import PipelineHarness
from tests.integration.processes import wait_until

PERIOD = timedelta(minutes=5)
WAIT_SECONDS = 45
FOREIGN = "plain-consumer"


@contextlib.contextmanager
def plain_consumer(settings: Settings) -> Iterator[None]:
    """A member of the processors' group that knows nothing of filemill. It leaves the group at the end."""
    consumer = Consumer(
        {"bootstrap.servers": settings.kafka_broker, "group.id": settings.kafka_group, "client.id": FOREIGN}
    )
    consumer.subscribe([settings.topic_create])
    stop = threading.Event()

    def poll() -> None:
        while not stop.is_set():
            consumer.poll(0.1)
        consumer.close()

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(WAIT_SECONDS)


def read_ownership(harness: PipelineHarness) -> OwnershipHistory:
    with harness.engine.connect() as connection:
        return ownership(connection, harness.settings.group_id, PERIOD)


def changes(harness: PipelineHarness) -> list[OwnershipChange]:
    known = read_ownership(harness)
    return ownership_changes(known, ownership_periods(known))


def current_owners(harness: PipelineHarness) -> dict[int, str]:
    return {
        period.partition: period.worker
        for period in ownership_periods(read_ownership(harness))
        if period.end_reason is None
    }


def test_a_consumer_without_worker_events_is_shown_as_owner_and_previous_owner(harness: PipelineHarness) -> None:
    harness.run_in_threads("sync")
    processor, _ = harness.start("processor", "monitor", processing_seconds=0)
    wait_until(lambda: set(current_owners(harness)) == {0, 1, 2}, WAIT_SECONDS, "the processor owns all partitions")
    (worker,) = set(current_owners(harness).values())
    with plain_consumer(harness.settings):
        wait_until(lambda: FOREIGN in current_owners(harness).values(), WAIT_SECONDS, "the plain consumer is an owner")
        taken = [change for change in changes(harness) if change.worker == FOREIGN]
        assert {change.previous_owner for change in taken} == {worker}
        assert {change.pause_seconds for change in taken} == {None}
    wait_until(
        lambda: set(current_owners(harness).values()) == {worker}, WAIT_SECONDS, "the processor owns all of them again"
    )
    returned = [change for change in changes(harness) if change.previous_owner == FOREIGN]
    assert {change.worker for change in returned} == {worker}
    assert {change.partition for change in returned} == {change.partition for change in taken}
    assert processor.alive


def test_equal_samples_are_one_and_a_gap_between_samples_ends_an_assignment(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        insert_samples(connection, {0: 10, 1: 10}, since=100, upto=80, owner="first")
        insert_samples(connection, {0: 10}, since=78, upto=60, owner="first")
        insert_samples(connection, {0: 10}, since=30, upto=0, owner="second")
    with engine.connect() as connection:
        known = ownership(connection, GROUP, PERIOD)
        other = ownership(connection, "another group", PERIOD)
    found = [(len(one.members[0].partitions), one.members[0].client_id) for one in known.samples]
    assert found == [(2, "first"), (1, "first"), (1, "second")]
    first, then, latest = known.samples
    assert first.next_at == then.first_at, "the next sample followed without a gap"
    assert (then.next_at, latest.next_at) == (None, None)
    assert [round((known.until - one.last_at).total_seconds()) // 2 for one in known.samples] == [40, 30, 0]
    assert other.samples == []
    periods = [(period.partition, period.worker, period.end_reason) for period in ownership_periods(known)]
    assert periods == [(0, "first", "unknown"), (0, "second", None), (1, "first", "released")]
