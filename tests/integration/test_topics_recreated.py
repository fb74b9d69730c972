"""Topics that were deleted and recreated under the same name."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import AbandonedNumber, Publication, SyncPosition, TopicGeneration
from filemill.domain.messages import FileCreated, encode
from filemill.lab.session import PipelineSession
from tests.integration import topics
from tests.integration.harness import PipelineHarness, open_harness
from tests.integration.processes import wait_until
from tests.servers import RunningServers

PATIENCE_SECONDS = 40.0


@pytest.fixture
def harness(servers: RunningServers, tmp_path: Path) -> Iterator[PipelineHarness]:
    with open_harness(servers, tmp_path) as made:
        yield made


def _generations(harness: PipelineHarness, topic: str) -> list[int]:
    with harness.engine.connect() as connection:
        found = sa.select(TopicGeneration.generation).where(TopicGeneration.topic == topic).order_by("generation")
        return list(connection.execute(found).scalars())


def _completed(harness: PipelineHarness, file_id: int) -> bytes:
    """The result of a foreign service."""
    row = harness.file(file_id)
    event = FileCreated(
        file_id=file_id, s3_location=f"elsewhere/{file_id}", status="completed", timestamp=row.created_at, run=1
    )
    return encode(event)


def _committed(harness: PipelineHarness) -> list[int]:
    return [part.offset for _, part in sorted(topics.committed(harness.settings).items())]


def _sync_once(harness: PipelineHarness, ids: list[int], status: str = "completed") -> None:
    (sync,) = harness.start("sync")
    harness.wait_for(ids, status, PATIENCE_SECONDS)
    sync.send_stop_signal()
    assert sync.wait_for_exit(PATIENCE_SECONDS) == 0


def test_a_sync_started_after_a_recreation_reads_every_result(
    harness: PipelineHarness,
) -> None:
    topic = harness.settings.topic_created
    first = [one.file_id for one in harness.insert_rows(8)]
    topics.publish(harness.settings, topic, [_completed(harness, one) for one in first], partition=1)
    _sync_once(harness, first)
    topics.recreate_topic(harness.settings, topic)
    # More results than before, so that the old position lies within the new topic.
    second = [one.file_id for one in harness.insert_rows(12)]
    topics.publish(harness.settings, topic, [_completed(harness, one) for one in second], partition=1)
    _sync_once(harness, second)
    assert _generations(harness, topic) == [1, 2]
    with harness.engine.connect() as connection:
        place = sa.select(SyncPosition.next_offset, SyncPosition.generation)
        rows = connection.execute(place.where(SyncPosition.topic == topic, SyncPosition.partition == 1)).all()
    assert [tuple(row) for row in rows] == [(12, 2)]


def test_a_running_sync_reads_every_result_after_a_recreation(harness: PipelineHarness) -> None:
    topic = harness.settings.topic_created
    (sync,) = harness.start("sync")
    first = [one.file_id for one in harness.insert_rows(3)]
    topics.publish(harness.settings, topic, [_completed(harness, one) for one in first], partition=1)
    harness.wait_for(first)
    topics.recreate_topic(harness.settings, topic)
    second = [one.file_id for one in harness.insert_rows(9)]
    topics.publish(harness.settings, topic, [_completed(harness, one) for one in second], partition=1)
    harness.wait_for(second, "completed", PATIENCE_SECONDS)
    wait_until(
        lambda: _generations(harness, topic) == [1, 2], PATIENCE_SECONDS, "the sync has registered the new topic"
    )
    assert sync.alive
    third = [one.file_id for one in harness.insert_rows(2)]
    topics.publish(harness.settings, topic, [_completed(harness, one) for one in third], partition=2)
    harness.wait_for(third, "completed", PATIENCE_SECONDS)


def test_requests_for_removed_partitions_do_not_block_others(harness: PipelineHarness) -> None:
    topic = harness.settings.topic_create
    topics.recreate_topic(harness.settings, topic, partitions=6)
    (relay,) = harness.start("relay")
    on_old = harness.submit(6)
    wait_until(lambda: len(topics.read(harness.settings, topic)) == 6, PATIENCE_SECONDS, "they are on the topic")
    wait_until(lambda: harness.outbox_depth() == 0, PATIENCE_SECONDS, "the relay has recorded that")
    relay.suspend()
    ids = harness.submit(6)
    relay.kill()
    with harness.engine.begin() as connection:  # the state after a relay that died after its claim
        connection.execute(sa.text("UPDATE publish_counter SET next_number = 13"))
        connection.execute(
            sa.text("""
                UPDATE outbox SET publish_number = 6 + place, partition = place - 1, generation = 2
                FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM outbox) AS row WHERE outbox.id = row.id
            """)
        )
    topics.recreate_topic(harness.settings, topic, partitions=3)
    harness.start("relay", "processor", "sync")
    later = harness.submit(3)
    harness.wait_for([*ids, *later], "completed", PATIENCE_SECONDS)
    published = sa.select(Publication.publish_number, Publication.partition, Publication.generation).where(
        Publication.publish_number > 12
    )

    def places() -> list[tuple[int, int, int]]:
        with harness.engine.connect() as connection:
            return sorted(
                (number, partition, generation) for number, partition, generation in connection.execute(published)
            )

    # The relay notes a publication after the acknowledgement; a file may be completed before.
    wait_until(lambda: len(places()) == len(ids) + len(later), PATIENCE_SECONDS, "all publications are on record")
    rows = places()
    with harness.engine.connect() as connection:
        abandoned = sorted(connection.execute(sa.select(AbandonedNumber.publish_number)).scalars())
    assert abandoned[:6] == [7, 8, 9, 10, 11, 12]
    # A broker may deny new partitions for a moment, too: the requests get other numbers, and each number is on record.
    assert sorted([*abandoned[6:], *(number for number, _, _ in rows)]) == list(range(13, 16 + len(abandoned)))
    assert [partition for _, partition, _ in rows] == [(number - 1) % 3 for number, _, _ in rows]
    assert (len(rows), {generation for _, _, generation in rows}) == (9, {3})
    assert set(harness.statuses(on_old).values()) == {"pending"}


def test_a_processor_continues_after_its_topic_is_recreated(harness: PipelineHarness) -> None:
    topic = harness.settings.topic_create
    processor, *_ = harness.start("processor", "relay", "sync")
    first = harness.submit(9)
    harness.wait_for(first)
    topics.recreate_topic(harness.settings, topic)
    second = harness.submit(4)
    harness.wait_for(second, "completed", PATIENCE_SECONDS)
    assert processor.alive
    third = harness.submit(9)
    harness.wait_for(third, "completed", PATIENCE_SECONDS)


@pytest.mark.parametrize("protocol", ["consumer", "classic-cooperative", "classic-eager"])
def test_no_request_is_skipped_if_their_topic_is_recreated_under_a_processor(
    harness: PipelineHarness, protocol: str
) -> None:
    """The new topic has the old offsets at once, so no fetch fails, and the client alone would continue at them."""
    topic = harness.settings.topic_create
    (processor,) = harness.start("processor", group_protocol=protocol)
    harness.run_in_threads("relay", "sync")
    first = [one for partition in range(3) for one in harness.publish_requests(partition, 4)]
    harness.wait_for(first)
    wait_until(lambda: _committed(harness) == [4, 4, 4], PATIENCE_SECONDS, "everything is committed")
    topics.recreate_topic(harness.settings, topic)
    second = [one for partition in range(3) for one in harness.publish_requests(partition, 9)]
    harness.wait_for(second, "completed", PATIENCE_SECONDS)
    wait_until(lambda: _committed(harness) == [9, 9, 9], PATIENCE_SECONDS, "everything is committed")
    assert processor.alive
    harness.assert_clean()
    wait_until(lambda: _generations(harness, topic) == [1, 2], PATIENCE_SECONDS, "the relay has noticed")
    session = PipelineSession(harness.settings, harness.engine)
    audit = session.audit(session.history())
    assert audit.ok, audit.findings
    assert audit.executions >= len(first) + len(second)


def test_no_request_is_skipped_if_their_topic_is_recreated_under_a_share_group(harness: PipelineHarness) -> None:
    """A share group has no commits: the broker keeps the state of each record, by the topic's id."""
    topic = harness.settings.topic_create
    processor = harness.processes.start("processor", None, group_protocol="share")
    harness.run_in_threads("sync")
    first = [one for partition in range(3) for one in harness.publish_requests(partition, 4)]
    harness.wait_for(first)
    topics.recreate_topic(harness.settings, topic)
    second = [one for partition in range(3) for one in harness.publish_requests(partition, 9)]
    harness.wait_for(second, "completed", PATIENCE_SECONDS)
    assert processor.alive
