"""A bucket, a database or the group's offsets that are wiped, or restored from an earlier day."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from confluent_kafka.admin import AdminClient

from filemill import setup, wiring
from filemill.adapters.kafka_admin import KafkaAdmin, all_topics
from filemill.offset_reset import OffsetReset, Target
from filemill.operations import Operations
from tests.integration import topics
from tests.integration.processes import Process, wait_until
from tests.integration.world import World, pipeline
from tests.servers import Servers, superuser

PATIENCE_SECONDS = 40.0


@pytest.fixture
def world(servers: Servers, tmp_path: Path) -> Iterator[World]:
    with pipeline(servers, tmp_path) as made:
        yield made


def _copy_database(world: World, source: str, target: str) -> None:
    """Make `target` what `source` is: as a dump and a restore do."""
    world.engine.dispose()
    settings = world.settings
    ended = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN (:source, :target)")
    with superuser(settings.model_copy(update={"database_name": "postgres"})) as connection:
        connection.execute(ended, {"source": source, "target": target})
        connection.execute(sa.text(f'DROP DATABASE IF EXISTS "{target}"'))
        owner = settings.as_owner().database_user
        connection.execute(sa.text(f'CREATE DATABASE "{target}" TEMPLATE "{source}" OWNER "{owner}"'))
        connection.execute(sa.text(f'GRANT CONNECT ON DATABASE "{target}" TO "{settings.database_user}"'))


def _stop(*members: Process) -> None:
    for member in members:
        member.ask_to_stop()
        assert member.stopped(PATIENCE_SECONDS) == 0


def test_a_wiped_bucket_is_named_and_made_again_by_reading_the_requests_again(world: World) -> None:
    world.host("relay", "sync")
    (processor,) = world.start("processor")
    ids = world.submit(5)
    world.wait_for(ids)
    s3 = wiring.s3_client(world.settings)
    for file_id in ids:
        s3.delete_object(Bucket=world.settings.s3_bucket, Key=world.file(file_id).s3_location or "")
    report = world.verify()
    assert {check: finding.count for check, finding in report.findings.items()} == {"object-missing": 5}
    _stop(processor)
    reset = OffsetReset(
        world.settings, world.engine, KafkaAdmin(world.settings), Operations(world.settings, world.engine, s3)
    )
    target = Target("earliest")
    reset.apply(reset.plan(target), target, "resubmit", "test")
    world.start("processor")
    wait_until(lambda: world.verify().objects == 5, PATIENCE_SECONDS, "all objects are there again", every=1.0)
    world.assert_clean()


def test_a_bucket_of_yesterday_with_foreign_objects_is_told_object_by_object(world: World) -> None:
    world.host("relay", "sync")
    world.start("processor")
    missing, other, kept = world.submit(3)
    world.wait_for([missing, other, kept])
    s3, bucket = wiring.s3_client(world.settings), world.settings.s3_bucket
    s3.delete_object(Bucket=bucket, Key=world.file(missing).s3_location or "")
    s3.put_object(Bucket=bucket, Key=world.file(other).s3_location or "", Body=b"of somebody else")
    s3.put_object(Bucket=bucket, Key="file-999999-1795934180528.txt", Body=b"of another database")
    report = world.verify()
    assert {check: finding.count for check, finding in report.findings.items()} == {
        "object-missing": 1,
        "object-differs": 1,  # its hash is not the one on record
        "render-differs": 1,  # its bytes are not those of its request
        "orphan-object": 1,
    }
    assert world.download(kept) == world.fresh_render(kept)


def test_after_kafka_was_wiped_new_requests_work_and_lost_ones_can_be_submitted_again(world: World) -> None:
    settings = world.settings
    relay, sync = world.start("relay", "sync")
    done = world.submit(3)
    (processor,) = world.start("processor")
    world.wait_for(done)
    _stop(processor)
    lost = world.submit(3)
    wait_until(
        lambda: len(topics.read(settings, settings.topic_create)) == 6, PATIENCE_SECONDS, "they are on the topic"
    )
    wait_until(lambda: world.waiting() == 0, PATIENCE_SECONDS, "they are acknowledged")
    _stop(relay, sync)
    for topic in all_topics(settings):
        topics.delete_topic(settings, topic)
    setup.prepare(settings)
    world.start("relay", "sync", "processor")
    new = world.submit(4)
    world.wait_for(new, "completed", PATIENCE_SECONDS)
    assert set(world.statuses(done).values()) == {"completed"}
    assert {check: finding.count for check, finding in world.verify().findings.items()} == {"request-gone": 3}
    operations = Operations(settings, world.engine, wiring.s3_client(settings))
    assert operations.resubmit(operations.gone(), "test") == lost
    world.wait_for(lost, "completed", PATIENCE_SECONDS)
    world.assert_clean()


def test_requests_wait_in_the_outbox_while_their_topic_is_deleted(world: World) -> None:
    settings = world.settings
    relay, sync, processor = world.start("relay", "sync", "processor")
    world.wait_for(world.submit(3))
    topics.delete_topic(settings, settings.topic_create)
    waiting = world.submit(4)
    wait_until(lambda: world.waiting() == 4, PATIENCE_SECONDS, "they wait")
    setup.prepare(settings)
    world.wait_for(waiting, "completed", PATIENCE_SECONDS)
    assert all(member.alive for member in (relay, sync, processor))
    world.assert_clean()


def test_when_the_groups_offsets_are_gone_all_is_read_again_and_nothing_is_lost(world: World) -> None:
    world.host("relay", "sync")
    (processor,) = world.start("processor")
    ids = world.submit(5)
    world.wait_for(ids)
    _stop(processor)
    admin = AdminClient({"bootstrap.servers": world.settings.kafka_broker})
    group = world.settings.kafka_group

    def deleted() -> bool:
        try:
            admin.delete_consumer_groups([group])[group].result()
        except Exception:  # noqa: BLE001 - a static or slow member may still count for a moment
            return False
        return True

    wait_until(deleted, PATIENCE_SECONDS, "the group is deleted", every=0.5)
    world.start("processor")
    more = world.submit(2)
    world.wait_for([*ids, *more], "completed", PATIENCE_SECONDS)
    world.assert_clean()


def test_a_database_of_yesterday_hears_what_became_of_its_requests_and_its_lost_rows_are_seen(world: World) -> None:
    name, backup = world.settings.database_name, f"{world.settings.database_name}_backup"
    relay, sync, processor = world.start("relay", "sync", "processor")
    known = world.submit(4)
    world.wait_for(known)
    _stop(processor, sync)
    waiting = world.submit(3)
    wait_until(lambda: world.waiting() == 0, PATIENCE_SECONDS, "they are on the topic")
    _stop(relay)
    _copy_database(world, name, backup)
    relay, sync, processor = world.start("relay", "sync", "processor")
    today = world.submit(2)
    world.wait_for([*waiting, *today])
    _stop(relay, sync, processor)
    _copy_database(world, backup, name)
    world.start("relay", "sync", "processor")
    world.wait_for([*known, *waiting], "completed", PATIENCE_SECONDS)
    report = world.verify()
    assert {check: finding.count for check, finding in report.findings.items()} == {"orphan-object": 2}
    assert any("publish numbers that nobody has given yet" in note for note in report.notes)
