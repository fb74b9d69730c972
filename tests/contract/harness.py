"""Sets up and inspects the in-memory database and the real one, so that one suite runs on both."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import sqlalchemy as sa

from filemill.adapters.memory.database import MemoryDatabase
from filemill.adapters.memory.lease import MemoryLease
from filemill.adapters.memory.outbox import MemoryOutbox
from filemill.adapters.memory.status_store import MemoryStatusStore
from filemill.adapters.postgres.file_actions import retry_files
from filemill.adapters.postgres.lease import PostgresLease
from filemill.adapters.postgres.outbox import PostgresOutbox, insert_many
from filemill.adapters.postgres.status_store import PostgresStatusStore
from filemill.adapters.postgres.tables import File
from filemill.domain.files import NewFile
from filemill.ports import Lease, Outbox, StatusStore

# Long enough that no lease expires by itself during a test.
LEASE_SECONDS = 60.0
REQUESTED_AT = datetime(2026, 1, 4, 12, 0, tzinfo=UTC)
# The columns of a file's row, by the ports' names.
COLUMNS = (
    *("status", "run", "s3_location", "sha256", "size", "worker_id", "partition", "offset", "attempt"),
    *("step", "steps", "progress_at", "started_at", "finished_at", "error"),
)


# File, run, worker and stated start of a delivery, and whether its result was repeated.
Delivered = tuple[int, int, str | None, datetime | None, bool]


class FencedLease(Lease, Protocol):
    """A lease whose fencing token tests can read."""

    fencing: int | None


class DatabaseHarness(Protocol):
    """A database for the suites of Lease, Outbox and StatusStore."""

    def lease(self, holder: str, name: str = "relay") -> FencedLease:
        """A lease, as one process uses it."""

    def advance(self, seconds: float, name: str = "relay") -> None:
        """Advance the lease's clock."""

    def expire(self, name: str = "relay") -> None:
        """Advance the lease's clock beyond its expiry."""

    def outbox(self, lease: FencedLease) -> Outbox:
        """The outbox for the lease's holder."""

    def store(self, lease: FencedLease) -> StatusStore:
        """The status store for the lease's holder."""

    def submit(self, titles: Sequence[str]) -> list[int]:
        """Accept requests."""

    def retry(self, file_id: int) -> None:
        """Start a new run of a file that failed or was cancelled."""

    def row(self, file_id: int) -> dict[str, Any]:
        """The columns above."""

    def deliveries(self) -> set[Delivered]:
        """File, run, worker and stated start of each delivery, and whether its result was repeated."""

    def waiting(self) -> list[int]:
        """The ids of files in the outbox, in the order of acceptance."""

    def publications(self) -> dict[int, tuple[int, int, int]]:
        """File, partition and offset by sequence number."""

    def rejected(self) -> dict[tuple[str, int, int], str]:
        """Reasons by topic, partition and offset; only of the newest topic of a name."""

    def rejection_codes(self) -> dict[tuple[str, int, int], str]:
        """Codes by topic, partition and offset; only of the newest topic of a name."""

    def events(self) -> dict[tuple[int, int], str]:
        """Worker ids by partition and offset; only of the newest topic."""

    def discarded_sequences(self) -> dict[int, int]:
        """File ids by discarded sequence number."""


class MemoryHarness:
    """The in-memory database, on a clock that does not advance by itself."""

    def __init__(self) -> None:
        self.database = MemoryDatabase(clock=lambda: 0.0)

    def lease(self, holder: str, name: str = "relay") -> MemoryLease:
        return MemoryLease(self.database, name, holder, LEASE_SECONDS)

    def advance(self, seconds: float, name: str = "relay") -> None:
        self.database.leases[name].expires_at -= seconds

    def expire(self, name: str = "relay") -> None:
        self.advance(LEASE_SECONDS + 1, name)

    def outbox(self, lease: FencedLease) -> MemoryOutbox:
        assert isinstance(lease, MemoryLease)
        return MemoryOutbox(self.database, lease)

    def store(self, lease: FencedLease) -> MemoryStatusStore:
        assert isinstance(lease, MemoryLease)
        return MemoryStatusStore(self.database, lease)

    def submit(self, titles: Sequence[str]) -> list[int]:
        return self.database.submit([NewFile(title, f"about {title}") for title in titles], REQUESTED_AT)

    def retry(self, file_id: int) -> None:
        self.database.retry(file_id)

    def row(self, file_id: int) -> dict[str, Any]:
        row = self.database.files[file_id]
        return {name: getattr(row, name) for name in COLUMNS}

    def deliveries(self) -> set[Delivered]:
        return {(*key, repeated) for key, repeated in self.database.deliveries.items()}

    def waiting(self) -> list[int]:
        return [row.file_id for row in self.database.outbox.values()]

    def publications(self) -> dict[int, tuple[int, int, int]]:
        return {
            number: (row.claimed.file_id, row.claimed.partition, row.offset)
            for number, row in self.database.publications.items()
        }

    def rejected(self) -> dict[tuple[str, int, int], str]:
        return dict(self.database.rejected)

    def rejection_codes(self) -> dict[tuple[str, int, int], str]:
        return {key: code.value for key, code in self.database.rejection_codes.items()}

    def events(self) -> dict[tuple[int, int], str]:
        return {place: event.worker_id for place, event in self.database.events.items()}

    def discarded_sequences(self) -> dict[int, int]:
        return dict(self.database.discarded_sequences)


class PostgresHarness:
    """A real database, emptied."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        with engine.begin() as connection:
            connection.execute(
                sa.text(
                    "TRUNCATE files, outbox, publications, leases, sync_positions, rejected_messages, worker_events,"
                    " workers, topic_generations, abandoned_numbers, deliveries RESTART IDENTITY"
                )
            )
            connection.execute(sa.text("UPDATE publish_counter SET next_number = 1"))

    def lease(self, holder: str, name: str = "relay") -> PostgresLease:
        return PostgresLease(self.engine, name, holder, LEASE_SECONDS)

    def advance(self, seconds: float, name: str = "relay") -> None:
        with self.engine.begin() as connection:
            connection.execute(
                sa.text("UPDATE leases SET expires_at = expires_at - make_interval(secs => :s) WHERE name = :name"),
                {"name": name, "s": seconds},
            )

    def expire(self, name: str = "relay") -> None:
        self.advance(LEASE_SECONDS + 1, name)

    def outbox(self, lease: FencedLease) -> PostgresOutbox:
        assert isinstance(lease, PostgresLease)
        return PostgresOutbox(self.engine, lease)

    def store(self, lease: FencedLease) -> PostgresStatusStore:
        assert isinstance(lease, PostgresLease)
        return PostgresStatusStore(self.engine, lease)

    def submit(self, titles: Sequence[str]) -> list[int]:
        with self.engine.begin() as connection:
            ids = insert_many(connection, [NewFile(title, f"about {title}") for title in titles])
            connection.execute(sa.update(File).where(File.id.in_(ids)).values(created_at=REQUESTED_AT))
        return ids

    def retry(self, file_id: int) -> None:
        with self.engine.begin() as connection:
            assert list(retry_files(connection, [file_id])) == [file_id]

    def row(self, file_id: int) -> dict[str, Any]:
        query = sa.select(File.__table__).where(File.id == file_id)
        with self.engine.connect() as connection:
            row = connection.execute(query).one()._asdict()
        return {name: row.get(f"kafka_{name}", row.get(name)) for name in COLUMNS}

    def deliveries(self) -> set[Delivered]:
        rows = self._rows("SELECT * FROM deliveries")
        names = ("file_id", "run", "worker_id", "stated_start", "repeated")
        return {tuple(row[name] for name in names) for row in rows}

    def waiting(self) -> list[int]:
        return [row["file_id"] for row in self._rows("SELECT file_id FROM outbox ORDER BY id")]

    def publications(self) -> dict[int, tuple[int, int, int]]:
        rows = self._rows("SELECT * FROM publications")
        return {row["publish_number"]: (row["file_id"], row["partition"], row["offset"]) for row in rows}

    def rejected(self) -> dict[tuple[str, int, int], str]:
        rows = self._rows("SELECT * FROM rejected_messages ORDER BY generation")
        return {(row["topic"], row["partition"], row["offset"]): row["reason"] for row in rows}

    def rejection_codes(self) -> dict[tuple[str, int, int], str]:
        rows = self._rows("SELECT * FROM rejected_messages ORDER BY generation")
        return {(row["topic"], row["partition"], row["offset"]): row["code"] for row in rows}

    def events(self) -> dict[tuple[int, int], str]:
        rows = self._rows("SELECT * FROM worker_events ORDER BY generation")
        assert all(row["body"]["workerId"] == row["worker_id"] for row in rows)
        return {(row["partition"], row["offset"]): row["worker_id"] for row in rows}

    def discarded_sequences(self) -> dict[int, int]:
        return {row["publish_number"]: row["file_id"] for row in self._rows("SELECT * FROM abandoned_numbers")}

    def _rows(self, query: str) -> Sequence[sa.RowMapping]:
        with self.engine.connect() as connection:
            return connection.execute(sa.text(query)).mappings().all()
