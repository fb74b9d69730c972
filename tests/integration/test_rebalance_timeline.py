"""The rebalance timeline on a real broker: a consumer that sends no worker events is shown as an owner."""

import contextlib
import threading
from collections.abc import Iterator
from datetime import timedelta

from confluent_kafka import Consumer

from filemill.config.settings import Settings
from filemill.queries.history import OwnershipHistory, ownership
from filemill_dashboard.views.rebalances import OwnershipChange, ownership_changes, ownership_periods
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
