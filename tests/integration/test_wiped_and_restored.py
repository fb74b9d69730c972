"""A bucket, a database or the group's offsets that are wiped, or restored from an earlier day."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from confluent_kafka.admin import AdminClient

from filemill.adapters.kafka.admin import all_topics
from filemill.adapters.postgres.request_losses import MAX_DELAY_SECONDS
from filemill.entrypoints import bootstrap
from filemill.services.offset_reset import ResetTarget
from tests.integration import topics
from tests.integration.harness import PipelineHarness, open_harness
from tests.integration.processes import Process, wait_until
from tests.principals import TEST
from tests.servers import RunningServers, embedded_servers, superuser

PATIENCE_SECONDS = 40.0
# A record beyond the end of its partition counts as missing after MAX_DELAY_SECONDS.
GONE_SECONDS = MAX_DELAY_SECONDS + PATIENCE_SECONDS


@pytest.fixture
def harness(servers: RunningServers, tmp_path: Path) -> Iterator[PipelineHarness]:
    with open_harness(servers, tmp_path) as made:
        yield made


def _copy_database(harness: PipelineHarness, source: str, target: str) -> None:
    """Make `target` what `source` is: as a dump and a restore do."""
    harness.engine.dispose()
    settings = harness.settings
    ended = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN (:source, :target)")
    with superuser(settings.model_copy(update={"database_name": "postgres"})) as connection:
        connection.execute(ended, {"source": source, "target": target})
        connection.execute(sa.text(f'DROP DATABASE IF EXISTS "{target}"'))
        owner = settings.as_owner().database_user
        connection.execute(sa.text(f'CREATE DATABASE "{target}" TEMPLATE "{source}" OWNER "{owner}"'))
        connection.execute(sa.text(f'GRANT CONNECT ON DATABASE "{target}" TO "{settings.database_user}"'))


def _counts(harness: PipelineHarness) -> dict[str, int]:
    """The number of violations by the code of their finding."""
    return {check: finding.count for check, finding in harness.verify().findings.items()}


def _stop(*members: Process) -> None:
    for member in members:
        member.send_stop_signal()
        assert member.wait_for_exit(PATIENCE_SECONDS) == 0


def test_a_wiped_bucket_is_named_and_made_again_by_reading_the_requests_again(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    (processor,) = harness.start("processor")
    ids = harness.submit(5)
    harness.wait_for(ids)
    s3 = bootstrap.s3_client(harness.settings)
    for file_id in ids:
        s3.delete_object(Bucket=harness.settings.s3_bucket, Key=harness.file(file_id).s3_location or "")
    assert _counts(harness) == {"object-missing": 5}
    _stop(processor)
    reset = bootstrap.offset_reset(harness.settings, harness.engine)
    target = ResetTarget("earliest")
    reset.apply(reset.plan(target), target, "resubmit", TEST)
    harness.start("processor")
    wait_until(lambda: harness.verify().objects == 5, PATIENCE_SECONDS, "all objects are there again", every=1.0)
    harness.assert_clean()


def test_a_bucket_of_yesterday_with_foreign_objects_is_told_object_by_object(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    harness.start("processor")
    missing, other, kept = harness.submit(3)
    harness.wait_for([missing, other, kept])
    s3, bucket = bootstrap.s3_client(harness.settings), harness.settings.s3_bucket
    s3.delete_object(Bucket=bucket, Key=harness.file(missing).s3_location or "")
    s3.put_object(Bucket=bucket, Key=harness.file(other).s3_location or "", Body=b"of somebody else")
    s3.put_object(Bucket=bucket, Key="file-999999-1795934180528.txt", Body=b"of another database")
    assert _counts(harness) == {
        "object-missing": 1,
        "object-differs": 1,  # its hash is not the one on record
        "render-differs": 1,  # its bytes are not those of its request
        "orphan-object": 1,
    }
    assert harness.download(kept) == harness.expected_content(kept)


def test_after_kafka_was_wiped_new_requests_work_and_lost_ones_can_be_submitted_again(harness: PipelineHarness) -> None:
    settings = harness.settings
    relay, sync = harness.start("relay", "sync")
    done = harness.submit(3)
    (processor,) = harness.start("processor")
    harness.wait_for(done)
    _stop(processor)
    lost = harness.submit(3)
    wait_until(
        lambda: len(topics.read(settings, settings.topic_create)) == 6, PATIENCE_SECONDS, "they are on the topic"
    )
    wait_until(lambda: harness.outbox_depth() == 0, PATIENCE_SECONDS, "they are acknowledged")
    _stop(relay, sync)
    for topic in all_topics(settings):
        topics.delete_topic(settings, topic)
    bootstrap.prepare(settings)
    harness.start("relay", "sync", "processor")
    new = harness.submit(4)
    harness.wait_for(new, "completed", PATIENCE_SECONDS)
    assert set(harness.statuses(done).values()) == {"completed"}
    assert _counts(harness) == {"request-gone": 3}
    operations = bootstrap.operations(settings, harness.engine)
    assert operations.resubmit(operations.gone_requests(), TEST) == lost
    harness.wait_for(lost, "completed", PATIENCE_SECONDS)
    harness.assert_clean()


def test_requests_wait_in_the_outbox_while_their_topic_is_deleted(harness: PipelineHarness) -> None:
    settings = harness.settings
    relay, sync, processor = harness.start("relay", "sync", "processor")
    harness.wait_for(harness.submit(3))
    topics.delete_topic(settings, settings.topic_create)
    waiting = harness.submit(4)
    wait_until(lambda: harness.outbox_depth() == 4, PATIENCE_SECONDS, "they wait")
    bootstrap.prepare(settings)
    harness.wait_for(waiting, "completed", PATIENCE_SECONDS)
    assert all(member.alive for member in (relay, sync, processor))
    harness.assert_clean()


def test_when_the_groups_offsets_are_gone_all_is_read_again_and_nothing_is_lost(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    (processor,) = harness.start("processor")
    ids = harness.submit(5)
    harness.wait_for(ids)
    _stop(processor)
    admin = AdminClient({"bootstrap.servers": harness.settings.kafka_broker})
    group = harness.settings.kafka_group

    def deleted() -> bool:
        try:
            admin.delete_consumer_groups([group])[group].result()
        except Exception:  # noqa: BLE001 - a static or slow member may still count for a moment
            return False
        return True

    wait_until(deleted, PATIENCE_SECONDS, "the group is deleted", every=0.5)
    harness.start("processor")
    more = harness.submit(2)
    harness.wait_for([*ids, *more], "completed", PATIENCE_SECONDS)
    harness.assert_clean()


def test_a_database_of_yesterday_hears_what_became_of_its_requests_and_its_lost_rows_are_seen(
    harness: PipelineHarness,
) -> None:
    name, backup = harness.settings.database_name, f"{harness.settings.database_name}_backup"
    relay, sync, processor = harness.start("relay", "sync", "processor")
    known = harness.submit(4)
    harness.wait_for(known)
    _stop(processor, sync)
    waiting = harness.submit(3)
    wait_until(lambda: harness.outbox_depth() == 0, PATIENCE_SECONDS, "they are on the topic")
    _stop(relay)
    _copy_database(harness, name, backup)
    relay, sync, processor = harness.start("relay", "sync", "processor")
    today = harness.submit(2)
    harness.wait_for([*waiting, *today])
    _stop(relay, sync, processor)
    _copy_database(harness, backup, name)
    harness.start("relay", "sync", "processor")
    harness.wait_for([*known, *waiting], "completed", PATIENCE_SECONDS)
    report = harness.verify()
    assert {check: finding.count for check, finding in report.findings.items()} == {"orphan-object": 2}
    assert any("sequence numbers that no relay has assigned" in note for note in report.notes)


def test_after_the_database_was_wiped_new_requests_work_and_the_old_objects_are_named(harness: PipelineHarness) -> None:
    relay, sync, processor = harness.start("relay", "sync", "processor")
    harness.wait_for(harness.submit(5))
    _stop(relay, sync, processor)
    name = harness.settings.database_name
    _copy_database(harness, "template1", name)
    bootstrap.prepare(harness.settings)
    relay, sync, processor = harness.start("relay", "sync", "processor")
    wait_until(lambda: len(harness.rejected()) == 5, PATIENCE_SECONDS, "the old results name no row", every=0.5)
    new = harness.submit(3)
    assert new == [1, 2, 3]
    harness.wait_for(new, "completed", PATIENCE_SECONDS)
    for file_id in new:
        assert harness.download(file_id) == harness.expected_content(file_id)
    report = harness.verify()
    assert {check: finding.count for check, finding in report.findings.items()} == {"orphan-object": 2}
    assert (report.superseded, report.completed) == (3, 3)  # the old objects of the ids that were given again
    assert any("sequence numbers that no relay has assigned" in note for note in report.notes)


def test_kafka_of_yesterday_has_lost_todays_requests_and_they_can_be_submitted_again(tmp_path: Path) -> None:
    with embedded_servers(tmp_path / "home") as servers, open_harness(servers, tmp_path) as harness:
        kafka = servers.server("kafka")
        data, backup = kafka.folder / "data", kafka.folder / "yesterday"
        relay, sync, processor = harness.start("relay", "sync", "processor")
        yesterday = harness.submit(4)
        harness.wait_for(yesterday)
        _stop(relay, sync, processor)
        kafka.stop(PATIENCE_SECONDS)
        shutil.copytree(data, backup)
        kafka.start()
        relay, sync, processor = harness.start("relay", "sync", "processor")
        today = harness.submit(4)
        harness.wait_for(today)
        _stop(processor)
        waiting = harness.submit(2)
        wait_until(lambda: harness.outbox_depth() == 0, PATIENCE_SECONDS, "they are on the topic")
        _stop(relay, sync)
        kafka.stop(PATIENCE_SECONDS)
        shutil.rmtree(data)
        backup.rename(data)
        kafka.start()
        harness.start("relay", "sync", "processor")
        assert _counts(harness) == {"request-gone": 2, "status-unsupported": 4}  # today's results are missing too
        operations = bootstrap.operations(harness.settings, harness.engine)
        wait_until(
            lambda: operations.gone_requests() == waiting, GONE_SECONDS, "the missing records are not late", every=1.0
        )
        assert operations.resubmit(waiting, TEST) == waiting
        harness.wait_for(waiting, "completed", PATIENCE_SECONDS)
        new = harness.submit(2)
        harness.wait_for(new, "completed", PATIENCE_SECONDS)
        assert set(harness.statuses([*yesterday, *today]).values()) == {"completed"}
        assert _counts(harness) == {"status-unsupported": 4, "publish-number-missing": 4}
