"""Topics that were deleted and created again: the name is the same, nothing else is."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from filemill.adapters.tables import AbandonedNumber, Publication, SyncPosition, TopicGeneration
from filemill.lab.bench import Bench
from filemill.messages import FileCreated, encode
from tests.integration import topics
from tests.integration.processes import wait_until
from tests.integration.world import World, pipeline
from tests.servers import Servers

PATIENCE_SECONDS = 40.0


@pytest.fixture
def world(servers: Servers, tmp_path: Path) -> Iterator[World]:
    with pipeline(servers, tmp_path) as made:
        yield made


def _generations(world: World, topic: str) -> list[int]:
    with world.engine.connect() as connection:
        found = sa.select(TopicGeneration.generation).where(TopicGeneration.topic == topic).order_by("generation")
        return list(connection.execute(found).scalars())


def _completed(world: World, file_id: int) -> bytes:
    """A foreign service's result."""
    row = world.file(file_id)
    event = FileCreated(
        file_id=file_id, s3_location=f"elsewhere/{file_id}", status="completed", timestamp=row.created_at, run=1
    )
    return encode(event)


def _committed(world: World) -> list[int]:
    return [part.offset for _, part in sorted(topics.committed(world.settings).items())]


def _sync_once(world: World, ids: list[int], status: str = "completed") -> None:
    (sync,) = world.start("sync")
    world.wait_for(ids, status, PATIENCE_SECONDS)
    sync.ask_to_stop()
    assert sync.stopped(PATIENCE_SECONDS) == 0


def test_no_result_is_skipped_when_the_topic_of_results_was_recreated_while_no_sync_ran(world: World) -> None:
    topic = world.settings.topic_created
    first = [one.file_id for one in world.insert(8)]
    topics.publish(world.settings, topic, [_completed(world, one) for one in first], partition=1)
    _sync_once(world, first)
    topics.recreate_topic(world.settings, topic)
    # More than there were, so that the old position lies within the new topic.
    second = [one.file_id for one in world.insert(12)]
    topics.publish(world.settings, topic, [_completed(world, one) for one in second], partition=1)
    _sync_once(world, second)
    assert _generations(world, topic) == [1, 2]
    with world.engine.connect() as connection:
        place = sa.select(SyncPosition.next_offset, SyncPosition.generation)
        rows = connection.execute(place.where(SyncPosition.topic == topic, SyncPosition.partition == 1)).all()
    assert [tuple(row) for row in rows] == [(12, 2)]


def test_no_result_is_skipped_when_the_topic_of_results_is_recreated_under_the_sync(world: World) -> None:
    topic = world.settings.topic_created
    (sync,) = world.start("sync")
    first = [one.file_id for one in world.insert(3)]
    topics.publish(world.settings, topic, [_completed(world, one) for one in first], partition=1)
    world.wait_for(first)
    topics.recreate_topic(world.settings, topic)
    second = [one.file_id for one in world.insert(9)]
    topics.publish(world.settings, topic, [_completed(world, one) for one in second], partition=1)
    world.wait_for(second, "completed", PATIENCE_SECONDS)
    wait_until(lambda: _generations(world, topic) == [1, 2], PATIENCE_SECONDS, "the sync has noticed")
    assert sync.alive
    third = [one.file_id for one in world.insert(2)]
    topics.publish(world.settings, topic, [_completed(world, one) for one in third], partition=2)
    world.wait_for(third, "completed", PATIENCE_SECONDS)


def test_numbered_requests_of_partitions_that_are_gone_hold_up_nobody(world: World) -> None:
    topic = world.settings.topic_create
    topics.recreate_topic(world.settings, topic, partitions=6)
    (relay,) = world.start("relay")
    on_old = world.submit(6)
    wait_until(lambda: len(topics.read(world.settings, topic)) == 6, PATIENCE_SECONDS, "they are on the topic")
    relay.suspend()
    ids = world.submit(6)
    relay.kill()
    with world.engine.begin() as connection:  # as a relay leaves it that dies after numbering
        connection.execute(sa.text("UPDATE publish_counter SET next_number = 13"))
        connection.execute(
            sa.text("""
                UPDATE outbox SET publish_number = 6 + place, partition = place - 1, generation = 2
                FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM outbox) AS row WHERE outbox.id = row.id
            """)
        )
    topics.recreate_topic(world.settings, topic, partitions=3)
    world.start("relay", "processor", "sync")
    later = world.submit(3)
    world.wait_for([*ids, *later], "completed", PATIENCE_SECONDS)
    with world.engine.connect() as connection:
        abandoned = sorted(connection.execute(sa.select(AbandonedNumber.publish_number)).scalars())
        places = sa.select(Publication.publish_number, Publication.partition, Publication.generation)
        rows = sorted(tuple(row) for row in connection.execute(places.where(Publication.publish_number > 12)))
    assert abandoned == [7, 8, 9, 10, 11, 12]
    assert rows == [(number, (number - 1) % 3, 3) for number in range(13, 22)]
    assert set(world.statuses(on_old).values()) == {"pending"}


def test_a_processor_goes_on_when_the_topic_of_requests_is_recreated_under_it(world: World) -> None:
    topic = world.settings.topic_create
    processor, *_ = world.start("processor", "relay", "sync")
    first = world.submit(9)
    world.wait_for(first)
    topics.recreate_topic(world.settings, topic)
    second = world.submit(4)
    world.wait_for(second, "completed", PATIENCE_SECONDS)
    assert processor.alive
    third = world.submit(9)
    world.wait_for(third, "completed", PATIENCE_SECONDS)


@pytest.mark.parametrize("protocol", ["consumer", "classic-cooperative", "classic-eager"])
def test_no_request_is_skipped_when_their_topic_is_recreated_under_a_processor(world: World, protocol: str) -> None:
    """The new topic has the old offsets at once, so that no fetch fails: the client alone would go on at them."""
    topic = world.settings.topic_create
    (processor,) = world.start("processor", group_protocol=protocol)
    world.host("relay", "sync")
    first = [one for partition in range(3) for one in world.request_on(partition, 4)]
    world.wait_for(first)
    wait_until(lambda: _committed(world) == [4, 4, 4], PATIENCE_SECONDS, "all is committed")
    topics.recreate_topic(world.settings, topic)
    second = [one for partition in range(3) for one in world.request_on(partition, 9)]
    world.wait_for(second, "completed", PATIENCE_SECONDS)
    wait_until(lambda: _committed(world) == [9, 9, 9], PATIENCE_SECONDS, "all is committed")
    assert processor.alive
    world.assert_clean()
    wait_until(lambda: _generations(world, topic) == [1, 2], PATIENCE_SECONDS, "the relay has noticed")
    lab = Bench(world.settings, world.engine)
    audit = lab.audit(lab.history())
    assert audit.ok, audit.findings
    assert audit.executions >= len(first) + len(second)


def test_no_request_is_skipped_when_their_topic_is_recreated_under_a_share_group(world: World) -> None:
    """It has no commits: the broker keeps the state of each record, by the topic's id."""
    topic = world.settings.topic_create
    processor = world.crew.start("processor", None, group_protocol="share")
    world.host("sync")
    first = [one for partition in range(3) for one in world.request_on(partition, 4)]
    world.wait_for(first)
    topics.recreate_topic(world.settings, topic)
    second = [one for partition in range(3) for one in world.request_on(partition, 9)]
    world.wait_for(second, "completed", PATIENCE_SECONDS)
    assert processor.alive
