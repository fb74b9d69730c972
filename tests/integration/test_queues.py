"""Queues, served by real processes: places, order, numbers, faults and `verify` for each of them."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

import sqlalchemy as sa

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.postgres.tables import Publication, Worker
from filemill.domain.files import NewFile
from filemill.entrypoints import bootstrap
from filemill.queries.handlers import live_handlers
from filemill.services.submissions import Submissions
from tests.integration import topics
from tests.integration.audit import audit_commits
from tests.integration.harness import PipelineHarness
from tests.integration.processes import Process, wait_until
from tests.principals import TEST

QUEUES = ("default", "jobs", "urgent", "bulk")
# A place is kept for an urgent request, so it waits for no other.
URGENT_START_SECONDS = 1.0


def submit(harness: PipelineHarness, queue: str | None, count: int) -> list[int]:
    """Submit text files; None: they ask for no queue."""
    files = [NewFile(f"For {queue} {number}", "Made by a test.", queue=queue) for number in range(count)]
    return Submissions(harness.engine).submit_many(files, principal=TEST)


def wait_until_serving(processor: Process, queues: Sequence[str] = QUEUES) -> None:
    """Wait until it owns partitions of these queues."""
    for queue in queues:
        name = None if queue == "default" else queue
        assigned = partial(processor.has_logged, "Partitions assigned", queue=name)
        wait_until(assigned, 40, f"{processor.name} serves {queue}\n{processor.tail()}")


def records_on(harness: PipelineHarness, queue: str) -> list[topics.TopicRecord]:
    return topics.read(harness.settings, harness.settings.all_queues[queue].topic)


def lags(harness: PipelineHarness, admin: KafkaAdmin) -> list[int | None]:
    """The lag of each partition of each queue."""
    queues = harness.settings.all_queues.values()
    return [part.lag for queue in queues for part in admin.offsets(queue.group, queue.topic)]


def test_each_queue_has_its_own_topic_numbers_and_offsets(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    harness.start("processor", "monitor")
    ids = {queue: submit(harness, queue, 7) for queue in ("jobs", "urgent", "bulk")}
    ids["default"] = submit(harness, None, 7)
    for of_queue in ids.values():
        harness.wait_for(of_queue)
    for queue, of_queue in ids.items():
        seen = records_on(harness, queue)
        numbers = {int(one.headers["filemill-publish-number"]): one.partition for one in seen}
        assert numbers == {number: (number - 1) % 3 for number in range(1, 8)}, queue
        assert {harness.file(file_id).queue for file_id in of_queue} == {queue}
    with harness.engine.connect() as connection:
        published = Counter(connection.execute(sa.select(Publication.queue)).scalars())
        assert published == dict.fromkeys(QUEUES, 7)
        assert [handler.name for handler in live_handlers(connection) if handler.workers] == ["text"]

    def served() -> list[tuple[str, list[int]]]:
        with harness.engine.connect() as connection:
            body = connection.execute(sa.select(Worker.vitals)).scalars().first()
        return [(one["queue"], one["owned"]) for one in (body or {}).get("queues", [])]

    wait_until(lambda: served() == [(queue, [0, 1, 2]) for queue in QUEUES], 10, "the heartbeat has all queues")
    admin = bootstrap.kafka_admin(harness.settings)
    wait_until(lambda: not any(lags(harness, admin)), 10, "all queues are committed", every=0.2)
    report = harness.assert_clean()
    assert (report.completed, report.repeats, report.duplicate_results) == (28, 0, 0)


def test_an_urgent_request_starts_within_a_second_while_bulk_has_every_place(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    (processor,) = harness.start("processor", concurrency=4, processing_seconds=2, processing_steps=1)
    wait_until_serving(processor)
    bulk = submit(harness, "bulk", 60)
    wait_until(lambda: list(harness.statuses(bulk).values()).count("processing") == 4, 20, "bulk has every place")
    urgent = []
    for _ in range(3):
        urgent += submit(harness, "urgent", 1)
        harness.wait_for(urgent)
        assert "pending" in harness.statuses(bulk).values(), "bulk still waits for places"
    waits = [_seconds_to_start(harness, file_id) for file_id in urgent]
    assert max(waits) < URGENT_START_SECONDS, waits
    most = Counter(harness.statuses(bulk).values())
    assert most["processing"] <= 4
    harness.wait_for(submit(harness, None, 4), seconds=20)
    assert "pending" in harness.statuses(bulk).values(), "the default queue got its share before bulk ended"


def _seconds_to_start(harness: PipelineHarness, file_id: int) -> float:
    row = harness.file(file_id)
    assert row.started_at is not None
    return (row.started_at - row.created_at).total_seconds()


def test_a_processor_serves_only_the_queues_that_it_is_told_to(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    processor = harness.processes.start("processor", queues="urgent,jobs")
    wait_until_serving(processor, ["urgent", "jobs"])
    others = submit(harness, None, 3) + submit(harness, "bulk", 3)
    harness.wait_for(submit(harness, "urgent", 3) + submit(harness, "jobs", 3))
    assert set(harness.statuses(others).values()) == {"pending"}
    assert topics.owners(harness.settings) == {}, "it is no member of the default queue's group"
    assert processor.terminate(20) == 0
    harness.start("processor")
    harness.wait_for(others)
    harness.assert_clean()


def test_a_queue_without_its_topic_stops_no_other(harness: PipelineHarness) -> None:
    topics.delete_topic(harness.settings, harness.settings.all_queues["bulk"].topic)
    harness.run_in_threads("relay", "sync")
    (processor,) = harness.start("processor")
    lost = submit(harness, "bulk", 2)
    harness.wait_for(submit(harness, None, 5) + submit(harness, "urgent", 5))
    assert set(harness.statuses(lost).values()) == {"pending"}
    assert processor.alive
    assert bootstrap.kafka_admin(harness.settings).create_topics() == [harness.settings.all_queues["bulk"].topic]
    harness.wait_for(lost)
    harness.assert_clean()


def test_a_killed_processor_loses_nothing_of_any_queue(harness: PipelineHarness) -> None:
    queue = "bulk"
    harness.run_in_threads("relay", "sync")
    first, second = harness.start("processor", "processor", processing_seconds=0.5, processing_steps=1)
    for processor in (first, second):
        wait_until_serving(processor, [queue])
    ids = submit(harness, queue, 60) + submit(harness, None, 30)
    wait_until(lambda: "completed" in harness.statuses(ids).values(), 20, "the work has begun")
    first.kill()
    harness.wait_for(ids)
    harness.assert_clean()
    assert audit_commits(harness, [first, second], queue) > 0
    assert audit_commits(harness, [first, second]) > 0


def test_a_retry_goes_to_the_queue_of_the_first_run(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    (file_id,) = submit(harness, "urgent", 1)
    operations = bootstrap.operations(harness.settings, harness.engine)
    assert operations.cancel([file_id], TEST).done == [file_id]
    assert operations.retry([file_id], TEST).done == [file_id]
    harness.start("processor")
    harness.wait_for([file_id])
    assert harness.file(file_id).run == 2
    assert [one.headers["filemill-run"] for one in records_on(harness, "urgent")][-1] == b"2"
    assert records_on(harness, "default") == []


def test_a_worker_keeps_the_partitions_of_the_default_queue_on_its_row(harness: PipelineHarness) -> None:
    harness.run_in_threads("sync")
    (processor,) = harness.start("processor")
    wait_until_serving(processor)

    def row() -> dict[str, object] | None:
        with harness.engine.connect() as connection:
            return connection.execute(sa.select(Worker.body)).scalars().first()

    def owned() -> object:
        return (row() or {}).get("owned")

    wait_until(lambda: owned() == [0, 1, 2], 10, "the row has the partitions of file.create")
