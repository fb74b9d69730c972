"""A bucket, a database or the group's offsets that are wiped, or restored from an earlier day."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from confluent_kafka.admin import AdminClient

from filemill.adapters.kafka.admin import all_topics
from filemill.entrypoints import bootstrap
from filemill.services.offset_reset import ResetTarget
from tests.integration import topics
from tests.integration.harness import PipelineHarness, open_harness
from tests.integration.processes import Process, wait_until
from tests.principals import TEST
from tests.servers import RunningServers, superuser

PATIENCE_SECONDS = 40.0


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
    report = harness.verify()
    assert {check: finding.count for check, finding in report.findings.items()} == {"object-missing": 5}
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
    report = harness.verify()
    assert {check: finding.count for check, finding in report.findings.items()} == {
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
    assert {check: finding.count for check, finding in harness.verify().findings.items()} == {"request-gone": 3}
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
