"""Requests whose records are gone from Kafka before they were processed: named, counted, and submitted again."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.postgres.tables import Operation
from filemill.config.settings import as_environment
from filemill.entrypoints import bootstrap
from filemill.queries.group import Overview, overview
from filemill.services.operations import Operations
from filemill.verification.report import Report
from tests.acceptance.command import filemill
from tests.integration import topics
from tests.integration.processes import wait_until
from tests.integration.world import World, pipeline
from tests.servers import Servers

PATIENCE_SECONDS = 40.0


@pytest.fixture
def world(servers: Servers, tmp_path: Path) -> Iterator[World]:
    with pipeline(servers, tmp_path, monitor_interval_seconds=0.5) as made:
        yield made


def published(world: World, count: int) -> list[int]:
    """Requests that are on the topic."""
    before = len(topics.read(world.settings, world.settings.topic_create))
    ids = world.submit(count)
    wait_until(
        lambda: len(topics.read(world.settings, world.settings.topic_create)) == before + count,
        PATIENCE_SECONDS,
        "the requests are on the topic",
    )
    wait_until(lambda: world.waiting() == 0, PATIENCE_SECONDS, "they are settled")
    return ids


def remove_all(world: World, topic: str) -> None:
    """As retention does."""
    for part in KafkaAdmin(world.settings).offsets(None, topic):
        topics.delete_before(world.settings, topic, part.partition, part.end or 0)


def operations(world: World) -> Operations:
    return Operations(world.settings, world.engine, bootstrap.s3_client(world.settings))


def seen(report: Report) -> dict[str, list[int]]:
    """The findings by check, with the files of their examples."""
    return {
        check: sorted(int(example.split()[0]) for example in finding.examples)
        for check, finding in report.findings.items()
    }


def lags(world: World) -> list[int | None]:
    settings = world.settings
    return [part.lag for part in KafkaAdmin(settings).offsets(settings.kafka_group, settings.topic_create)]


def shown(world: World) -> Overview:
    with world.engine.connect() as connection:
        return overview(connection, world.settings.group_id)


def test_requests_that_retention_removed_are_named_and_can_be_submitted_again(world: World) -> None:
    world.host("relay")
    gone = published(world, 10)
    world.start("monitor")
    remove_all(world, world.settings.topic_create)
    kept = published(world, 2)
    assert seen(world.verify()) == {"request-gone": gone}
    wait_until(lambda: shown(world).lost_requests == 10, PATIENCE_SECONDS, "the monitor has counted them")
    lags = shown(world).lags
    assert lags is not None
    assert lags.total == 2
    outcome = operations(world).retry([gone[0], kept[0]], "test")
    assert outcome.done == [gone[0]]
    assert [one.file_id for one in outcome.refused] == [kept[0]]
    assert operations(world).gone() == gone[1:]
    assert operations(world).resubmit(gone[1:], "test") == gone[1:]
    assert operations(world).gone() == []
    world.start("processor", "sync")
    world.wait_for([*gone, *kept], "completed", PATIENCE_SECONDS)
    assert {world.file(file_id).run for file_id in gone} == {2}
    assert {world.file(file_id).run for file_id in kept} == {1}
    with world.engine.connect() as connection:
        kinds = list(connection.execute(sa.select(Operation.action, Operation.detail)).all())
    assert [len(row.detail["files"]) for row in kinds if row.action == "resubmit"] == [1, 9]
    wait_until(lambda: shown(world).lost_requests == 0, PATIENCE_SECONDS, "nothing is gone any more")
    world.assert_clean()


def test_requests_that_were_removed_after_a_commit_are_named_and_the_workers_go_on(world: World) -> None:
    world.host("relay", "sync")
    processor, monitor = world.start("processor", "monitor")
    first = published(world, 6)
    world.wait_for(first)
    processor.ask_to_stop()
    assert processor.stopped(PATIENCE_SECONDS) == 0
    gone = published(world, 6)
    remove_all(world, world.settings.topic_create)
    assert lags(world) == [0, 0, 0]
    assert seen(world.verify()) == {"request-gone": gone}
    wait_until(
        lambda: monitor.said("Records are gone that were not processed"), PATIENCE_SECONDS, "the monitor says it"
    )
    (processor,) = world.start("processor")
    later = published(world, 3)
    world.wait_for(later)
    assert seen(world.verify()) == {"request-gone": gone}, "an owner that has nothing in progress holds none of them"
    assert processor.said("librdkafka")
    assert operations(world).resubmit(gone, "test") == gone
    world.wait_for(gone)
    world.assert_clean()


def test_requests_of_a_topic_that_was_recreated_are_named_exactly(world: World) -> None:
    world.host("relay", "sync")
    (processor,) = world.start("processor")
    done = published(world, 5)
    world.wait_for(done)
    processor.ask_to_stop()
    assert processor.stopped(PATIENCE_SECONDS) == 0
    gone = published(world, 7)
    topics.recreate_topic(world.settings, world.settings.topic_create, partitions=2)
    assert seen(world.verify()) == {"request-gone": gone}
    later = world.submit(4)
    world.start("processor", "monitor")
    world.wait_for(later, "completed", PATIENCE_SECONDS)
    assert seen(world.verify()) == {"request-gone": gone}
    wait_until(lambda: shown(world).lost_requests == 7, PATIENCE_SECONDS, "the monitor has counted them")
    assert [one.topic for one in shown(world).recreated_topics] == [world.settings.topic_create]
    assert operations(world).resubmit(operations(world).gone(), "test") == gone
    world.wait_for(gone, "completed", PATIENCE_SECONDS)
    world.assert_clean()


def test_results_of_a_topic_that_was_recreated_before_they_were_read_are_lost_and_said_so(world: World) -> None:
    world.host("relay")
    (processor,) = world.start("processor")
    gone = published(world, 4)
    wait_until(lambda: lags(world) == [0, 0, 0], PATIENCE_SECONDS, "all is processed")
    topics.recreate_topic(world.settings, world.settings.topic_created)
    world.start("sync")
    later = published(world, 2)
    world.wait_for(later, "completed", PATIENCE_SECONDS)
    assert seen(world.verify()) == {"lost": gone}
    with world.engine.begin() as connection:  # nothing was heard of them for a while
        connection.execute(
            sa.text("UPDATE files SET updated_at = now() - interval '1 minute' WHERE status = 'pending'")
        )
    assert processor.alive
    assert operations(world).gone() == gone
    assert operations(world).retry(gone, "test").done == gone
    world.wait_for(gone, "completed", PATIENCE_SECONDS)
    world.assert_clean()


def test_what_other_topics_lose_when_they_are_recreated_is_no_loss_of_requests(world: World) -> None:
    world.host("relay", "sync")
    world.start("processor")
    settings = world.settings
    first = world.submit(3)
    world.wait_for(first)
    for topic in (settings.topic_progress, settings.topic_worker_events, settings.topic_worker_commands):
        topics.recreate_topic(settings, topic)
    topics.recreate_topic(settings, settings.topic_dead_letters)
    second = world.submit(3)
    world.wait_for(second, "completed", PATIENCE_SECONDS)
    world.assert_clean()


def test_a_topic_that_has_less_than_it_had_is_noticed(world: World) -> None:
    """As after a restore from a backup: the same ids, and offsets that were given are not there."""
    world.host("relay")
    gone = published(world, 3)
    with world.engine.begin() as connection:
        connection.execute(sa.text('UPDATE publications SET "offset" = "offset" + 100'))
    assert seen(world.verify()) == {"request-gone": gone}


def test_a_request_that_waits_is_not_submitted_again(world: World) -> None:
    world.host("relay")
    waiting = published(world, 3)
    assert operations(world).gone() == []
    assert operations(world).retry(waiting, "test").done == []
    world.assert_clean()


def test_the_command_line_submits_all_that_is_lost_and_nothing_else(world: World) -> None:
    world.host("relay")
    gone = published(world, 5)
    remove_all(world, world.settings.topic_create)
    kept = published(world, 2)
    home, environment = world.settings.home, as_environment(world.settings)
    both = filemill("retry", str(gone[0]), "--lost", home=home, environment=environment)
    assert both.returncode == 2
    assert "all that are lost by --lost" in both.stderr
    assert {world.file(file_id).run for file_id in gone} == {1}
    run = filemill("retry", "--lost", "--json", home=home, environment=environment)
    assert run.returncode == 0, run.stderr
    assert msgspec.json.decode(run.stdout) == {"retried": gone, "refused": []}
    assert {file_id: world.file(file_id).run for file_id in [*gone, *kept]} == {
        **dict.fromkeys(gone, 2),
        **dict.fromkeys(kept, 1),
    }
    again = filemill("retry", "--lost", home=home, environment=environment)
    assert again.returncode == 0
    assert "0 retried" in again.stderr
    world.host("sync")
    world.start("processor")
    world.wait_for([*gone, *kept])
    world.assert_clean()
