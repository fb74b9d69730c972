"""Outbox: numbers without gaps, given durably, and each request settled once."""

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


def _leader(bench: DatabaseHarness, holder: str = "a") -> tuple[FencedLease, Outbox]:
    lease = bench.lease(holder)
    assert lease.acquire()
    return lease, bench.outbox(lease)


def _places(rows: list[ClaimedRow]) -> list[tuple[int, int]]:
    return [(row.sequence, row.partition) for row in rows]


def _settled(rows: list[ClaimedRow]) -> list[PublishedRow]:
    return [PublishedRow(row, 100 + row.sequence) for row in rows]


def test_numbers_are_gapless_in_the_order_of_acceptance_and_partitions_cycle(bench: DatabaseHarness) -> None:
    ids = bench.submit([f"file {number}" for number in range(7)])
    _, outbox = _leader(bench)
    rows = outbox.claim(100, 3)
    assert _places(rows) == [(1, 0), (2, 1), (3, 2), (4, 0), (5, 1), (6, 2), (7, 0)]
    assert [row.file_id for row in rows] == ids


def test_a_claim_carries_what_the_message_needs(bench: DatabaseHarness) -> None:
    (file_id,) = bench.submit(["Report ✓"])
    _, outbox = _leader(bench)
    (row,) = outbox.claim(1, 3)
    assert (row.file_id, row.run, row.title, row.description) == (file_id, 1, "Report ✓", "about Report ✓")
    assert row.requested_at == REQUESTED_AT
    assert row.requested_at.utcoffset() == timedelta(0)
    assert valid_traceparent(row.traceparent)


def test_claims_are_bounded_disjoint_and_go_on_where_the_last_ended(bench: DatabaseHarness) -> None:
    bench.submit([str(number) for number in range(8)])
    _, outbox = _leader(bench)
    claims = [outbox.claim(3, 3) for _ in range(4)]
    assert [len(rows) for rows in claims] == [3, 3, 2, 0]
    assert _places([row for rows in claims for row in rows]) == [(n, (n - 1) % 3) for n in range(1, 9)]


def test_the_cycle_goes_on_over_claims_settlements_and_a_new_holder(bench: DatabaseHarness) -> None:
    bench.submit(["a", "b"])
    _, outbox = _leader(bench, "first")
    outbox.mark_published(_settled(outbox.claim(10, 3)))
    bench.expire()
    bench.submit(["c", "d"])
    _, successor = _leader(bench, "second")
    assert _places(successor.claim(10, 3)) == [(3, 2), (4, 0)]


def test_added_partitions_join_the_cycle(bench: DatabaseHarness) -> None:
    bench.submit([str(number) for number in range(9)])
    _, outbox = _leader(bench)
    assert _places(outbox.claim(4, 3)) == [(1, 0), (2, 1), (3, 2), (4, 0)]
    assert _places(outbox.claim(5, 5)) == [(5, 4), (6, 0), (7, 1), (8, 2), (9, 3)]


def test_rows_that_were_numbered_keep_number_and_partition(bench: DatabaseHarness) -> None:
    bench.submit([str(number) for number in range(5)])
    _, outbox = _leader(bench, "first")
    claimed = outbox.claim(10, 3)
    bench.expire()
    _, successor = _leader(bench, "second")
    assert successor.unpublished(10) == claimed
    assert successor.claim(10, 7) == []
    assert successor.unpublished(10) == claimed


def test_unsettled_rows_come_in_pages_in_the_order_of_numbers(bench: DatabaseHarness) -> None:
    bench.submit([str(number) for number in range(7)])
    _, outbox = _leader(bench)
    rows = outbox.claim(10, 3)
    outbox.mark_published(_settled(rows[1:3]))
    left = [rows[0], *rows[3:]]
    assert outbox.unpublished(2) == left[:2]
    assert outbox.unpublished(2, after=left[1].sequence) == left[2:4]
    assert outbox.unpublished(100, after=left[1].sequence) == left[2:]
    assert outbox.unpublished(100, after=7) == []


def test_rows_without_a_number_are_not_inherited(bench: DatabaseHarness) -> None:
    bench.submit(["a", "b"])
    _, outbox = _leader(bench)
    assert outbox.unpublished(10) == []
    outbox.claim(1, 3)
    assert [row.sequence for row in outbox.unpublished(10)] == [1]


def test_settling_moves_a_request_from_the_outbox_to_the_publications(bench: DatabaseHarness) -> None:
    ids = bench.submit(["a", "b", "c"])
    _, outbox = _leader(bench)
    rows = outbox.claim(10, 3)
    outbox.mark_published(_settled(rows[:2]))
    assert bench.waiting() == ids[2:]
    assert bench.publications() == {1: (ids[0], 0, 101), 2: (ids[1], 1, 102)}


def test_settling_twice_keeps_the_first_place(bench: DatabaseHarness) -> None:
    (file_id,) = bench.submit(["a"])
    _, outbox = _leader(bench)
    rows = outbox.claim(10, 3)
    outbox.mark_published([PublishedRow(rows[0], 5)])
    outbox.mark_published([PublishedRow(rows[0], 9)])
    assert bench.publications() == {1: (file_id, 0, 5)}
    assert bench.waiting() == []


def test_a_late_settlement_takes_no_newer_request_with_it(bench: DatabaseHarness) -> None:
    bench.submit(["a"])
    _, outbox = _leader(bench)
    rows = outbox.claim(10, 3)
    outbox.mark_published(_settled(rows))
    newer = bench.submit(["b"])
    outbox.mark_published(_settled(rows))
    assert bench.waiting() == newer


def test_rows_that_were_numbered_for_a_topic_that_is_gone_are_numbered_anew(bench: DatabaseHarness) -> None:
    ids = bench.submit(["a", "b", "c"])
    _, outbox = _leader(bench)
    first, second = TopicIdentity("id-1", "cluster", 3), TopicIdentity("id-2", "cluster", 2)
    assert outbox.topic_generation("file.create", first) == 1
    assert outbox.topic_generation("file.create", msgspec.structs.replace(first, partitions=7)) == 1
    rows = outbox.claim(2, 3, 1)
    outbox.mark_published(_settled(rows[:1]))
    assert outbox.topic_generation("file.create", second) == 2
    assert outbox.discard_sequences(rows) == 1, "what is settled keeps its number"
    assert outbox.discard_sequences(rows) == 0
    assert bench.discarded_sequences() == {2: ids[1]}
    assert outbox.unpublished(10) == []
    anew = outbox.claim(10, 2, 2)
    assert [(row.sequence, row.partition, row.file_id, row.generation) for row in anew] == [
        (3, 0, ids[1], 2),
        (4, 1, ids[2], 2),
    ]
    assert outbox.unpublished(10) == anew


def test_a_settlement_under_a_number_that_was_given_up_settles_nothing(bench: DatabaseHarness) -> None:
    (file_id,) = bench.submit(["a"])
    _, outbox = _leader(bench)
    rows = outbox.claim(1, 3)
    outbox.discard_sequences(rows)
    outbox.mark_published(_settled(rows))
    assert bench.waiting() == [file_id]
    again = outbox.claim(1, 3, 2)
    outbox.mark_published(_settled(rows))
    assert bench.waiting() == [file_id]
    outbox.mark_published(_settled(again))
    assert bench.publications() == {2: (file_id, 1, 102)}


def test_a_deposed_holder_gives_up_no_numbers(bench: DatabaseHarness) -> None:
    bench.submit(["a"])
    _, outbox = _leader(bench, "first")
    rows = outbox.claim(10, 3)
    bench.expire()
    _leader(bench, "second")
    with pytest.raises(NotLeader):
        outbox.discard_sequences(rows)
    assert bench.discarded_sequences() == {}


def test_settling_nothing_is_harmless(bench: DatabaseHarness) -> None:
    bench.submit(["a"])
    _, outbox = _leader(bench)
    outbox.mark_published([])
    assert len(bench.waiting()) == 1


def test_a_deposed_holder_may_settle_what_the_broker_acknowledged(bench: DatabaseHarness) -> None:
    """It is a fact, whoever reports it, and it saves the successor a repetition."""
    bench.submit(["a"])
    _, outbox = _leader(bench, "first")
    rows = outbox.claim(10, 3)
    bench.expire()
    _, successor = _leader(bench, "second")
    outbox.mark_published(_settled(rows))
    assert successor.unpublished(10) == []
    successor.mark_published(_settled(rows))
    assert list(bench.publications()) == [1]


def test_a_holder_that_overslept_numbers_nothing(bench: DatabaseHarness) -> None:
    bench.submit(["a", "b", "c"])
    _, sleeper = _leader(bench, "first")
    assert _places(sleeper.claim(1, 3)) == [(1, 0)]
    bench.expire()
    _, successor = _leader(bench, "second")
    with pytest.raises(NotLeader):
        sleeper.claim(10, 3)
    assert _places(successor.claim(10, 3)) == [(2, 1), (3, 2)]


def test_an_expired_holder_numbers_nothing_even_where_nobody_took_over(bench: DatabaseHarness) -> None:
    bench.submit(["a"])
    lease, outbox = _leader(bench)
    bench.expire()
    with pytest.raises(NotLeader):
        outbox.claim(10, 3)
    assert lease.acquire()
    assert _places(outbox.claim(10, 3)) == [(1, 0)]


def test_a_claim_renews_the_lease(bench: DatabaseHarness) -> None:
    lease, outbox = _leader(bench)
    number = lease.fencing
    for _ in range(3):
        bench.advance(LEASE_SECONDS * 0.6)
        bench.submit(["a"])
        outbox.claim(10, 3)
    assert lease.fencing == number
    assert not bench.lease("b").acquire()


def test_an_idle_claim_writes_nothing(postgres: PostgresHarness) -> None:
    """An idle relay asks many times a second: it must not renew, lock or write each time."""
    lease, outbox = _leader(postgres)
    before = _lease_version(postgres)
    assert outbox.claim(10, 3) == []
    assert _lease_version(postgres) == before
    assert lease.acquire()
    assert _lease_version(postgres) != before


def test_a_request_committed_late_is_not_lost(postgres: PostgresHarness) -> None:
    """The order of ids is not the order of commits: whoever reads `id > cursor` skips this one."""
    _, outbox = _leader(postgres)
    with postgres.engine.begin() as slow:
        early = insert_request(slow, new_file("taken an id, not committed")).id
        with postgres.engine.begin() as quick:
            late = insert_request(quick, new_file("committed first")).id
        assert [(row.file_id, row.sequence) for row in outbox.claim(10, 3)] == [(late, 1)]
    assert early < late
    assert [(row.file_id, row.sequence) for row in outbox.claim(10, 3)] == [(early, 2)]


def test_a_request_of_a_transaction_that_fails_was_never_accepted(postgres: PostgresHarness) -> None:
    _, outbox = _leader(postgres)
    with pytest.raises(RuntimeError), postgres.engine.begin() as connection:  # noqa: PT012 - both steps are the matter
        insert_request(connection, new_file("never"))
        raise RuntimeError
    assert postgres.waiting() == []
    assert outbox.claim(10, 3) == []
    postgres.submit(["after"])
    assert _places(outbox.claim(10, 3)) == [(1, 0)]


def test_thousands_are_accepted_in_the_order_given(postgres: PostgresHarness) -> None:
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


def test_hostile_text_survives_as_it_is(postgres: PostgresHarness) -> None:
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
        with engine.connect():  # a page that takes its time
            for ask in (lease.acquire, lambda: PostgresOutbox(engine, lease).claim(1, 3)):
                with pytest.raises(Unavailable):
                    ask()
    finally:
        engine.dispose()


def _lease_version(postgres: PostgresHarness) -> str:
    with postgres.engine.connect() as connection:
        return str(connection.execute(sa.text("SELECT xmin, expires_at FROM leases")).one())
