"""Runs the jobs of a handler process, one after the other."""

import contextlib
import errno
import faulthandler
import io
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from filemill.errors import DeadLetterCode, InvalidHandler, PermanentError, RetryLater
from filemill.handlers import guard
from filemill.handlers.definition import Handler
from filemill.handlers.job import Job, JobRequest
from filemill.handlers.protocol import (
    CHUNK_BYTES,
    Checkpoint,
    CheckpointLoaded,
    CheckpointStored,
    Chunk,
    Configure,
    Failure,
    FailureKind,
    Finished,
    FrameBuffer,
    FromChild,
    LoadCheckpoint,
    Progress,
    Ready,
    StartJob,
    ToChild,
    Unusable,
    frame,
    to_child,
)
from filemill.handlers.registry import HandlerRegistry, load_handlers

READ_BYTES = 256 * 1024
# The newest progress is sent at most this often.
PROGRESS_SECONDS = 0.1
TRACE_MAX_CHARACTERS = 8000
_PAGE = resource.getpagesize()


class Disconnected(Exception):
    """The processor closed the pipe."""


class Channel:
    """The pipes to the processor. Any thread may send."""

    def __init__(self, request: int, response: int) -> None:
        self._request = request
        self._response = response
        self._buffer = FrameBuffer()
        self._received: list[bytes] = []
        self._lock = threading.Lock()

    def receive(self) -> ToChild:
        """Wait for the next message. Raises Disconnected."""
        while not self._received:
            data = os.read(self._request, READ_BYTES)
            if not data:
                raise Disconnected
            self._received += self._buffer.feed(data)
        message: ToChild = to_child.decode(self._received.pop(0))
        return message

    def send(self, *messages: FromChild) -> None:
        """Send messages; waits while the processor does not read."""
        data = memoryview(b"".join(map(frame, messages)))
        with self._lock:
            while data:
                data = data[os.write(self._response, data) :]


class ChildControl:
    """Sends the reports of a job to the processor."""

    cancelled = False

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._sent_at = float("-inf")
        self._sent = 0.0

    def progress(self, fraction: float, text: str) -> None:
        """Send it, unless one was sent just before; always the first one of the end."""
        now = time.monotonic()
        if now - self._sent_at >= PROGRESS_SECONDS or fraction >= 1 > self._sent:
            self._sent_at, self._sent = now, fraction
            self._channel.send(Progress(fraction, text))

    def checkpoint(self, data: bytes) -> None:
        """Send it, and wait until it is stored."""
        self._channel.send(Checkpoint(data))
        answer = self._channel.receive()
        assert isinstance(answer, CheckpointStored)

    async def checkpoint_async(self, data: bytes) -> None:
        """The same: nothing else runs in this process."""
        self.checkpoint(data)

    def resume(self) -> bytes | None:
        """Ask the processor, which asks S3: most handlers never do."""
        self._channel.send(LoadCheckpoint())
        answer = self._channel.receive()
        assert isinstance(answer, CheckpointLoaded)
        return answer.data

    def log(self, text: str) -> None:
        """Write it to stdout, which the processor reads."""
        print(text, flush=True)


def serve(request: int, response: int, guard_pid: int) -> None:
    """Import the handlers and run jobs until the processor closes the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = Channel(request, response)
    with contextlib.suppress(Disconnected, BrokenPipeError):
        configure = channel.receive()
        assert isinstance(configure, Configure)
        try:
            handlers = load_handlers(configure.sources)
        except InvalidHandler as error:
            channel.send(Unusable(str(error)))
            return
        space = _address_space()
        channel.send(Ready(os.getpid(), _cpu_seconds()))
        while True:
            start = channel.receive()
            assert isinstance(start, StartJob)
            _Attempt(start.request, handlers, channel, Path(configure.folder), guard_pid, space).run()


class _Attempt:
    """One attempt of one job."""

    def __init__(
        self,
        request: JobRequest,
        handlers: HandlerRegistry,
        channel: Channel,
        folder: Path,
        guard_pid: int,
        first_space: int,
    ) -> None:
        """`first_space`: the process's address space before its first job, in bytes."""
        self._request = request
        self._handlers = handlers
        self._channel = channel
        self._folder = folder
        self._guard_pid = guard_pid
        self._first_space = first_space
        self._has_grown = False
        self._cpu = _cpu_seconds()
        self._threads = threading.active_count()

    def run(self) -> None:
        _reset_peak()
        failure: Failure | None = None
        last = b""
        try:
            last = self._call()
        except BaseException as error:  # noqa: BLE001 - also SystemExit of a handler is the end of its attempt only
            _limit(resource.RLIMIT_AS, None)  # the report needs memory, too
            failure = _failure(error)
        _limit(resource.RLIMIT_AS, None)
        _limit(resource.RLIMIT_FSIZE, None)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # the handler closed it
                stream.flush()
        finished = Finished(
            cpu_seconds=round(_cpu_seconds() - self._cpu, 6),
            peak_bytes=_peak_bytes(),
            clean=self._clean(),
            failure=failure,
            cpu_total=_cpu_seconds(),
        )
        if last and failure is None:
            self._channel.send(Chunk(last), finished)
        else:
            self._channel.send(finished)

    def _call(self) -> bytes:
        """Run the handler, send its result but for the last bytes, and return these."""
        handler = self._handlers.get(self._request.handler)
        if handler is None:
            raise PermanentError(
                f'There is no handler "{self._request.handler}" in this process', DeadLetterCode.HANDLER_UNKNOWN
            )
        parameters = handler.parameters.decode(self._request.parameters)
        _limit(resource.RLIMIT_FSIZE, handler.disk)
        space = _address_space()
        self._has_grown = space > self._first_space + handler.memory
        _limit(resource.RLIMIT_AS, space + handler.memory)
        job: Job[Any] = Job(self._request, parameters, self._folder, ChildControl(self._channel))
        last: bytes | None = None
        for chunk in chunks(handler, handler(job)):
            if last is not None:
                self._channel.send(Chunk(last))
            last = chunk
        return last or b""

    def _clean(self) -> bool:
        """Whether nothing of a job remains: no process, no thread, no file, and not too much memory of earlier ones."""
        if self._has_grown:
            return False
        with contextlib.suppress(ChildProcessError):
            while True:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
                if ended is None:
                    return False
        if threading.active_count() > self._threads or guard.adopted(self._guard_pid, os.getpid()):
            return False
        try:
            empty_folder(self._folder)
            os.chdir(self._folder)
        except OSError:
            return False
        return True


class ResultInvalid(Exception):
    """A handler returned something that is no result."""


def chunks(handler: Handler, result: object) -> Iterator[bytes]:
    """The bytes of a result in chunks of a limited size. Raises ResultInvalid."""
    match result:
        case bytes() | bytearray() | memoryview():
            data = memoryview(result).cast("B") if len(result) else memoryview(b"")
            for start in range(0, len(data), CHUNK_BYTES):
                yield bytes(data[start : start + CHUNK_BYTES])
        case Path():
            yield from _of_file(handler, result)
        case None:
            raise ResultInvalid(f'The handler "{handler.name}" returned nothing. Return bytes, a Path or an iterator')
        case str() | dict():
            raise ResultInvalid(_wrong_type(handler, result))
        case Iterable():
            yield from _joined(handler, result)
        case _:
            raise ResultInvalid(_wrong_type(handler, result))


def _of_file(handler: Handler, path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while data := file.read(CHUNK_BYTES):
                yield data
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise ResultInvalid(f'The handler "{handler.name}" returned a path that cannot be read: {error}') from None


def _joined(handler: Handler, parts: Iterable[object]) -> Iterator[bytes]:
    """Small parts joined and large ones divided, because a message costs more than its bytes."""
    waiting = bytearray()
    for part in parts:
        if not isinstance(part, (bytes, bytearray, memoryview)):
            raise ResultInvalid(_wrong_type(handler, part))
        waiting += part
        start = 0
        while len(waiting) - start >= CHUNK_BYTES:
            yield bytes(waiting[start : start + CHUNK_BYTES])
            start += CHUNK_BYTES
        del waiting[:start]
    if waiting:
        yield bytes(waiting)


def _wrong_type(handler: Handler, result: object) -> str:
    advice = "; encode the text first" if isinstance(result, str) else ""
    return (
        f'The handler "{handler.name}" returned or yielded a {type(result).__name__}{advice}. Return bytes, a Path or'
        " an iterator of bytes"
    )


def _failure(error: BaseException) -> Failure:
    trace = "".join(traceback.format_exception(error))[-TRACE_MAX_CHARACTERS:]
    kind: FailureKind = "error"
    reason, seconds = f"{type(error).__name__}: {error}", 0.0
    match error:
        case PermanentError(code=DeadLetterCode.PARAMETERS_INVALID):
            kind, reason = "parameters", str(error)
        case PermanentError():
            kind, reason = "permanent", str(error)
        case RetryLater():
            kind, reason, seconds = "retry-later", str(error), error.seconds
        case ResultInvalid():
            kind, reason = "result", str(error)
        case MemoryError():
            kind, reason = "memory", "The handler needed more memory than its limit"
        case OSError(errno=errno.EFBIG | errno.ENOSPC):
            kind, reason = "disk", f"The handler wrote more than its limit: {error}"
    return Failure(
        kind, reason.encode(errors="backslashreplace").decode(), trace.encode(errors="replace").decode(), seconds
    )


def empty_folder(folder: Path) -> None:
    """Remove what is in a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                Path(entry.path).unlink()


def _limit(which: int, size: int | None) -> None:
    """Set a limit of this process, or remove it."""
    _, hard = resource.getrlimit(which)
    wanted = hard if size is None else size if hard == resource.RLIM_INFINITY else min(size, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(which, (wanted, hard))


def _address_space() -> int:
    """The size of this process's address space, in bytes; 0 if the system does not tell."""
    try:
        return int(guard.read_proc("/proc/self/statm").split()[0]) * _PAGE
    except OSError:
        return 0


def _reset_peak() -> None:
    """Forget the peak of earlier jobs (Linux)."""
    with contextlib.suppress(OSError):
        descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, b"5")
        finally:
            os.close(descriptor)


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_seconds() -> float:
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
