"""Checks the objects that handlers made, in bounded memory, and makes those of deterministic handlers again."""

import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from filemill.domain.files import object_key
from filemill.domain.handlers import TEXT_HANDLER
from filemill.errors import AttemptFailed, NotFound, PermanentError, RetryLater
from filemill.handlers.definition import Handler
from filemill.handlers.job import JobRequest
from filemill.handlers.pool import AttemptHooks
from filemill.ports import ObjectStreams
from filemill.queries.verification import FileRow
from filemill.verification.findings import FindingCode
from filemill.verification.report import VerificationReport


class InstalledHandlers(Protocol):
    """The handlers of this process."""

    def get(self, name: str) -> Handler | None:
        """The handler with this name, or None."""

    async def run(self, handler: Handler, request: JobRequest, hooks: AttemptHooks) -> None:
        """Run an attempt. Raises PermanentError, RetryLater, AttemptFailed."""


class HandlerResults:
    """Checks the results of handlers. Raises Unavailable."""

    def __init__(self, streams: ObjectStreams, handlers: InstalledHandlers | None, report: VerificationReport) -> None:
        """`handlers`: None, if nothing is made again."""
        self._streams = streams
        self._handlers = handlers
        self._report = report
        self._not_made_again: Counter[str] = Counter()

    async def check(self, row: FileRow, version: str | None = None) -> None:
        """Compare the object of a completed row with the row, and with a new result if its handler allows it.

        `version` of the handler made it; None if it is unknown. Another version may make other bytes.
        """
        found = _Digest()
        try:
            async for chunk in self._chunks(row.s3_location or ""):
                found.add(chunk)
        except NotFound:
            self._report.add_finding(FindingCode.OBJECT_MISSING, row.id, row.id)
            return
        if row.sha256 is not None and (found.sha256 != row.sha256 or found.size != row.size):
            self._report.add_finding(FindingCode.OBJECT_DIFFERS, row.id, row.id)
        handler = self._handlers.get(row.handler) if self._handlers is not None else None
        if handler is None:
            self._not_made_again[f'the handler "{row.handler}" is not installed here'] += 1
        elif handler.deterministic and version not in (None, handler.version):
            installed = f"{handler.version} is installed here"
            self._not_made_again[f'the version {version} of "{row.handler}" made it, and {installed}'] += 1
        elif handler.deterministic:
            await self._make_again(row, handler, found)

    def add_notes(self) -> None:
        """Add what was not checked to the report."""
        for reason, count in sorted(self._not_made_again.items()):
            files = "file was" if count == 1 else "files were"
            self._report.add_note(f"{count} {files} not made again for a comparison: {reason}")

    async def _make_again(self, row: FileRow, handler: Handler, found: "_Digest") -> None:
        if row.inputs:
            self._not_made_again[f'requests of "{row.handler}" have inputs'] += 1
            return
        key = object_key(row.id, row.created_at, handler.extension)
        made = _Digest()

        async def write(data: bytes) -> None:
            made.add(data)

        request = JobRequest(
            handler=handler.name,
            parameters=msgspec.json.encode(row.parameters or {}),
            id=row.id,
            run=row.run,
            title=row.title,
            description=row.description,
            requested_at=row.created_at,
        )
        assert self._handlers is not None
        try:
            await self._handlers.run(handler, request, AttemptHooks(write=write))
        except (PermanentError, RetryLater, AttemptFailed) as error:
            self._not_made_again[f'"{row.handler}" failed here: {error}'] += 1
            return
        if made.sha256 != found.sha256:
            self._report.add_finding(FindingCode.RENDER_DIFFERS, row.id, row.id)
        elif row.s3_location != key:
            self._report.add_finding(FindingCode.RENDER_DIFFERS, f"{row.id} (key {row.s3_location})", row.id)

    def _chunks(self, key: str) -> AsyncIterator[bytes]:
        return self._streams.chunks(key)


class _Digest:
    """The hash and the size of what was added."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0

    def add(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def is_of_handler(row: FileRow) -> bool:
    """Whether a handler made the object of a row, and not the text of the reference design."""
    return bool(row.handler != TEXT_HANDLER)
