"""The processing of a record whose request names a handler: the attempts, their checkpoints, and their results."""

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from filemill.domain.files import checkpoint_key, object_key
from filemill.domain.messages import FileCreate
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.errors import DeadLetterCode, NotFound, PermanentError, Unavailable
from filemill.handlers.definition import Handler
from filemill.handlers.job import JobRequest
from filemill.handlers.pool import AttemptHooks, AttemptUsage
from filemill.ports import ObjectStore, ObjectStreams
from filemill_workers.file_processor.handlers import Handlers
from filemill_workers.file_processor.result_writer import Call, PutSmall, ResultWriter

log = structlog.get_logger("processor")


class HandlerContext(msgspec.Struct, frozen=True):
    """What attempts of handlers need besides the processing context. `streams` is the bucket of `store`.

    `queue`: the queue of the requests.
    """

    handlers: Handlers
    store: ObjectStore
    streams: ObjectStreams
    queue: str = DEFAULT_QUEUE


class HandlerResult(msgspec.Struct, frozen=True):
    """A stored result."""

    key: str
    sha256: str
    size: int
    content_type: str


class AttemptCalls(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt reports to its record task, and how it calls the servers."""

    put_small: Callable[[str, str], PutSmall]
    call_store: Call
    wait_for_membership: Callable[[], Awaitable[None]]
    progress: Callable[[float, str], None]
    started: Callable[[], None]
    finishing: Callable[[], None]
    used: Callable[[AttemptUsage], None]


class HandlerTask:
    """All attempts of one record by this worker."""

    def __init__(self, context: HandlerContext, request: FileCreate, run: int) -> None:
        """Raises PermanentError if this processor has no such handler."""
        handler = context.handlers.registry.get(request.handler)
        if handler is None:
            known = ", ".join(["text", *context.handlers.registry.names])
            raise PermanentError(
                f'There is no handler "{request.handler}" in this processor. It has: {known}. Install it here, or'
                " create the file again with one of these",
                DeadLetterCode.HANDLER_UNKNOWN,
            )
        self.handler: Handler = handler
        self._context = context
        self._request = request
        self._run = run
        self._checkpoint_key = checkpoint_key(request.file_id, request.timestamp, run)
        self._has_checkpoint = False

    async def attempt(self, number: int, calls: AttemptCalls) -> HandlerResult:
        """Run the handler and store its result.

        Raises PermanentError, RetryLater, AttemptFailed, Unavailable. When it ends, no process of it runs any more.
        """
        handler, request = self.handler, self._request
        unique = "" if handler.deterministic else f"run{self._run}-{secrets.token_hex(4)}"
        key = object_key(request.file_id, request.timestamp, handler.extension, unique)
        writer = ResultWriter(
            self._context.streams,
            key,
            handler.content_type,
            put_small=calls.put_small(key, handler.content_type),
            call_store=calls.call_store,
            wait_for_membership=calls.wait_for_membership,
        )
        folder: Path | None = None
        try:
            if request.inputs:
                folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="filemill-inputs-"))
            job = JobRequest(
                handler=handler.name,
                parameters=bytes(request.parameters),
                id=request.file_id,
                run=self._run,
                attempt=number,
                title=request.title,
                description=request.description,
                requested_at=request.timestamp,
                inputs=await self._download(folder) if folder is not None else {},
            )
            hooks = AttemptHooks(
                write=writer.write,
                progress=calls.progress,
                save_checkpoint=lambda data: self._save_checkpoint(data, calls),
                load_checkpoint=self._load_checkpoint,
                started=calls.started,
                used=calls.used,
            )
            await self._context.handlers.run(handler, job, hooks, self._context.queue)
            calls.finishing()
            await writer.finish()
        except BaseException:
            await asyncio.shield(writer.abort())
            raise
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        return HandlerResult(key, writer.sha256, writer.size, handler.content_type)

    async def forget_checkpoint(self) -> None:
        """Delete the checkpoint of a run that has ended."""
        if self._has_checkpoint:
            try:
                await self._context.streams.delete(self._checkpoint_key)
            except Unavailable as error:
                log.debug("A checkpoint was not deleted", key=self._checkpoint_key, error=str(error))

    async def _save_checkpoint(self, data: bytes, calls: AttemptCalls) -> None:
        self._has_checkpoint = True

        async def put() -> None:
            await calls.wait_for_membership()
            await self._context.store.put(self._checkpoint_key, data, {"Content-Type": "application/octet-stream"})

        await calls.call_store(put)

    async def _load_checkpoint(self) -> bytes | None:
        try:
            data = await self._context.store.get(self._checkpoint_key)
        except NotFound:
            return None
        self._has_checkpoint = True
        log.info("Resumes from a checkpoint", file=self._request.file_id, run=self._run, size=len(data))
        return data

    async def _download(self, folder: Path) -> dict[str, str]:
        """Download the inputs. Raises PermanentError if one is missing or all are too large together."""
        left = self.handler.disk
        paths = {}
        for number, (name, key) in enumerate(sorted(self._request.inputs.items())):
            path = folder / f"{number}{Path(name).suffix[:20]}"
            try:
                with path.open("wb") as file:
                    async for chunk in self._context.streams.chunks(key.removeprefix("s3://")):
                        left -= len(chunk)
                        if left < 0:
                            raise PermanentError(
                                f"The inputs are larger than the {self.handler.disk} bytes of disk that the handler"
                                f' "{self.handler.name}" may use',
                                DeadLetterCode.DISK_EXCEEDED,
                            )
                        file.write(chunk)
            except NotFound:
                raise PermanentError(
                    f'The input "{name}" does not exist: there is no object with the key {key}',
                    DeadLetterCode.INPUT_MISSING,
                ) from None
            paths[name] = str(path)
        return paths
