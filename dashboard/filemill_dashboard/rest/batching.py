"""Requests that come while others are being accepted are accepted in the next transaction, all in one.

A request alone waits for nobody. At hundreds a second, with a transaction each, they would wait for each other, for
threads and for commits.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.files import NewFile
from filemill.errors import Unavailable
from filemill.services.submissions import SubmissionAbandoned
from filemill_dashboard.rest.threads import RequestThreads, client_waits
from filemill_dashboard.state.services import Services

# Requests in one transaction; the others have the next.
BATCH_MAX = 500


class _Asking(msgspec.Struct, frozen=True, eq=False):
    """A request, and what its sender waits for."""

    file: NewFile
    traceparent: str | None
    row: asyncio.Future[FileRow]

    @property
    def waits(self) -> bool:
        """Whether the sender has no answer yet: who waited too long had one."""
        return not self.row.done()

    def answer(self, answer: FileRow | Exception) -> None:
        """Have the sender answered, if it still waits."""
        if not self.waits:
            return
        if isinstance(answer, Exception):
            self.row.set_exception(answer)
        else:
            self.row.set_result(answer)


class SubmissionBatcher:
    """Accepts requests for one event loop."""

    def __init__(self, services: Services, threads: RequestThreads) -> None:
        self._services = services
        self._threads = threads
        self._waiting: list[_Asking] = []
        self._at_work: asyncio.Task[None] | None = None

    async def submit(self, file: NewFile, traceparent: str | None) -> FileRow:
        """Accept a request; returns its row. Raises Unavailable: then it is not accepted later either."""
        loop = asyncio.get_running_loop()
        asking = _Asking(file, traceparent, loop.create_future())
        self._waiting.append(asking)
        if self._at_work is None:
            self._at_work = loop.create_task(self._work())
        with self._threads.timeout():
            return await asking.row

    async def submit_once(self, file: NewFile, key: str, traceparent: str | None) -> tuple[FileRow, bool]:
        """Accept a request that has a key, in a transaction of its own; returns its row, and whether it was known.

        Raises idempotency.KeyReused; Unavailable, and then it may have been accepted.
        """
        with client_waits() as wanted:
            return await self._threads.run(
                lambda: self._services.submissions.submit_once(file, key, traceparent, wanted)
            )

    async def _work(self) -> None:
        try:
            while self._waiting:
                together, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
                await self._accept(together)
        finally:
            self._at_work = None

    async def _accept(self, together: Sequence[_Asking]) -> None:
        asking = [one for one in together if one.waits]
        if not asking:
            return
        try:
            rows = await self._threads.run(lambda: self._accepted(asking))
        except SubmissionAbandoned:
            await self._accept(asking)
        except Exception as error:  # noqa: BLE001 - it is raised to the senders
            if isinstance(error, Unavailable) or len(asking) == 1:
                for one in asking:
                    one.answer(error)
                return
            for one in asking:  # whatever is wrong with one of them is not the others' affair
                await self._accept([one])
        else:
            for one, row in zip(asking, rows, strict=True):
                one.answer(row)

    def _accepted(self, asking: Sequence[_Asking]) -> list[FileRow]:
        files, traceparents = [one.file for one in asking], [one.traceparent for one in asking]
        return self._services.submissions.submit_batch(files, traceparents, lambda: all(one.waits for one in asking))
