"""Accepting requests, and the outbox that the relay empties."""

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

# The moment of a request is the database's: the clocks of those who accept may differ.
# One statement for thousands: each file's row, and the outbox row that the relay will publish.
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
# The same for one, in half the time.
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

_WAITING = sa.text("SELECT EXISTS (SELECT FROM outbox WHERE publish_number IS NULL)")
_COUNTER = sa.text("SELECT next_number FROM publish_counter FOR UPDATE")
_MOVE_COUNTER = sa.text("UPDATE publish_counter SET next_number = next_number + :count")
_OLDEST = sa.text("SELECT id FROM outbox WHERE publish_number IS NULL ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED")
_NUMBER = sa.text("""
    UPDATE outbox SET publish_number = slot.number, partition = slot.partition, generation = :generation
    FROM unnest(CAST(:ids AS bigint[]), CAST(:numbers AS bigint[]), CAST(:partitions AS int[]))
         AS slot (id, number, partition),
         files
    WHERE outbox.id = slot.id AND files.id = outbox.file_id
    RETURNING outbox.id, publish_number, outbox.partition, outbox.file_id, outbox.run, files.title, files.description,
              files.created_at, traceparent, outbox.generation
""")
_CLAIMED = sa.text("""
    SELECT outbox.id, publish_number, partition, file_id, outbox.run, title, description, created_at, traceparent,
           coalesce(generation, 1)
    FROM outbox JOIN files ON files.id = outbox.file_id
    WHERE publish_number > :after ORDER BY publish_number LIMIT :limit
""")
# By its number too: a row that was numbered anew since stands elsewhere.
_SETTLE = sa.text("""
    WITH gone AS (
        DELETE FROM outbox
        USING unnest(CAST(:ids AS bigint[]), CAST(:numbers AS bigint[]), CAST(:offsets AS bigint[]))
              AS published (id, number, position)
        WHERE outbox.id = published.id AND outbox.publish_number = published.number
        RETURNING publish_number, file_id, run, partition, published.position, generation
    )
    INSERT INTO publications (publish_number, file_id, run, partition, "offset", generation)
    SELECT publish_number, file_id, run, partition, position, coalesce(generation, 1) FROM gone
    ON CONFLICT (publish_number) DO NOTHING
""")
_GIVE_UP = sa.text("""
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
    """Accept one request in the caller's transaction; returns its row. It counts once the caller commits.

    `traceparent` is a W3C trace context; None stands for a fresh one.
    """
    parameters = {
        "title": file.title,
        "title_search": _search_text(file.title),
        "description": file.description,
        "traceparent": traceparent or new_traceparent(),
    }
    return file_row(connection.execute(_ONE, parameters).one())


def insert_many(connection: sa.Connection, files: Sequence[NewFile]) -> list[int]:
    """Accept many requests in the caller's transaction; returns their ids, in the order given."""
    if not files:
        return []
    return list(connection.execute(_MANY_IDS, _parameters(files, [None] * len(files))).scalars())


def insert_requests(
    connection: sa.Connection, files: Sequence[NewFile], traceparents: Sequence[str | None]
) -> list[FileRow]:
    """Accept requests in the caller's transaction; returns their rows, in the order given."""
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
    """None where the title itself serves: the search ignores the case of ASCII anyway."""
    return None if title.isascii() else search_text(title)


class PostgresOutbox:
    """The outbox of one database, for the holder of `lease`. (port: Outbox)."""

    def __init__(self, engine: sa.Engine, lease: PostgresLease) -> None:
        self._engine = engine
        self._lease = lease
        self._busy = False  # the last claim was full: there is probably more, without asking

    def topic_generation(self, topic: str, identity: TopicIdentity) -> int:
        """The number of this topic among those of its name."""
        with self._engine.begin() as connection:
            return register_topics(connection, {topic: identity})[topic]

    def discard_sequences(self, rows: Sequence[ClaimedRow]) -> int:
        """Take their numbers away, on record."""
        parameters = {"ids": [row.outbox_id for row in rows], "numbers": [row.sequence for row in rows]}
        with self._engine.begin() as connection:
            self._lease.fence(connection)
            self._busy = True
            return connection.execute(_GIVE_UP, parameters).rowcount

    def claim(self, limit: int, partitions: int, generation: int = 1) -> list[ClaimedRow]:
        """Number the oldest rows. Numbers and counter change together, so that a crash leaves no gap."""
        with self._engine.begin() as connection:
            if not self._busy and not connection.execute(_WAITING).scalar_one():
                return []  # an idle relay asks ten times a second: without a lock, and without a write
            self._busy = False
            self._lease.fence(connection)
            next_number = connection.execute(_COUNTER).scalar_one()
            ids = list(connection.execute(_OLDEST, {"limit": limit}).scalars())
            if not ids:
                return []
            places = assign_partitions(next_number, len(ids), partitions)
            connection.execute(_MOVE_COUNTER, {"count": len(ids)})
            rows = connection.execute(
                _NUMBER,
                {
                    "ids": ids,
                    "numbers": [place.sequence for place in places],
                    "partitions": [place.partition for place in places],
                    "generation": generation,
                },
            )
            claimed = [ClaimedRow(*row) for row in rows]
        self._busy = len(claimed) == limit
        return sorted(claimed, key=lambda row: row.sequence)

    def unpublished(self, limit: int, after: int = 0) -> list[ClaimedRow]:
        """Rows numbered above `after` and not settled."""
        with self._engine.connect() as connection:
            return [ClaimedRow(*row) for row in connection.execute(_CLAIMED, {"limit": limit, "after": after})]

    def mark_published(self, published: Sequence[PublishedRow]) -> None:
        """Delete, and note the offset, in one statement: a request is in the outbox or in publications, never both."""
        if not published:
            return
        parameters = {
            "ids": [row.claimed.outbox_id for row in published],
            "numbers": [row.claimed.sequence for row in published],
            "offsets": [row.offset for row in published],
        }
        with self._engine.begin() as connection:
            connection.execute(_SETTLE, parameters)
