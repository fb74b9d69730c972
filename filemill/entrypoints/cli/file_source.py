"""What the commands about files need, from the servers themselves. `rest_files.py` has the same through REST."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from filemill.adapters.postgres.file_rows import FileRow
from filemill.config.settings import Settings, load
from filemill.domain.file_actions import ActionResult, FileAction, FileSelection
from filemill.domain.files import NewFile, Status
from filemill.domain.integrity import ExpectedObject
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli.arguments import principal
from filemill.entrypoints.cli.output import CommandFailed
from filemill.entrypoints.cli.rest_client import rest_client
from filemill.entrypoints.cli.rest_files import RestFiles
from filemill.errors import NotFound
from filemill.queries.files import (
    FilePage,
    FilesToDelete,
    count_statuses_of,
    deletable,
    get_file,
    ids_with_status,
    list_files,
)
from filemill.services.operations import Operations
from filemill.services.submissions import Submissions

BATCH = 1000


class FileSource(Protocol):
    """The files of a deployment. Each method raises Unavailable."""

    # How many requests `submit` takes at once, and the seconds between two looks at what became of them.
    submit_rows: int
    poll_seconds: float

    def submit(self, files: list[NewFile], key: str) -> list[int]:
        """Submit requests once, with an idempotency key; returns their ids. Raises KeyReused, InvalidRequest."""

    def count_statuses(self, ids: list[int]) -> dict[Status, int]:
        """How many of the files (ascending ids) have each status."""

    def page(self, selection: FileSelection, *, limit: int, cursor: str | None, excerpts: bool) -> FilePage:
        """A page of the files that match. Raises InvalidCursor."""

    def file(self, file_id: int) -> FileRow | None:
        """One file, or None."""

    def content(self, row: FileRow, key: str) -> Iterator[bytes]:
        """The content of a completed file, checked after its last part. Raises ObjectMismatch, CommandFailed."""

    def with_status(self, status: Status) -> list[int]:
        """The ids of all files that have the status, ascending."""

    def matching(self, action: FileAction, selection: FileSelection) -> list[int]:
        """The ids of all files that match and allow the action, ascending."""

    def deletable(self, ids: Sequence[int], limit: int) -> FilesToDelete:
        """Those of the files that can be deleted: their number, and the first `limit`."""

    def apply(self, action: FileAction, ids: Sequence[int]) -> ActionResult:
        """Do the action to at most 1,000 files."""

    def retry_lost(self) -> list[int]:
        """Retry all unfinished files whose records are gone from Kafka; returns their ids."""


def file_source(home: Path | None, role: str) -> FileSource:
    """Through REST if the environment names a dashboard. `role` names the connections to the database."""
    client = rest_client(home)
    return DirectFiles(load(home=home), role) if client is None else RestFiles(client)


class DirectFiles:
    """Files by the credentials of the servers."""

    submit_rows = BATCH
    poll_seconds = 0.1

    def __init__(self, settings: Settings, role: str) -> None:
        self._settings = settings
        self._engine = bootstrap.create_engine(settings, role)
        self._submissions = Submissions(self._engine, queues=list(settings.all_queues))

    @cached_property
    def _operations(self) -> Operations:
        return bootstrap.operations(self._settings, self._engine)

    def submit(self, files: list[NewFile], key: str) -> list[int]:
        """See FileSource."""
        return self._submissions.submit_many_once(files, key, principal=principal())

    def count_statuses(self, ids: list[int]) -> dict[Status, int]:
        """See FileSource."""
        with self._engine.connect() as connection:
            return count_statuses_of(connection, ids)

    def page(self, selection: FileSelection, *, limit: int, cursor: str | None, excerpts: bool) -> FilePage:
        """See FileSource."""
        with self._engine.connect() as connection:
            return list_files(connection, selection, limit=limit, cursor=cursor, excerpts=excerpts)

    def file(self, file_id: int) -> FileRow | None:
        """See FileSource."""
        with self._engine.connect() as connection:
            return get_file(connection, file_id)

    def content(self, row: FileRow, key: str) -> Iterator[bytes]:
        """See FileSource."""
        settings = self._settings
        expected = ExpectedObject(row.id, key, row.sha256, row.size)
        try:
            body = bootstrap.bucket(settings).read(key)
        except NotFound:
            missing = f"the bucket {settings.s3_bucket} at {settings.s3_endpoint} has no object {key}"
            raise CommandFailed(missing, 1) from None
        expected.check(body)
        yield body

    def with_status(self, status: Status) -> list[int]:
        """See FileSource."""
        with self._engine.connect() as connection:
            return ids_with_status(connection, status)

    def matching(self, action: FileAction, selection: FileSelection) -> list[int]:
        """See FileSource."""
        upto, chosen, after = self._operations.newest_id(), list[int](), 0
        while found := self._operations.matching_ids(action, selection, after=after, upto=upto, limit=BATCH):
            chosen += found
            after = found[-1]
        return chosen

    def deletable(self, ids: Sequence[int], limit: int) -> FilesToDelete:
        """See FileSource."""
        with self._engine.connect() as connection:
            return deletable(connection, ids, limit=limit)

    def apply(self, action: FileAction, ids: Sequence[int]) -> ActionResult:
        """See FileSource."""
        return self._operations.apply(action, ids, principal())

    def retry_lost(self) -> list[int]:
        """See FileSource."""
        done: list[int] = []
        after = 0
        while ids := self._operations.gone_requests(after=after, limit=BATCH):
            done += self._operations.resubmit(ids, principal())
            after = ids[-1]
        return done
