"""A file's story has every delivery to a worker, and is right while the file is processed."""

import sqlalchemy as sa

from filemill.domain.deliveries import Delivery, DeliveryOutcome
from filemill.domain.worker_events import DEAD_AFTER_SECONDS
from filemill.queries.file_timeline import FileTimeline, file_timeline
from tests.integration.harness import PipelineHarness
from tests.integration.processes import wait_until

WORK_SECONDS = 6


def timeline(harness: PipelineHarness, file_id: int) -> FileTimeline:
    with harness.engine.connect() as connection:
        return file_timeline(connection, file_id)


def seconds(delivery: Delivery) -> float:
    assert delivery.ended_at is not None
    return (delivery.ended_at - delivery.started_at).total_seconds()


def test_a_killed_worker_and_its_successor_are_both_in_the_story(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    (first,) = harness.start("processor", processing_seconds=WORK_SECONDS, processing_steps=6)
    (file_id,) = harness.submit(1)
    wait_until(lambda: (harness.file(file_id).step or 0) >= 2, 30, "two steps are done")
    (running,) = timeline(harness, file_id).deliveries
    assert (running.worker_id, running.outcome, running.ended_at) == (first.name, DeliveryOutcome.RUNNING, None)
    row = harness.file(file_id)
    assert row.started_at is not None
    assert (row.updated_at - row.started_at).total_seconds() > 1.5, "the start is not the time of the last step"
    assert abs((row.started_at - running.started_at).total_seconds()) < 0.5

    first.kill()
    (second,) = harness.start("processor", processing_seconds=WORK_SECONDS, processing_steps=6)
    wait_until(lambda: harness.file(file_id).worker_id == second.name, 40, "the second worker has started it")
    seen = timeline(harness, file_id).deliveries
    assert [one.worker_id for one in seen] == [first.name, second.name]
    assert seen[1].outcome is DeliveryOutcome.RUNNING
    wait_until(
        lambda: timeline(harness, file_id).deliveries[0].outcome is DeliveryOutcome.SILENT,
        DEAD_AFTER_SECONDS + 10,
        "the first worker counts as silent",
    )
    harness.wait_for([file_id])
    ended = timeline(harness, file_id).deliveries
    assert [one.outcome for one in ended] == [DeliveryOutcome.SILENT, DeliveryOutcome.COMPLETED]
    assert seconds(ended[0]) < WORK_SECONDS
    assert WORK_SECONDS - 0.5 < seconds(ended[1]) < WORK_SECONDS + 5
    assert ended[1].started_at > ended[0].started_at
    repeated = sa.text("SELECT count(*) FROM deliveries WHERE repeated")
    with harness.engine.connect() as connection:
        assert connection.execute(repeated).scalar_one() == 0
