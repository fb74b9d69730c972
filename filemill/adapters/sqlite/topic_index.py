"""Topic contents in a temporary SQLite file, so that memory does not grow with the number of files.

The file has no name. The operating system removes it when the process ends, however it ends.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from filemill.domain.partitioning import Placement
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.domain.topic_records import CancelledRecord, DeadLetterRecord, IndexedResult, RequestRecord, TopicFacts
from filemill.errors import Unavailable

# Created after most rows are in: maintaining them for each insert would take twice as long.
_INDEXES = """
    CREATE INDEX requests_by_sequence ON requests (queue, sequence, partition);
    CREATE INDEX results_by_file ON results (file_id, run);
    CREATE INDEX dead_letters_by_file ON dead_letters (file_id);
    CREATE INDEX dead_letters_by_position ON dead_letters (queue, partition, "offset");
    CREATE INDEX cancelled_by_position ON cancelled (queue, partition, "offset");
"""
_COMMITTED_UNFINISHED = """
    SELECT * FROM requests AS request WHERE queue = ? AND partition = ? AND "offset" < ?
    AND NOT EXISTS (
        SELECT 1 FROM results WHERE file_id = request.file_id AND (run IS NULL OR run = request.run)
    ) AND NOT EXISTS (
        SELECT 1 FROM dead_letters
        WHERE queue = request.queue AND partition = request.partition AND "offset" = request."offset"
    ) AND NOT EXISTS (
        SELECT 1 FROM cancelled
        WHERE queue = request.queue AND partition = request.partition AND "offset" = request."offset"
    ) ORDER BY "offset"
"""

_Row = RequestRecord | IndexedResult | DeadLetterRecord | CancelledRecord
_TABLES: dict[str, type[_Row]] = {
    "requests": RequestRecord,
    "results": IndexedResult,
    "dead_letters": DeadLetterRecord,
    "cancelled": CancelledRecord,
}


class TopicIndex:
    """Requests, results, dead letters and cancelled records, indexed by file, position and sequence number.

    Every method raises Unavailable if the temporary folder is full.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        self._database.execute("PRAGMA journal_mode = OFF")
        for table, record in _TABLES.items():
            columns = ", ".join(f'"{field}"' for field in record._fields)
            self._database.execute(f"CREATE TABLE {table} ({columns})")

    def close(self) -> None:
        """Remove the file."""
        self._database.close()

    def insert(self, table: str, rows: Iterable[_Row]) -> None:
        """Insert rows into the table of their type."""
        values = ", ".join("?" for _ in _TABLES[table]._fields)
        with _storage_errors():
            self._database.executemany(f"INSERT INTO {table} VALUES ({values})", rows)  # noqa: S608 - a known name
            self._database.commit()

    def create_indexes(self) -> None:
        """Create the indexes, once most rows are in."""
        with _storage_errors():
            self._database.executescript(_INDEXES)

    def ignore_unknown_sequences(self, next_sequence: int, queue: str = DEFAULT_QUEUE) -> int:
        """Ignore sequence numbers that no relay has assigned yet; returns how many records carry one."""
        statement = "UPDATE requests SET sequence = NULL WHERE queue = ? AND sequence >= ?"
        with _storage_errors():
            return self._database.execute(statement, (queue, next_sequence)).rowcount

    def has_request(self, sequence: int, file_id: int, queue: str = DEFAULT_QUEUE) -> bool:
        """Whether a record with this sequence number of the queue requests this file."""
        query = "SELECT count(*) FROM requests WHERE queue = ? AND sequence = ? AND file_id = ?"
        return bool(next(self._rows(query, (queue, sequence, file_id)))[0])

    def first_sequence(self, queue: str = DEFAULT_QUEUE) -> int | None:
        """The least sequence number on the queue's topic."""
        ((least,),) = self._rows("SELECT min(sequence) FROM requests WHERE queue = ?", (queue,))
        return None if least is None else int(least)

    def facts(self, first_id: int, last_id: int) -> TopicFacts:
        """Results and dead letters of the files from one id to another, both included."""
        ids = first_id, last_id
        results = self._rows("SELECT * FROM results WHERE file_id BETWEEN ? AND ? ORDER BY rowid", ids)
        dead_letters = self._rows("SELECT file_id FROM dead_letters WHERE file_id BETWEEN ? AND ?", ids)
        return TopicFacts(map(IndexedResult._make, results), (file_id for (file_id,) in dead_letters))

    def sequences(self, queue: str = DEFAULT_QUEUE) -> Iterator[Placement]:
        """The distinct sequence numbers on a queue's topic, ascending, each with the partition that was read first."""
        query = "SELECT sequence, partition, min(rowid) FROM requests WHERE queue = ? AND sequence IS NOT NULL"
        rows = self._rows(f"{query} GROUP BY sequence ORDER BY sequence", (queue,))
        return (Placement(sequence, partition) for sequence, partition, _ in rows)

    def sequences_on_two_partitions(self, queue: str = DEFAULT_QUEUE) -> Iterator[int]:
        """The sequence numbers that are on more than one partition of a queue's topic, ascending."""
        query = "SELECT sequence FROM requests WHERE queue = ? AND sequence IS NOT NULL GROUP BY sequence"
        rows = self._rows(f"{query} HAVING min(partition) < max(partition) ORDER BY sequence", (queue,))
        return (sequence for (sequence,) in rows)

    def committed_unfinished(
        self, committed: Mapping[int, int | None], queue: str = DEFAULT_QUEUE
    ) -> list[RequestRecord]:
        """Records below the committed offset of their partition without result, dead letter or cancellation."""
        parameters = [(queue, partition, offset) for partition, offset in committed.items() if offset]
        return [RequestRecord._make(row) for pair in parameters for row in self._rows(_COMMITTED_UNFINISHED, pair)]

    def repeats(self) -> int:
        """The number of records that repeat a sequence number of their queue."""
        return self._count(
            "SELECT sum(times) FROM (SELECT count(sequence) - count(DISTINCT sequence) AS times FROM requests"
            " GROUP BY queue)"
        )

    def duplicate_results(self) -> int:
        """The number of records on `file.created` that are not the first of their run."""
        return self._count("SELECT sum(times - 1) FROM (SELECT count(*) AS times FROM results GROUP BY file_id, run)")

    def dead_letters(self) -> int:
        """The number of dead letters."""
        return self._count("SELECT count(*) FROM dead_letters")

    def distinct_dead_letters(self) -> int:
        """The number of dead-lettered records. A reprocessed record may have several dead letters.

        A dead letter without a position counts as a record of its own.
        """
        return self._count(
            'SELECT count(DISTINCT queue || char(58) || partition || char(58) || "offset") + sum(partition IS NULL)'
            " FROM dead_letters"
        )

    def _count(self, query: str) -> int:
        ((count,),) = self._rows(query)
        return count or 0

    def _rows(self, query: str, parameters: Sequence[int | str] = ()) -> Iterator[tuple[Any, ...]]:
        with _storage_errors():
            yield from self._database.execute(query, parameters)


@contextlib.contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unavailable(f"cannot write topic contents to a temporary file (set TMPDIR): {error}") from None
