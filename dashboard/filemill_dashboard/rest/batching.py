"""Batching of submissions: requests that arrive during a transaction are accepted together in the next one.

A single request does not wait. At hundreds of requests per second, one transaction each would make them wait for each
other's threads and commits.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.files import NewFile
from filemill.domain.limits import LimitExceeded
from filemill.domain.permissions import Principal
from filemill.errors import Unavailable
from filemill.services.submissions import SubmissionAbandoned
from filemill_dashboard.rest.threads import RequestThreads, client_waits
from filemill_dashboard.state.services import Services

# Requests per transaction; further ones go into the next.
BATCH_MAX = 500


class _PendingSubmission(msgspec.Struct, frozen=True, eq=False):
    """A request, and the future that its client waits for."""

    file: NewFile
    traceparent: str | None
    principal: Principal
    row: asyncio.Future[FileRow]

    @property
    def waiting(self) -> bool:
        """Whether the client still waits: after its timeout it was answered 503."""
        return not self.row.done()

    def resolve(self, result: FileRow | Exception) -> None:
        """Give the client the row or the error, if it still waits."""
        if not self.waiting:
            return
        if isinstance(result, Exception):
            self.row.set_exception(result)
        else:
            self.row.set_result(result)


class SubmissionBatcher:
    """Accepts requests in batches. For one event loop."""

    def __init__(self, services: Services, threads: RequestThreads) -> None:
        self._services = services
        self._threads = threads
        self._pending: list[_PendingSubmission] = []
        self._task: asyncio.Task[None] | None = None

    async def submit(self, file: NewFile, traceparent: str | None, principal: Principal) -> FileRow:
        """Accept a request; returns its row.

        Raises LimitExceeded; Unavailable, and then it is not accepted later either.
        """
        loop = asyncio.get_running_loop()
        submission = _PendingSubmission(file, traceparent, principal, loop.create_future())
        self._pending.append(submission)
        if self._task is None:
            self._task = loop.create_task(self._submit_pending())
        with self._threads.timeout():
            return await submission.row

    async def submit_once(
        self, file: NewFile, key: str, traceparent: str | None, principal: Principal
    ) -> tuple[FileRow, bool]:
        """Accept a request with an idempotency key in its own transaction; returns its row, and whether it was known.

        Raises KeyReused; Unavailable, and then it may have been accepted.
        """
        with client_waits() as still_wanted:
            return await self._threads.run(
                lambda: self._services.submissions.submit_once(
                    file, key, traceparent, still_wanted, principal=principal
                )
            )

    async def _submit_pending(self) -> None:
        try:
            while self._pending:
                batch, self._pending = self._pending[:BATCH_MAX], self._pending[BATCH_MAX:]
                await self._submit_batch(batch)
        finally:
            self._task = None

    async def _submit_batch(self, batch: Sequence[_PendingSubmission]) -> None:
        waiting = [one for one in batch if one.waiting]
        if not waiting:
            return
        try:
            rows = await self._threads.run(lambda: self._insert(waiting))
        except SubmissionAbandoned:
            await self._submit_batch(waiting)
        except Exception as error:  # noqa: BLE001 - the clients get it
            if isinstance(error, Unavailable) or len(waiting) == 1:
                for one in waiting:
                    one.resolve(error)
                return
            for one in waiting:  # one of them is at fault; the others are accepted
                await self._submit_batch([one])
        else:
            for one, row in zip(waiting, rows, strict=True):
                one.resolve(row)

    def _insert(self, batch: Sequence[_PendingSubmission]) -> list[FileRow | LimitExceeded]:
        return self._services.submissions.submit_batch(
            [one.file for one in batch],
            [one.traceparent for one in batch],
            lambda: all(one.waiting for one in batch),
            principals=[one.principal for one in batch],
        )
