"""Requests whose records are gone from Kafka before they were processed: reported, counted and resubmitted."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import Operation
from filemill.config.settings import as_environment
from filemill.entrypoints import bootstrap
from filemill.queries.overview import Overview, overview
from filemill.services.operations import Operations
from filemill.verification.report import VerificationReport
from tests.acceptance.command import filemill
from tests.integration import topics
from tests.integration.harness import PipelineHarness, open_harness
from tests.integration.processes import wait_until
from tests.principals import TEST
from tests.servers import RunningServers

PATIENCE_SECONDS = 40.0


@pytest.fixture
def harness(servers: RunningServers, tmp_path: Path) -> Iterator[PipelineHarness]:
    with open_harness(servers, tmp_path, monitor_interval_seconds=0.5) as made:
        yield made


def published(harness: PipelineHarness, count: int) -> list[int]:
    """Submit requests and wait until they are on the topic."""
    before = len(topics.read(harness.settings, harness.settings.topic_create))
    ids = harness.submit(count)
    wait_until(
        lambda: len(topics.read(harness.settings, harness.settings.topic_create)) == before + count,
        PATIENCE_SECONDS,
        "the requests are on the topic",
    )
    wait_until(lambda: harness.outbox_depth() == 0, PATIENCE_SECONDS, "they are marked as published")
    return ids


def remove_all(harness: PipelineHarness, topic: str) -> None:
    """Remove all records, as retention does."""
    for part in bootstrap.kafka_admin(harness.settings).offsets(None, topic):
        topics.delete_before(harness.settings, topic, part.partition, part.end or 0)


def operations(harness: PipelineHarness) -> Operations:
    return bootstrap.operations(harness.settings, harness.engine)


def loss_findings(report: VerificationReport) -> dict[str, list[int]]:
    """The findings by code, with the files of their examples."""
    return {
        check: sorted(int(example.split()[0]) for example in finding.examples)
        for check, finding in report.findings.items()
    }


def lags(harness: PipelineHarness) -> list[int | None]:
    settings = harness.settings
    return [part.lag for part in bootstrap.kafka_admin(settings).offsets(settings.kafka_group, settings.topic_create)]


def read_overview(harness: PipelineHarness) -> Overview:
    with harness.engine.connect() as connection:
        return overview(connection, harness.settings.group_id)


def test_requests_that_retention_removed_are_found_and_can_be_resubmitted(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay")
    gone = published(harness, 10)
    harness.start("monitor")
    remove_all(harness, harness.settings.topic_create)
    kept = published(harness, 2)
    assert loss_findings(harness.verify()) == {"request-gone": gone}
    wait_until(lambda: read_overview(harness).lost_requests == 10, PATIENCE_SECONDS, "the monitor has counted them")
    lags = read_overview(harness).lags
    assert lags is not None
    assert lags.total == 2
    outcome = operations(harness).retry([gone[0], kept[0]], TEST)
    assert outcome.done == [gone[0]]
    assert [one.file_id for one in outcome.refused] == [kept[0]]
    assert operations(harness).gone_requests() == gone[1:]
    assert operations(harness).resubmit(gone[1:], TEST) == gone[1:]
    assert operations(harness).gone_requests() == []
    harness.start("processor", "sync")
    harness.wait_for([*gone, *kept], "completed", PATIENCE_SECONDS)
    assert {harness.file(file_id).run for file_id in gone} == {2}
    assert {harness.file(file_id).run for file_id in kept} == {1}
    with harness.engine.connect() as connection:
        kinds = list(connection.execute(sa.select(Operation.action, Operation.detail)).all())
    assert [len(row.detail["files"]) for row in kinds if row.action == "resubmit"] == [1, 9]
    wait_until(lambda: read_overview(harness).lost_requests == 0, PATIENCE_SECONDS, "nothing is gone any more")
    harness.assert_clean()


def test_requests_that_were_removed_after_a_commit_are_found_and_workers_continue(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    processor, monitor = harness.start("processor", "monitor")
    first = published(harness, 6)
    harness.wait_for(first)
    processor.send_stop_signal()
    assert processor.wait_for_exit(PATIENCE_SECONDS) == 0
    gone = published(harness, 6)
    remove_all(harness, harness.settings.topic_create)
    assert lags(harness) == [0, 0, 0]
    assert loss_findings(harness.verify()) == {"request-gone": gone}
    wait_until(lambda: monitor.has_logged("Unprocessed records are gone"), PATIENCE_SECONDS, "the monitor logs it")
    (processor,) = harness.start("processor")
    later = published(harness, 3)
    harness.wait_for(later)
    assert loss_findings(harness.verify()) == {"request-gone": gone}, (
        "an owner that has nothing in progress holds none of them"
    )
    wait_until(lambda: processor.has_logged("librdkafka"), PATIENCE_SECONDS, "the processor logs the reset")
    assert operations(harness).resubmit(gone, TEST) == gone
    harness.wait_for(gone)
    harness.assert_clean()


def test_exactly_the_requests_of_a_recreated_topic_are_found(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    (processor,) = harness.start("processor")
    done = published(harness, 5)
    harness.wait_for(done)
    processor.send_stop_signal()
    assert processor.wait_for_exit(PATIENCE_SECONDS) == 0
    gone = published(harness, 7)
    topics.recreate_topic(harness.settings, harness.settings.topic_create, partitions=2)
    assert loss_findings(harness.verify()) == {"request-gone": gone}
    later = harness.submit(4)
    harness.start("processor", "monitor")
    harness.wait_for(later, "completed", PATIENCE_SECONDS)
    assert loss_findings(harness.verify()) == {"request-gone": gone}
    wait_until(lambda: read_overview(harness).lost_requests == 7, PATIENCE_SECONDS, "the monitor has counted them")
    assert [one.topic for one in read_overview(harness).recreated_topics] == [harness.settings.topic_create]
    assert operations(harness).resubmit(operations(harness).gone_requests(), TEST) == gone
    harness.wait_for(gone, "completed", PATIENCE_SECONDS)
    harness.assert_clean()


def test_results_of_a_recreated_topic_that_were_not_read_are_reported_as_lost(
    harness: PipelineHarness,
) -> None:
    harness.run_in_threads("relay")
    (processor,) = harness.start("processor")
    gone = published(harness, 4)
    wait_until(lambda: lags(harness) == [0, 0, 0], PATIENCE_SECONDS, "all is processed")
    topics.recreate_topic(harness.settings, harness.settings.topic_created)
    harness.start("sync")
    later = published(harness, 2)
    harness.wait_for(later, "completed", PATIENCE_SECONDS)
    assert loss_findings(harness.verify()) == {"lost": gone}
    with harness.engine.begin() as connection:  # nothing was heard of them for a while
        connection.execute(
            sa.text("UPDATE files SET updated_at = now() - interval '1 minute' WHERE status = 'pending'")
        )
    assert processor.alive
    assert operations(harness).gone_requests() == gone
    assert operations(harness).retry(gone, TEST).done == gone
    harness.wait_for(gone, "completed", PATIENCE_SECONDS)
    harness.assert_clean()


def test_recreating_other_topics_loses_no_requests(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    harness.start("processor")
    settings = harness.settings
    first = harness.submit(3)
    harness.wait_for(first)
    for topic in (settings.topic_progress, settings.topic_worker_events, settings.topic_worker_commands):
        topics.recreate_topic(settings, topic)
    topics.recreate_topic(settings, settings.topic_dead_letters)
    second = harness.submit(3)
    harness.wait_for(second, "completed", PATIENCE_SECONDS)
    harness.assert_clean()


def test_a_topic_with_fewer_records_than_before_is_noticed(harness: PipelineHarness) -> None:
    """As after a restore from a backup: the topic ids are the same, but the latest records are missing."""
    harness.run_in_threads("relay")
    gone = published(harness, 3)
    with harness.engine.begin() as connection:
        connection.execute(sa.text('UPDATE publications SET "offset" = "offset" + 100'))
    assert loss_findings(harness.verify()) == {"request-gone": gone}


def test_a_waiting_request_is_not_resubmitted(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay")
    waiting = published(harness, 3)
    assert operations(harness).gone_requests() == []
    assert operations(harness).retry(waiting, TEST).done == []
    harness.assert_clean()


def test_the_command_resubmits_exactly_the_lost_requests(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay")
    gone = published(harness, 5)
    remove_all(harness, harness.settings.topic_create)
    kept = published(harness, 2)
    home, environment = harness.settings.home, as_environment(harness.settings)
    both = filemill("retry", str(gone[0]), "--lost", home=home, environment=environment)
    assert both.returncode == 2
    assert "--all STATUS, or --search TEXT, or --lost" in both.stderr
    assert {harness.file(file_id).run for file_id in gone} == {1}
    run = filemill("retry", "--lost", "--json", home=home, environment=environment)
    assert run.returncode == 0, run.stderr
    assert msgspec.json.decode(run.stdout) == {"retried": gone, "refused": []}
    assert {file_id: harness.file(file_id).run for file_id in [*gone, *kept]} == {
        **dict.fromkeys(gone, 2),
        **dict.fromkeys(kept, 1),
    }
    again = filemill("retry", "--lost", home=home, environment=environment)
    assert again.returncode == 0
    assert "0 files retried" in again.stderr
    harness.run_in_threads("sync")
    harness.start("processor")
    harness.wait_for([*gone, *kept])
    harness.assert_clean()
