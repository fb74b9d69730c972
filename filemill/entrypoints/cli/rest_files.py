"""What the commands about files need, through REST: the methods of `FileSource`."""

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.cursors import OLDER_FILES, InvalidCursor
from filemill.domain.file_actions import ActionResult, FileAction, FileRefusal, FileSelection, RefusalCode
from filemill.domain.files import NewFile, Status
from filemill.domain.idempotency import HEADER
from filemill.domain.integrity import ExpectedObject
from filemill.entrypoints.cli.output import CommandFailed
from filemill.entrypoints.cli.rest_client import RestClient
from filemill.errors import InvalidRequest
from filemill.queries.files import LIMIT_MAX, FilePage, FilesToDelete, FileTitle
from filemill_dashboard.rest.records import IDS_MAX


class _FileList(msgspec.Struct, frozen=True):
    items: list[FileRow]
    next_cursor: str | None
    previous_cursor: str | None


class _Refused(msgspec.Struct, frozen=True):
    """An older server gives no code."""

    file_id: int
    reason: str
    code: RefusalCode = RefusalCode.WRONG_STATUS


class _Applied(msgspec.Struct, frozen=True):
    done: list[int]
    refused: list[_Refused]
    more: bool


class RestFiles:
    """Files as a dashboard shows them to the owner of the token."""

    # REST takes one request at a time, and a look at each file costs the dashboard more than a query.
    submit_rows = 1
    poll_seconds = 0.5

    def __init__(self, client: RestClient) -> None:
        self._client = client
        self._final: dict[int, Status] = {}
        self._listed: dict[int, FileRow] = {}

    def submit(self, files: list[NewFile], key: str) -> list[int]:
        """See FileSource."""
        own = {HEADER: f'"{key}"'}
        return [self._client.post("/api/files", FileRow, _document(file), own).id for file in files]

    def count_statuses(self, ids: list[int]) -> dict[Status, int]:
        """See FileSource. Files in a final status are not asked for again."""
        found = {one: self._final[one] for one in ids if one in self._final}
        wanted = {one for one in ids if one not in found}
        while wanted:
            newest, oldest = max(wanted), min(wanted)
            limit = min(LIMIT_MAX, newest - oldest + 1)
            page = self._list(FileSelection(), limit, OLDER_FILES.encode(newest + 1))
            found |= {row.id: row.status for row in page.items if row.id in wanted}
            seen = page.items[-1].id if page.next_cursor and page.items else oldest
            wanted = {one for one in wanted if one < seen}
        self._final |= {one: status for one, status in found.items() if status.terminal}
        return dict(Counter(found.values()))

    def page(self, selection: FileSelection, *, limit: int, cursor: str | None, excerpts: bool) -> FilePage:
        """See FileSource. `as_of` is the time of the response."""
        del excerpts  # the response has whole descriptions
        try:
            found, moment = self._client.get_dated(
                "/api/files", _FileList, **_query(selection), limit=limit, cursor=cursor
            )
        except InvalidRequest as error:
            if error.field == "cursor":
                raise InvalidCursor from None
            raise
        return FilePage(found.items, found.next_cursor, found.previous_cursor, moment)

    def file(self, file_id: int) -> FileRow | None:
        """See FileSource."""
        try:
            return self._client.get(f"/api/files/{file_id}", FileRow)
        except CommandFailed as error:
            if error.code == "not_found":
                return None
            raise

    def content(self, row: FileRow, key: str) -> Iterator[bytes]:
        """See FileSource. The last part is yielded after the check."""
        expected = ExpectedObject(row.id, key, row.sha256, row.size)
        digest, size, withheld = expected.digest(), 0, b""
        with self._client.stream(f"/api/files/{row.id}/download") as parts:
            for part in parts:
                digest.update(part)
                size += len(part)
                yield withheld
                withheld = part
        expected.check_size(size)
        digest.finish()
        yield withheld

    def with_status(self, status: Status) -> list[int]:
        """See FileSource."""
        return sorted(self._ids(FileSelection(status)))

    def matching(self, action: FileAction, selection: FileSelection) -> list[int]:
        """See FileSource."""
        found: set[int] = set()
        for status in selection.eligible(action):
            found.update(self._ids(msgspec.structs.replace(selection, status=status)))
        return sorted(found)

    def deletable(self, ids: Sequence[int], limit: int) -> FilesToDelete:
        """See FileSource."""
        count, first = 0, list[FileTitle]()
        for file_id in sorted(ids):
            row = self._listed.get(file_id) or self.file(file_id)
            if row is not None and row.status.terminal:
                count += 1
                first += [FileTitle(row.id, row.title)][: limit - len(first)]
        return FilesToDelete(count, first)

    def apply(self, action: FileAction, ids: Sequence[int]) -> ActionResult:
        """See FileSource."""
        found = self._client.post(f"/api/files/{action}", _Applied, {"ids": ids})
        return ActionResult(found.done, [FileRefusal(one.file_id, one.reason, one.code) for one in found.refused])

    def retry_lost(self) -> list[int]:
        """See FileSource."""
        done: list[int] = []
        more = True
        while more:
            found = self._client.post("/api/files/retry", _Applied, {"lost": True, "limit": IDS_MAX})
            done += found.done
            more = found.more and bool(found.done)
        return done

    def _ids(self, selection: FileSelection) -> Iterator[int]:
        cursor: str | None = ""
        while cursor is not None:
            page = self._list(selection, LIMIT_MAX, cursor)
            self._listed |= {row.id: row for row in page.items}
            yield from (row.id for row in page.items)
            cursor = page.next_cursor

    def _list(self, selection: FileSelection, limit: int, cursor: str) -> _FileList:
        return self._client.get("/api/files", _FileList, **_query(selection), limit=limit, cursor=cursor)


def _query(selection: FileSelection) -> dict[str, str | None]:
    return {
        "status": selection.status,
        "search": selection.search,
        "queue": selection.queue,
        "handler": selection.handler,
    }


def _document(file: NewFile) -> dict[str, object]:
    """The body of a request. Its parameters are sent as they were written."""
    parameters = None if file.parameters is None else msgspec.Raw(file.parameters.encode())
    return {
        "title": file.title,
        "description": file.description,
        "handler": file.handler,
        "parameters": parameters,
        "queue": file.queue,
    }
