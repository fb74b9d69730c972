"""Outbox: sequence numbers are durable and have no gaps, and each request is published once."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.lease import PostgresLease
from filemill.adapters.postgres.outbox import PostgresOutbox, insert_many, insert_request
from filemill.adapters.postgres.tables import File
from filemill.config.settings import Settings
from filemill.domain.files import new_file
from filemill.domain.messages import valid_traceparent
from filemill.domain.records import TopicIdentity
from filemill.entrypoints import bootstrap
from filemill.errors import NotLeader, Unavailable
from filemill.ports import ClaimedRow, Outbox, PublishedRow
from tests.contract.harness import LEASE_SECONDS, REQUESTED_AT, DatabaseHarness, FencedLease, PostgresHarness


def _leader(database: DatabaseHarness, holder: str = "a") -> tuple[FencedLease, Outbox]:
    lease = database.lease(holder)
    assert lease.acquire()
    return lease, database.outbox(lease)


def _placements(rows: list[ClaimedRow]) -> list[tuple[int, int]]:
    return [(row.sequence, row.partition) for row in rows]


def _published(rows: list[ClaimedRow]) -> list[PublishedRow]:
    return [PublishedRow(row, 100 + row.sequence) for row in rows]


def test_sequences_have_no_gaps_and_partitions_cycle(database: DatabaseHarness) -> None:
    ids = database.submit([f"file {number}" for number in range(7)])
    _, outbox = _leader(database)
    rows = outbox.claim(100, 3)
    assert _placements(rows) == [(1, 0), (2, 1), (3, 2), (4, 0), (5, 1), (6, 2), (7, 0)]
    assert [row.file_id for row in rows] == ids


def test_a_claimed_row_has_everything_for_its_message(database: DatabaseHarness) -> None:
    (file_id,) = database.submit(["Report ✓"])
    _, outbox = _leader(database)
    (row,) = outbox.claim(1, 3)
    assert (row.file_id, row.run, row.title, row.description) == (file_id, 1, "Report ✓", "about Report ✓")
    assert row.requested_at == REQUESTED_AT
    assert row.requested_at.utcoffset() == timedelta(0)
    assert valid_traceparent(row.traceparent)


def test_claims_are_limited_disjoint_and_consecutive(database: DatabaseHarness) -> None:
    database.submit([str(number) for number in range(8)])
    _, outbox = _leader(database)
    claims = [outbox.claim(3, 3) for _ in range(4)]
    assert [len(rows) for rows in claims] == [3, 3, 2, 0]
    assert _placements([row for rows in claims for row in rows]) == [(n, (n - 1) % 3) for n in range(1, 9)]


def test_a_new_holder_continues_the_sequence_and_the_cycle(database: DatabaseHarness) -> None:
    database.submit(["a", "b"])
    _, outbox = _leader(database, "first")
    outbox.mark_published(_published(outbox.claim(10, 3)))
    database.expire()
    database.submit(["c", "d"])
    _, successor = _leader(database, "second")
    assert _placements(successor.claim(10, 3)) == [(3, 2), (4, 0)]


def test_added_partitions_join_the_cycle(database: DatabaseHarness) -> None:
    database.submit([str(number) for number in range(9)])
    _, outbox = _leader(database)
    assert _placements(outbox.claim(4, 3)) == [(1, 0), (2, 1), (3, 2), (4, 0)]
    assert _placements(outbox.claim(5, 5)) == [(5, 4), (6, 0), (7, 1), (8, 2), (9, 3)]


def test_claimed_rows_keep_sequence_and_partition(database: DatabaseHarness) -> None:
    database.submit([str(number) for number in range(5)])
    _, outbox = _leader(database, "first")
    claimed = outbox.claim(10, 3)
    database.expire()
    _, successor = _leader(database, "second")
    assert successor.unpublished(10) == claimed
    assert successor.claim(10, 7) == []
    assert successor.unpublished(10) == claimed


def test_unpublished_rows_are_paged_in_the_order_of_sequences(database: DatabaseHarness) -> None:
    database.submit([str(number) for number in range(7)])
    _, outbox = _leader(database)
    rows = outbox.claim(10, 3)
    outbox.mark_published(_published(rows[1:3]))
    left = [rows[0], *rows[3:]]
    assert outbox.unpublished(2) == left[:2]
    assert outbox.unpublished(2, after=left[1].sequence) == left[2:4]
    assert outbox.unpublished(100, after=left[1].sequence) == left[2:]
    assert outbox.unpublished(100, after=7) == []


def test_unclaimed_rows_are_not_unpublished_rows(database: DatabaseHarness) -> None:
    database.submit(["a", "b"])
    _, outbox = _leader(database)
    assert outbox.unpublished(10) == []
    outbox.claim(1, 3)
    assert [row.sequence for row in outbox.unpublished(10)] == [1]


def test_mark_published_moves_a_request_to_the_publications(database: DatabaseHarness) -> None:
    ids = database.submit(["a", "b", "c"])
    _, outbox = _leader(database)
    rows = outbox.claim(10, 3)
    outbox.mark_published(_published(rows[:2]))
    assert database.waiting() == ids[2:]
    assert database.publications() == {1: (ids[0], 0, 101), 2: (ids[1], 1, 102)}


def test_marking_twice_keeps_the_first_offset(database: DatabaseHarness) -> None:
    (file_id,) = database.submit(["a"])
    _, outbox = _leader(database)
    rows = outbox.claim(10, 3)
    outbox.mark_published([PublishedRow(rows[0], 5)])
    outbox.mark_published([PublishedRow(rows[0], 9)])
    assert database.publications() == {1: (file_id, 0, 5)}
    assert database.waiting() == []


def test_a_late_mark_published_keeps_newer_requests(database: DatabaseHarness) -> None:
    database.submit(["a"])
    _, outbox = _leader(database)
    rows = outbox.claim(10, 3)
    outbox.mark_published(_published(rows))
    newer = database.submit(["b"])
    outbox.mark_published(_published(rows))
    assert database.waiting() == newer


def test_discarded_rows_get_new_sequences(database: DatabaseHarness) -> None:
    ids = database.submit(["a", "b", "c"])
    _, outbox = _leader(database)
    first, second = TopicIdentity("id-1", "cluster", 3), TopicIdentity("id-2", "cluster", 2)
    assert outbox.topic_generation("file.create", first) == 1
    assert outbox.topic_generation("file.create", msgspec.structs.replace(first, partitions=7)) == 1
    rows = outbox.claim(2, 3, 1)
    outbox.mark_published(_published(rows[:1]))
    assert outbox.topic_generation("file.create", second) == 2
    assert outbox.discard_sequences(rows) == 1, "what is settled keeps its number"
    assert outbox.discard_sequences(rows) == 0
    assert database.discarded_sequences() == {2: ids[1]}
    assert outbox.unpublished(10) == []
    claimed_again = outbox.claim(10, 2, 2)
    assert [(row.sequence, row.partition, row.file_id, row.generation) for row in claimed_again] == [
        (3, 0, ids[1], 2),
        (4, 1, ids[2], 2),
    ]
    assert outbox.unpublished(10) == claimed_again


def test_marking_a_discarded_sequence_does_nothing(database: DatabaseHarness) -> None:
    (file_id,) = database.submit(["a"])
    _, outbox = _leader(database)
    rows = outbox.claim(1, 3)
    outbox.discard_sequences(rows)
    outbox.mark_published(_published(rows))
    assert database.waiting() == [file_id]
    again = outbox.claim(1, 3, 2)
    outbox.mark_published(_published(rows))
    assert database.waiting() == [file_id]
    outbox.mark_published(_published(again))
    assert database.publications() == {2: (file_id, 1, 102)}


def test_a_replaced_holder_discards_no_sequences(database: DatabaseHarness) -> None:
    database.submit(["a"])
    _, outbox = _leader(database, "first")
    rows = outbox.claim(10, 3)
    database.expire()
    _leader(database, "second")
    with pytest.raises(NotLeader):
        outbox.discard_sequences(rows)
    assert database.discarded_sequences() == {}


def test_marking_no_rows_does_nothing(database: DatabaseHarness) -> None:
    database.submit(["a"])
    _, outbox = _leader(database)
    outbox.mark_published([])
    assert len(database.waiting()) == 1


def test_a_replaced_holder_may_mark_published_rows(database: DatabaseHarness) -> None:
    """The rows are on Kafka, whoever reports it; the successor need not publish them again."""
    database.submit(["a"])
    _, outbox = _leader(database, "first")
    rows = outbox.claim(10, 3)
    database.expire()
    _, successor = _leader(database, "second")
    outbox.mark_published(_published(rows))
    assert successor.unpublished(10) == []
    successor.mark_published(_published(rows))
    assert list(database.publications()) == [1]


def test_a_replaced_holder_claims_nothing(database: DatabaseHarness) -> None:
    database.submit(["a", "b", "c"])
    _, sleeper = _leader(database, "first")
    assert _placements(sleeper.claim(1, 3)) == [(1, 0)]
    database.expire()
    _, successor = _leader(database, "second")
    with pytest.raises(NotLeader):
        sleeper.claim(10, 3)
    assert _placements(successor.claim(10, 3)) == [(2, 1), (3, 2)]


def test_an_expired_holder_claims_nothing_even_without_a_successor(database: DatabaseHarness) -> None:
    database.submit(["a"])
    lease, outbox = _leader(database)
    database.expire()
    with pytest.raises(NotLeader):
        outbox.claim(10, 3)
    assert lease.acquire()
    assert _placements(outbox.claim(10, 3)) == [(1, 0)]


def test_a_claim_renews_the_lease(database: DatabaseHarness) -> None:
    lease, outbox = _leader(database)
    number = lease.fencing
    for _ in range(3):
        database.advance(LEASE_SECONDS * 0.6)
        database.submit(["a"])
        outbox.claim(10, 3)
    assert lease.fencing == number
    assert not database.lease("b").acquire()


def test_an_idle_claim_writes_nothing(postgres: PostgresHarness) -> None:
    """An idle relay claims many times a second, so a claim without rows must not renew, lock or write."""
    lease, outbox = _leader(postgres)
    before = _lease_version(postgres)
    assert outbox.claim(10, 3) == []
    assert _lease_version(postgres) == before
    assert lease.acquire()
    assert _lease_version(postgres) != before


def test_a_request_that_commits_late_is_claimed_later(postgres: PostgresHarness) -> None:
    """Commits are not in the order of ids: a reader of `id > cursor` would skip this request."""
    _, outbox = _leader(postgres)
    with postgres.engine.begin() as slow:
        early = insert_request(slow, new_file("taken an id, not committed")).id
        with postgres.engine.begin() as quick:
            late = insert_request(quick, new_file("committed first")).id
        assert [(row.file_id, row.sequence) for row in outbox.claim(10, 3)] == [(late, 1)]
    assert early < late
    assert [(row.file_id, row.sequence) for row in outbox.claim(10, 3)] == [(early, 2)]


def test_a_request_of_a_failed_transaction_is_not_accepted(postgres: PostgresHarness) -> None:
    _, outbox = _leader(postgres)
    with pytest.raises(RuntimeError), postgres.engine.begin() as connection:  # noqa: PT012 - both steps are tested
        insert_request(connection, new_file("never"))
        raise RuntimeError
    assert postgres.waiting() == []
    assert outbox.claim(10, 3) == []
    postgres.submit(["after"])
    assert _placements(outbox.claim(10, 3)) == [(1, 0)]


def test_thousands_of_requests_keep_their_order(postgres: PostgresHarness) -> None:
    files = [new_file(f"file {number}", f"description {number}") for number in range(2500)]
    with postgres.engine.begin() as connection:
        ids = insert_many(connection, files)
        rows = connection.execute(
            sa.select(File.id, File.title, File.description, File.created_at).order_by(File.id)
        ).all()
    assert ids == sorted(set(ids))
    assert [(row.id, row.title, row.description) for row in rows] == [
        (file_id, file.title, file.description) for file_id, file in zip(ids, files, strict=True)
    ]
    moments = {row.created_at for row in rows}
    assert all(moment.microsecond % 1000 == 0 for moment in moments), "cut to milliseconds at acceptance"
    assert all(abs(moment - datetime.now(UTC)) < timedelta(minutes=1) for moment in moments)
    _, outbox = _leader(postgres)
    claimed = outbox.claim(5000, 3)
    assert [(row.file_id, row.sequence) for row in claimed] == list(zip(ids, range(1, 2501), strict=True))


def test_hostile_text_is_stored_unchanged(postgres: PostgresHarness) -> None:
    title, description = "'; DROP TABLE files; -- <script>{}\\ \"", '{"a",NULL}\n\t\\N %s :x \u202e🎉'
    with postgres.engine.begin() as connection:
        insert_request(connection, new_file(title, description))
    _, outbox = _leader(postgres)
    (row,) = outbox.claim(10, 3)
    assert (row.title, row.description) == (title, description)


def test_a_pool_without_a_free_connection_is_unavailable(contract_settings: Settings) -> None:
    crowded = contract_settings.model_copy(update={"database_pool_size": 1, "server_timeout_seconds": 0.2})
    engine = bootstrap.create_engine(crowded, "contract")
    try:
        lease = PostgresLease(engine, "relay", "a", LEASE_SECONDS)
        with engine.connect():  # occupies the only connection
            for ask in (lease.acquire, lambda: PostgresOutbox(engine, lease).claim(1, 3)):
                with pytest.raises(Unavailable):
                    ask()
    finally:
        engine.dispose()


def _lease_version(postgres: PostgresHarness) -> str:
    with postgres.engine.connect() as connection:
        return str(connection.execute(sa.text("SELECT xmin, expires_at FROM leases")).one())
