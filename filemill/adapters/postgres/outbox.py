"""Inserts accepted requests, and the outbox that the relay empties."""

from collections.abc import Sequence

import sqlalchemy as sa

from filemill.adapters.postgres.file_rows import COLUMN_NAMES, FileRow, file_row
from filemill.adapters.postgres.lease import PostgresLease
from filemill.adapters.postgres.topics import register_topics
from filemill.domain.files import NewFile, search_text
from filemill.domain.messages import new_traceparent
from filemill.domain.partitioning import assign_partitions
from filemill.domain.records import TopicIdentity
from filemill.ports import ClaimedRow, PublishedRow

# The database dates a request: the clocks of the processes that accept requests may differ.
# One statement for thousands of requests: inserts the rows of the files and of the outbox.
_ACCEPT_MANY = """
    WITH accepted AS (
        INSERT INTO files (title, description, created_at, title_search)
        SELECT title, description, date_trunc('milliseconds', now()), title_search
        FROM unnest(CAST(:titles AS text[]), CAST(:descriptions AS text[]), CAST(:title_searches AS text[]))
             WITH ORDINALITY AS request (title, description, title_search, place)
        ORDER BY place
        RETURNING {columns}
    ), numbered AS (
        SELECT id, run, row_number() OVER (ORDER BY id) AS place FROM accepted
    ), queued AS (
        INSERT INTO outbox (file_id, run, traceparent)
        SELECT id, run, (CAST(:traceparents AS text[]))[place] FROM numbered ORDER BY id
    )
    SELECT {columns} FROM accepted ORDER BY id
"""
# The same for one request, in half the time.
_ACCEPT_ONE = """
    WITH accepted AS (
        INSERT INTO files (title, description, created_at, title_search)
        VALUES (:title, :description, date_trunc('milliseconds', now()), :title_search)
        RETURNING {columns}
    ), queued AS (
        INSERT INTO outbox (file_id, run, traceparent) SELECT id, run, :traceparent FROM accepted
    )
    SELECT {columns} FROM accepted
"""
_ROW = ", ".join(f'"{name}"' for name in COLUMN_NAMES)
_ONE, _MANY = (sa.text(statement.format(columns=_ROW)) for statement in (_ACCEPT_ONE, _ACCEPT_MANY))
_MANY_IDS = sa.text(_ACCEPT_MANY.format(columns="id, run"))

_HAS_WAITING = sa.text("SELECT EXISTS (SELECT FROM outbox WHERE publish_number IS NULL)")
_COUNTER = sa.text("SELECT next_number FROM publish_counter WHERE queue = 'default' FOR UPDATE")
_ADVANCE_COUNTER = sa.text("UPDATE publish_counter SET next_number = next_number + :count WHERE queue = 'default'")
_OLDEST = sa.text("SELECT id FROM outbox WHERE publish_number IS NULL ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED")
_ASSIGN_SEQUENCES = sa.text("""
    UPDATE outbox SET publish_number = placement.number, partition = placement.partition, generation = :generation
    FROM unnest(CAST(:ids AS bigint[]), CAST(:numbers AS bigint[]), CAST(:partitions AS int[]))
         AS placement (id, number, partition),
         files
    WHERE outbox.id = placement.id AND files.id = outbox.file_id
    RETURNING outbox.id, publish_number, outbox.partition, outbox.file_id, outbox.run, files.title, files.description,
              files.created_at, traceparent, outbox.generation
""")
_CLAIMED = sa.text("""
    SELECT outbox.id, publish_number, partition, file_id, outbox.run, title, description, created_at, traceparent,
           coalesce(generation, 1)
    FROM outbox JOIN files ON files.id = outbox.file_id
    WHERE publish_number > :after ORDER BY publish_number LIMIT :limit
""")
# Compares the sequence number, too: a row with a new number is published at another place.
_MARK_PUBLISHED = sa.text("""
    WITH gone AS (
        DELETE FROM outbox
        USING unnest(CAST(:ids AS bigint[]), CAST(:numbers AS bigint[]), CAST(:offsets AS bigint[]))
              AS published (id, number, position)
        WHERE outbox.id = published.id AND outbox.publish_number = published.number
        RETURNING publish_number, file_id, run, partition, published.position, generation
    )
    INSERT INTO publications (publish_number, file_id, run, partition, "offset", generation)
    SELECT publish_number, file_id, run, partition, position, coalesce(generation, 1) FROM gone
    ON CONFLICT (queue, publish_number) DO NOTHING
""")
_DISCARD_SEQUENCES = sa.text("""
    WITH given AS (
        SELECT outbox.* FROM outbox JOIN unnest(CAST(:ids AS bigint[]), CAST(:numbers AS bigint[])) AS row (id, number)
            ON outbox.id = row.id AND outbox.publish_number = row.number
        FOR UPDATE OF outbox
    ), noted AS (
        INSERT INTO abandoned_numbers (publish_number, file_id, run, partition, generation)
        SELECT publish_number, file_id, run, partition, coalesce(generation, 1) FROM given
        ON CONFLICT DO NOTHING
    )
    UPDATE outbox SET publish_number = NULL, partition = NULL, generation = NULL
    FROM given WHERE outbox.id = given.id
""")


def insert_request(connection: sa.Connection, file: NewFile, *, traceparent: str | None = None) -> FileRow:
    """Insert one request in the caller's transaction; returns its row. It is accepted when the caller commits.

    `traceparent` is a W3C trace context; None for a new one.
    """
    parameters = {
        "title": file.title,
        "title_search": _search_text(file.title),
        "description": file.description,
        "traceparent": traceparent or new_traceparent(),
    }
    return file_row(connection.execute(_ONE, parameters).one())


def insert_many(connection: sa.Connection, files: Sequence[NewFile]) -> list[int]:
    """Insert requests in the caller's transaction; returns their ids, in the given order."""
    if not files:
        return []
    return list(connection.execute(_MANY_IDS, _parameters(files, [None] * len(files))).scalars())


def insert_requests(
    connection: sa.Connection, files: Sequence[NewFile], traceparents: Sequence[str | None]
) -> list[FileRow]:
    """Insert requests in the caller's transaction; returns their rows, in the given order."""
    if len(files) == 1:
        return [insert_request(connection, files[0], traceparent=traceparents[0])]
    return [file_row(row) for row in connection.execute(_MANY, _parameters(files, traceparents))]


def _parameters(files: Sequence[NewFile], traceparents: Sequence[str | None]) -> dict[str, object]:
    return {
        "titles": [file.title for file in files],
        "title_searches": [_search_text(file.title) for file in files],
        "descriptions": [file.description for file in files],
        "traceparents": [given or new_traceparent() for given in traceparents],
    }


def _search_text(title: str) -> str | None:
    """None for an ASCII title: the search uses the title itself, ignoring the case."""
    return None if title.isascii() else search_text(title)


class PostgresOutbox:
    """The outbox of one database, for the holder of `lease`. (port: Outbox)."""

    def __init__(self, engine: sa.Engine, lease: PostgresLease) -> None:
        self._engine = engine
        self._lease = lease
        self._busy = False  # the last claim was full, so there are probably more rows

    def topic_generation(self, topic: str, identity: TopicIdentity) -> int:
        """The generation of this topic."""
        with self._engine.begin() as connection:
            return register_topics(connection, {topic: identity})[topic]

    def discard_sequences(self, rows: Sequence[ClaimedRow]) -> int:
        """Take the sequence numbers from these rows, and record them."""
        parameters = {"ids": [row.outbox_id for row in rows], "numbers": [row.sequence for row in rows]}
        with self._engine.begin() as connection:
            self._lease.fence(connection)
            self._busy = True
            return connection.execute(_DISCARD_SEQUENCES, parameters).rowcount

    def claim(self, limit: int, partitions: int, generation: int = 1) -> list[ClaimedRow]:
        """Give the oldest rows sequence numbers. The counter changes in the same transaction: a crash leaves no gap."""
        with self._engine.begin() as connection:
            if not self._busy and not connection.execute(_HAS_WAITING).scalar_one():
                return []  # an idle relay asks ten times a second, so this takes no lock and writes nothing
            self._busy = False
            self._lease.fence(connection)
            next_sequence = connection.execute(_COUNTER).scalar_one()
            ids = list(connection.execute(_OLDEST, {"limit": limit}).scalars())
            if not ids:
                return []
            placements = assign_partitions(next_sequence, len(ids), partitions)
            connection.execute(_ADVANCE_COUNTER, {"count": len(ids)})
            rows = connection.execute(
                _ASSIGN_SEQUENCES,
                {
                    "ids": ids,
                    "numbers": [placement.sequence for placement in placements],
                    "partitions": [placement.partition for placement in placements],
                    "generation": generation,
                },
            )
            claimed = [ClaimedRow(*row) for row in rows]
        self._busy = len(claimed) == limit
        return sorted(claimed, key=lambda row: row.sequence)

    def unpublished(self, limit: int, after: int = 0) -> list[ClaimedRow]:
        """Claimed rows with sequence numbers above `after`."""
        with self._engine.connect() as connection:
            return [ClaimedRow(*row) for row in connection.execute(_CLAIMED, {"limit": limit, "after": after})]

    def mark_published(self, published: Sequence[PublishedRow]) -> None:
        """Delete the rows and store their offsets, in one statement: a request is in exactly one of the two tables."""
        if not published:
            return
        parameters = {
            "ids": [row.claimed.outbox_id for row in published],
            "numbers": [row.claimed.sequence for row in published],
            "offsets": [row.offset for row in published],
        }
        with self._engine.begin() as connection:
            connection.execute(_MARK_PUBLISHED, parameters)
