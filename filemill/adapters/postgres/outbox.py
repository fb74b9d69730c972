"""Inserts accepted requests, and the outbox that the relay empties."""

import time
from collections.abc import Sequence

import sqlalchemy as sa
from msgspec import json

from filemill.adapters.postgres.file_rows import COLUMN_NAMES, FileRow, file_row
from filemill.adapters.postgres.lease import PostgresLease
from filemill.adapters.postgres.topics import register_topics
from filemill.domain.files import NewFile, search_text
from filemill.domain.messages import new_traceparent
from filemill.domain.partitioning import assign_partitions
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.domain.records import TopicIdentity
from filemill.ports import ClaimedRow, Clock, PublishedRow

# How old the answer may be that says which queues have rows.
WAITING_SECONDS = 0.005

# The database dates a request: the clocks of the processes that accept requests may differ.
# One statement for thousands of requests: inserts the rows of the files and of the outbox.
_ACCEPT_MANY = """
    WITH accepted AS (
        INSERT INTO files (title, description, created_at, title_search, owner{job_columns})
        SELECT title, description, date_trunc('milliseconds', now()), title_search, owner{job_columns}
        FROM unnest(CAST(:titles AS text[]), CAST(:descriptions AS text[]), CAST(:title_searches AS text[]),
                    CAST(:owners AS text[]){job_arrays})
             WITH ORDINALITY AS request (title, description, title_search, owner{job_columns}, place)
        ORDER BY place
        RETURNING {columns}
    ), numbered AS (
        SELECT id, run, {queue} AS queue, row_number() OVER (ORDER BY id) AS place FROM accepted
    ), queued AS (
        INSERT INTO outbox (file_id, run, traceparent, queue)
        SELECT id, run, (CAST(:traceparents AS text[]))[place], queue FROM numbered ORDER BY id
    )
    SELECT {columns} FROM accepted ORDER BY id
"""
# The same for one request, in half the time.
_ACCEPT_ONE = """
    WITH accepted AS (
        INSERT INTO files (title, description, created_at, title_search, owner)
        VALUES (:title, :description, date_trunc('milliseconds', now()), :title_search, :owner)
        RETURNING {columns}
    ), queued AS (
        INSERT INTO outbox (file_id, run, traceparent) SELECT id, run, :traceparent FROM accepted
    )
    SELECT {columns} FROM accepted
"""
_ROW = ", ".join(f'"{name}"' for name in COLUMN_NAMES)
# Requests of the reference design have the defaults of the columns.
_TEXT_ONLY = {"job_columns": "", "job_arrays": "", "queue": "'default'"}
_JOBS = {
    "job_columns": ", handler, parameters, inputs, queue",
    "job_arrays": ", CAST(:handlers AS text[]), CAST(:parameters AS jsonb[]), CAST(:inputs AS jsonb[]),"
    " CAST(:queues AS text[])",
    "queue": "queue",
}
_ONE = sa.text(_ACCEPT_ONE.format(columns=_ROW))
_MANY, _MANY_JOBS = (sa.text(_ACCEPT_MANY.format(columns=_ROW, **kind)) for kind in (_TEXT_ONLY, _JOBS))
_MANY_IDS, _MANY_JOB_IDS = (
    sa.text(_ACCEPT_MANY.format(columns="id, run", **_TEXT_ONLY)),
    sa.text(_ACCEPT_MANY.format(columns="id, run, queue", **_JOBS)),
)

_WITH_WAITING = sa.text("""
    SELECT queue FROM unnest(CAST(:queues AS text[])) AS asked (queue)
    WHERE EXISTS (SELECT FROM outbox WHERE outbox.queue = asked.queue AND publish_number IS NULL)
""")
_CREATE_COUNTER = sa.text("INSERT INTO publish_counter (queue, next_number) VALUES (:queue, 1) ON CONFLICT DO NOTHING")
_COUNTER = sa.text("SELECT next_number FROM publish_counter WHERE queue = :queue FOR UPDATE")
_ADVANCE_COUNTER = sa.text("UPDATE publish_counter SET next_number = next_number + :count WHERE queue = :queue")
_OLDEST = sa.text("""
    SELECT id FROM outbox WHERE queue = :queue AND publish_number IS NULL ORDER BY id LIMIT :limit
    FOR UPDATE SKIP LOCKED
""")
_JOB = "handler, CAST(parameters AS text), CAST(inputs AS text)"
_ASSIGN_SEQUENCES = sa.text(f"""
    UPDATE outbox SET publish_number = placement.number, partition = placement.partition, generation = :generation
    FROM unnest(CAST(:ids AS bigint[]), CAST(:numbers AS bigint[]), CAST(:partitions AS int[]))
         AS placement (id, number, partition),
         files
    WHERE outbox.id = placement.id AND files.id = outbox.file_id
    RETURNING outbox.id, publish_number, outbox.partition, outbox.file_id, outbox.run, files.title, files.description,
              files.created_at, traceparent, outbox.generation, {_JOB}
""")  # noqa: S608 - text of this module
_CLAIMED = sa.text(f"""
    SELECT outbox.id, publish_number, partition, file_id, outbox.run, title, description, created_at, traceparent,
           coalesce(generation, 1), {_JOB}
    FROM outbox JOIN files ON files.id = outbox.file_id
    WHERE outbox.queue = :queue AND publish_number > :after ORDER BY publish_number LIMIT :limit
""")  # noqa: S608 - text of this module
# Compares the sequence number, too: a row with a new number is published at another place.
_MARK_PUBLISHED = sa.text("""
    WITH gone AS (
        DELETE FROM outbox
        USING unnest(CAST(:ids AS bigint[]), CAST(:numbers AS bigint[]), CAST(:offsets AS bigint[]))
              AS published (id, number, position)
        WHERE outbox.id = published.id AND outbox.publish_number = published.number
        RETURNING publish_number, file_id, run, partition, published.position, generation, queue
    )
    INSERT INTO publications (publish_number, file_id, run, partition, "offset", generation, queue)
    SELECT publish_number, file_id, run, partition, position, coalesce(generation, 1), queue FROM gone
    ON CONFLICT (queue, publish_number) DO NOTHING
""")
_DISCARD_SEQUENCES = sa.text("""
    WITH given AS (
        SELECT outbox.* FROM outbox JOIN unnest(CAST(:ids AS bigint[]), CAST(:numbers AS bigint[])) AS row (id, number)
            ON outbox.id = row.id AND outbox.publish_number = row.number
        FOR UPDATE OF outbox
    ), noted AS (
        INSERT INTO abandoned_numbers (publish_number, file_id, run, partition, generation, queue)
        SELECT publish_number, file_id, run, partition, coalesce(generation, 1), queue FROM given
        ON CONFLICT DO NOTHING
    )
    UPDATE outbox SET publish_number = NULL, partition = NULL, generation = NULL
    FROM given WHERE outbox.id = given.id
""")


def insert_request(
    connection: sa.Connection, file: NewFile, *, traceparent: str | None = None, owner: str | None = None
) -> FileRow:
    """Insert one request in the caller's transaction; returns its row. It is accepted when the caller commits.

    `traceparent` is a W3C trace context; None for a new one. The queue of the request was chosen before. `owner` is the
    name of who submits it.
    """
    return insert_requests(connection, [file], [traceparent], [owner])[0]


def insert_many(connection: sa.Connection, files: Sequence[NewFile], owner: str | None = None) -> list[int]:
    """Insert requests of one owner in the caller's transaction; returns their ids, in the given order."""
    if not files:
        return []
    statement = _MANY_IDS if _text_only(files) else _MANY_JOB_IDS
    return list(connection.execute(statement, _parameters(files, [None] * len(files), [owner] * len(files))).scalars())


def insert_requests(
    connection: sa.Connection,
    files: Sequence[NewFile],
    traceparents: Sequence[str | None],
    owners: Sequence[str | None],
) -> list[FileRow]:
    """Insert requests in the caller's transaction; returns their rows, in the given order."""
    if not files:
        return []
    text_only = _text_only(files)
    if text_only and len(files) == 1:
        return [_insert_text(connection, files[0], traceparents[0], owners[0])]
    statement = _MANY if text_only else _MANY_JOBS
    return [file_row(row) for row in connection.execute(statement, _parameters(files, traceparents, owners))]


def _insert_text(connection: sa.Connection, file: NewFile, traceparent: str | None, owner: str | None) -> FileRow:
    parameters = {
        "title": file.title,
        "title_search": _search_text(file.title),
        "description": file.description,
        "traceparent": traceparent or new_traceparent(),
        "owner": owner,
    }
    return file_row(connection.execute(_ONE, parameters).one())


def _text_only(files: Sequence[NewFile]) -> bool:
    return all(file.only_text for file in files)


def _parameters(
    files: Sequence[NewFile], traceparents: Sequence[str | None], owners: Sequence[str | None]
) -> dict[str, object]:
    columns: dict[str, object] = {
        "titles": [file.title for file in files],
        "title_searches": [_search_text(file.title) for file in files],
        "descriptions": [file.description for file in files],
        "traceparents": [given or new_traceparent() for given in traceparents],
        "owners": list(owners),
    }
    if not _text_only(files):
        columns |= {
            "handlers": [file.handler for file in files],
            "parameters": [file.parameters for file in files],
            "inputs": [json.encode(file.inputs).decode() if file.inputs else None for file in files],
            "queues": [file.queue or DEFAULT_QUEUE for file in files],
        }
    return columns


def _search_text(title: str) -> str | None:
    """None for an ASCII title: the search uses the title itself, ignoring the case."""
    return None if title.isascii() else search_text(title)


class WaitingQueues:
    """Which queues have rows without a sequence number: one query for all queues of a relay."""

    def __init__(self, queues: Sequence[str], seconds: float = WAITING_SECONDS, clock: Clock = time.monotonic) -> None:
        """`seconds`: how long an answer is used; 0: it is asked each time."""
        self._queues = list(queues)
        self._seconds = seconds
        self._clock = clock
        self._asked_at = float("-inf")
        self._waiting: set[str] = set()

    def take(self, connection: sa.Connection, queue: str) -> bool:
        """Whether the queue has such rows. An answer that it has some is used once."""
        if self._clock() - self._asked_at >= self._seconds:
            self._waiting = set(connection.execute(_WITH_WAITING, {"queues": self._queues}).scalars())
            self._asked_at = self._clock()
        if queue not in self._waiting:
            return False
        self._waiting.discard(queue)
        return True


class PostgresOutbox:
    """The outbox of one queue, for the holder of `lease`. (port: Outbox)."""

    def __init__(
        self,
        engine: sa.Engine,
        lease: PostgresLease,
        queue: str = DEFAULT_QUEUE,
        waiting: WaitingQueues | None = None,
    ) -> None:
        """`waiting` is shared by the outboxes of a relay; None: asked for this queue alone."""
        self._engine = engine
        self._lease = lease
        self._queue = queue
        self._waiting = waiting or WaitingQueues([queue], seconds=0)
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
            if not self._busy and not self._waiting.take(connection, self._queue):
                return []  # an idle relay asks ten times a second, so this takes no lock and writes nothing
            self._busy = False
            self._lease.fence(connection)
            queue = {"queue": self._queue}
            next_sequence = connection.execute(_COUNTER, queue).scalar_one_or_none()
            if next_sequence is None:
                connection.execute(_CREATE_COUNTER, queue)
                next_sequence = connection.execute(_COUNTER, queue).scalar_one()
            ids = list(connection.execute(_OLDEST, {**queue, "limit": limit}).scalars())
            if not ids:
                return []
            placements = assign_partitions(next_sequence, len(ids), partitions)
            connection.execute(_ADVANCE_COUNTER, {**queue, "count": len(ids)})
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
            parameters = {"queue": self._queue, "limit": limit, "after": after}
            return [ClaimedRow(*row) for row in connection.execute(_CLAIMED, parameters)]

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
