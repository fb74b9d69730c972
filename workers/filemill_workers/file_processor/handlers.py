"""The handlers of a processor: plain functions run in the pool of processes, coroutines on the executor's loop."""

import asyncio
import contextlib
import inspect
import shutil
import tempfile
import traceback
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

from filemill.domain.queues import DEFAULT_QUEUE
from filemill.errors import AttemptFailed, DeadLetterCode, PermanentError, RetryLater, Unavailable
from filemill.handlers.definition import Handler
from filemill.handlers.job import Job, JobRequest
from filemill.handlers.pool import AttemptHooks, AttemptUsage, ChildPool, LogTail
from filemill.handlers.registry import HandlerRegistry
from filemill.handlers.runner import TRACE_MAX_CHARACTERS, ResultInvalid, chunks
from filemill_workers.file_processor.places import ProcessPlaces

# A coroutine that ignores its cancellation for this time is left alone: its result is not used.
CANCEL_SECONDS = 1.0


class Handlers:
    """Runs attempts of handlers. For the thread of the event loop; any thread may read `longest_timeout`."""

    def __init__(self, registry: HandlerRegistry, pool: ChildPool, process_places: ProcessPlaces | None = None) -> None:
        """`process_places` divides the processes among the queues; None: first come, first served."""
        self._process_places = process_places
        self.registry = registry
        self._pool = pool
        self._running: dict[int, float] = {}
        self._places: dict[str, asyncio.Semaphore] = {}

    def get(self, name: str) -> Handler | None:
        """The handler with this name, or None."""
        return self.registry.get(name)

    @property
    def longest_timeout(self) -> float:
        """The longest deadline of the attempts in progress, in seconds; 0 without any."""
        return max(list(self._running.values()), default=0.0)

    async def run(self, handler: Handler, request: JobRequest, hooks: AttemptHooks, queue: str = DEFAULT_QUEUE) -> None:
        """Run an attempt of a request of this queue; returns when all of its result is written.

        Raises PermanentError, RetryLater or AttemptFailed, and what the hooks raise.
        """
        async with self._place(handler):
            token = id(request)
            self._running[token] = handler.timeout
            try:
                if handler.on_loop:
                    await _run_on_loop(handler, request, hooks)
                else:
                    await self._run_in_process(handler, request, hooks, queue)
            finally:
                del self._running[token]

    async def close(self) -> None:
        """Kill all processes."""
        await self._pool.close()

    async def _run_in_process(self, handler: Handler, request: JobRequest, hooks: AttemptHooks, queue: str) -> None:
        if self._process_places is None:
            await self._pool.run(handler, request, hooks)
            return
        await self._process_places.acquire(queue)
        try:
            await self._pool.run(handler, request, hooks)
        finally:
            self._process_places.release(queue)

    def _place(self, handler: Handler) -> contextlib.AbstractAsyncContextManager[Any]:
        """A place among the handler's attempts at a time."""
        if not handler.max_concurrency:
            return contextlib.nullcontext()
        if handler.name not in self._places:
            self._places[handler.name] = asyncio.Semaphore(handler.max_concurrency)
        return self._places[handler.name]


class _LoopControl:
    """The reports of a coroutine."""

    def __init__(self, hooks: AttemptHooks, resume: bytes | None) -> None:
        self._hooks = hooks
        self._resume = resume
        self.tail = LogTail()
        self.cancelled = False

    def progress(self, fraction: float, text: str) -> None:
        """Pass it on."""
        if not self.cancelled:
            self._hooks.progress(fraction, text)

    def checkpoint(self, data: bytes) -> None:  # noqa: ARG002
        """Refuse: it would block all other jobs."""
        raise RuntimeError("an `async def` handler must use `await job.checkpoint_async(data)`")

    async def checkpoint_async(self, data: bytes) -> None:
        """Store it."""
        await self._hooks.save_checkpoint(data)

    def resume(self) -> bytes | None:
        """The checkpoint that was read before the start."""
        return self._resume

    def log(self, text: str) -> None:
        """Keep the end of the log."""
        self.tail.add(f"{text}\n".encode(errors="backslashreplace"))


async def _run_on_loop(handler: Handler, request: JobRequest, hooks: AttemptHooks) -> None:
    parameters = handler.parameters.decode(request.parameters)
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="filemill-handler-"))
    control = _LoopControl(hooks, await hooks.load_checkpoint())
    hooks.started()
    task = asyncio.create_task(_write_result(handler, Job(request, parameters, folder, control), hooks))
    try:
        await asyncio.wait({task}, timeout=handler.timeout)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_SECONDS)
            raise AttemptFailed(
                f"The handler did not end within its {handler.timeout:g} s", DeadLetterCode.DEADLINE_EXCEEDED
            )
        task.result()
    finally:
        control.cancelled = True
        task.cancel()
        hooks.used(AttemptUsage(log=control.tail.text()))
        shutil.rmtree(folder, ignore_errors=True)


async def _write_result(handler: Handler, job: Job[Any], hooks: AttemptHooks) -> None:
    try:
        async for chunk in _result(handler, job):
            await hooks.write(chunk)
    except (PermanentError, RetryLater, AttemptFailed, Unavailable):
        raise
    except ResultInvalid as error:
        raise AttemptFailed(str(error), DeadLetterCode.RESULT_INVALID) from None
    except Exception as error:
        trace = "".join(traceback.format_exception(error))[-TRACE_MAX_CHARACTERS:]
        raise AttemptFailed(f"{type(error).__name__}: {error}", trace=trace) from error


async def _result(handler: Handler, job: Job[Any]) -> AsyncIterator[bytes]:
    result = handler(job)
    parts: Iterable[bytes]
    if inspect.isasyncgen(result):
        async for part in result:
            for chunk in chunks(handler, [part]):
                yield chunk
        return
    parts = chunks(handler, await result)
    for chunk in parts:
        yield chunk
