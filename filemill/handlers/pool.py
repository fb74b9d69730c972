"""The pool of handler processes, on the event loop of the processor.

A process is started when a job needs one, up to the size of the pool, and then runs one job after the other. It has its
own session, a folder of its own as the working directory and for temporary files, an environment without credentials,
and no descriptor of this process but its three pipes; its guard has a control socket, too. It is killed with all its
descendants at the deadline of a job, when the job is cancelled or abandoned, and when this process ends. It is replaced
when anything of a job remains in it, when its jobs left more memory than one may use, or after `max_jobs` jobs.
(docs/decisions/0038-handlers-run-in-guarded-processes.md)
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import cast

import msgspec

from filemill.errors import AttemptFailed, DeadLetterCode, PermanentError, RetryLater
from filemill.handlers import guard
from filemill.handlers.definition import Handler
from filemill.handlers.job import JobRequest
from filemill.handlers.protocol import (
    Checkpoint,
    CheckpointLoaded,
    CheckpointStored,
    Chunk,
    Configure,
    Failure,
    Finished,
    FrameBuffer,
    FromChild,
    LoadCheckpoint,
    Progress,
    ProtocolError,
    Ready,
    StartJob,
    ToChild,
    Unusable,
    frame,
    from_child,
)
from filemill.handlers.registry import HandlerSources

LOG_MAX_BYTES = 64 * 1024
# A process that has not imported its handlers after this time is killed.
START_SECONDS = 60.0
# If a guard has not ended its processes after this time, this process kills both of them.
GUARD_SECONDS = 2.0
# After its pipe is closed, a process that has not ended by itself in this time is killed.
NATURAL_END_SECONDS = 2.0
# The bytes of a result that wait here until they are stored. Beyond them, the handler waits.
WAITING_CHUNKS = 8
# How often the size of the folder of a running job is looked at: more often, the sooner it may reach its limit.
DISK_CHECK_SECONDS = 1.0
DISK_CHECK_SECONDS_LEAST = 0.1
# Passed on to the processes. Everything else in the environment may be a credential.
ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")


class PoolOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`size`: the number of processes. `environment`: further names of variables that handlers may see.

    `folder`: where the folders of the processes are made. `max_jobs`: how many jobs a process runs.
    """

    sources: HandlerSources = HandlerSources()
    size: int = 2
    max_jobs: int = 10_000
    environment: tuple[str, ...] = ()
    folder: Path | None = None


class AttemptUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt used, and the last 64 KiB of its log. `peak_bytes`: the resident memory of its process."""

    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    log: str = ""


async def _ignore(_data: bytes) -> None:
    return


async def _no_checkpoint() -> bytes | None:
    return None


def _ignore_progress(_fraction: float, _text: str) -> None:
    return


class AttemptHooks(msgspec.Struct, frozen=True, kw_only=True):
    """What happens with the reports of an attempt. `write` gets the result, chunk by chunk.

    `save_checkpoint` returns when the checkpoint is durable. `started` is called when a process is free for the
    attempt, `used` once, however it ends.
    """

    write: Callable[[bytes], Awaitable[None]]
    progress: Callable[[float, str], None] = _ignore_progress
    save_checkpoint: Callable[[bytes], Awaitable[None]] = _ignore
    load_checkpoint: Callable[[], Awaitable[bytes | None]] = _no_checkpoint
    started: Callable[[], None] = lambda: None
    used: Callable[[AttemptUsage], None] = lambda _usage: None


class LogTail:
    """The last bytes of a log."""

    def __init__(self) -> None:
        self._parts: deque[bytes] = deque()
        self._size = 0
        self._cut = False

    def add(self, data: bytes) -> None:
        """Add bytes, and forget the oldest ones."""
        self._parts.append(data)
        self._size += len(data)
        while self._size - len(self._parts[0]) >= LOG_MAX_BYTES:
            self._size -= len(self._parts.popleft())
            self._cut = True

    def text(self) -> str:
        """The tail. Undecodable bytes and NUL are escaped."""
        data = b"".join(self._parts)
        text = data[-LOG_MAX_BYTES:].decode(errors="backslashreplace").replace("\0", "\\0")
        return f"…{text}" if self._cut or len(data) > LOG_MAX_BYTES else text


class ChildPool:
    """Runs attempts of plain functions. For one event loop."""

    def __init__(self, options: PoolOptions, environment: Mapping[str, str] | None = None) -> None:
        """`environment`: of this process, of which a part is passed on."""
        self._options = options
        self._environment = dict(os.environ if environment is None else environment)
        self._idle: list[Child] = []
        self._places = asyncio.Semaphore(options.size)
        self._ending: set[asyncio.Task[None]] = set()
        self._children: set[Child] = set()

    @property
    def processes(self) -> list[int]:
        """The processes that run handlers, without their guards."""
        return [child.pid for child in self._children if child.pid]

    async def run(self, handler: Handler, request: JobRequest, hooks: AttemptHooks) -> None:
        """Run an attempt; returns when all of its result is written.

        Raises PermanentError, RetryLater or AttemptFailed, and what the hooks raise. However it ends, nothing of it
        runs any more soon after.
        """
        async with self._places:
            child = await self._take()
            hooks.started()
            usage = AttemptUsage()
            reusable = False
            try:
                try:
                    finished = await child.run(handler, request, hooks)
                except BaseException:
                    child.kill("the attempt is not needed any more")
                    usage = await child.usage_at_end()
                    raise
                usage = AttemptUsage(
                    cpu_seconds=finished.cpu_seconds, peak_bytes=finished.peak_bytes, log=child.take_log()
                )
                reusable = finished.clean and child.jobs < self._options.max_jobs
                if finished.failure is not None:
                    raise _error(finished.failure)
            finally:
                if reusable:
                    self._idle.append(child)
                else:
                    self._retire(child)
                hooks.used(usage)

    async def close(self) -> None:
        """Kill all processes and wait until they are gone."""
        self._idle.clear()
        children = list(self._children)
        for child in children:
            child.kill("the processor stops")
        # Not by the tasks that wait for ends: at the end of a loop all its tasks are cancelled.
        await asyncio.gather(*(child.end() for child in children))
        self._children.clear()

    async def _take(self) -> "Child":
        while self._idle:
            child = self._idle.pop()
            if not child.ended:
                return child
            self._retire(child)  # it was killed from outside
        child = Child(self._options, self._environment)
        self._children.add(child)
        try:
            await child.start()
        except BaseException:
            self._retire(child)
            raise
        return child

    def _retire(self, child: "Child") -> None:
        async def end() -> None:
            await child.end()
            self._children.discard(child)

        child.kill("it is replaced")
        if not child.retired:
            child.retired = True
            task = asyncio.get_running_loop().create_task(end())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


# Failures that count as attempts, by their kind.
_CODES = {
    "memory": DeadLetterCode.MEMORY_EXCEEDED,
    "disk": DeadLetterCode.DISK_EXCEEDED,
    "result": DeadLetterCode.RESULT_INVALID,
}


def _error(failure: Failure) -> Exception:
    match failure.kind:
        case "permanent":
            return PermanentError(failure.reason, trace=failure.trace)
        case "parameters":
            return PermanentError(failure.reason, DeadLetterCode.PARAMETERS_INVALID, failure.trace)
        case "retry-later":
            return RetryLater(failure.seconds, failure.reason)
    code = _CODES.get(failure.kind, DeadLetterCode.ATTEMPTS_EXHAUSTED)
    return AttemptFailed(failure.reason, code, failure.trace)


class _Responses(asyncio.Protocol):
    """The messages of a process. Stops reading while many wait."""

    def __init__(self) -> None:
        self._buffer = FrameBuffer()
        self._messages: deque[FromChild] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.ReadTransport | None = None
        self._paused = False
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.ReadTransport", transport)  # uvloop's has no such base class

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._buffer.feed(data):
                self._messages.append(from_child.decode(body))
        except (ProtocolError, msgspec.DecodeError):  # the handler wrote to the pipe
            self.close()
        if len(self._messages) > WAITING_CHUNKS and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, _error: Exception | None) -> None:
        self.closed = True
        self._wake()

    def close(self) -> None:
        """Close the pipe. `receive` returns the messages that are complete."""
        self.closed = True
        if self._transport is not None:
            self._transport.close()
        self._wake()

    async def receive(self) -> FromChild | None:
        """The next message; None at the end."""
        while not self._messages:
            if self.closed:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message = self._messages.popleft()
        if self._paused and len(self._messages) <= WAITING_CHUNKS // 2 and self._transport is not None:
            self._paused = False
            if not self.closed:
                self._transport.resume_reading()
        return message

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Child:
    """One handler process with its guard."""

    def __init__(self, options: PoolOptions, environment: Mapping[str, str]) -> None:
        self._options = options
        self._environment = environment
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._cpu_before = 0.0
        self._log_pipe: int | None = None
        self._requests: asyncio.WriteTransport | None = None
        self._responses = _Responses()
        self._tail = LogTail()
        self._folder: Path | None = None
        self._kill_reason: tuple[str, DeadLetterCode] | None = None
        self._force: asyncio.TimerHandle | None = None
        self._disk_task: asyncio.Task[None] | None = None
        self.pid = 0
        self.jobs = 0
        self.retired = False

    @property
    def ended(self) -> bool:
        """Whether the process has ended or is being killed."""
        return self._responses.closed or self._kill_reason is not None

    async def start(self) -> None:
        """Start the process and wait until its handlers are imported. Raises AttemptFailed."""
        prefix = "filemill-handler-"
        self._folder = Path(tempfile.mkdtemp(prefix=prefix, dir=self._options.folder))
        requests, responses, log = os.pipe(), os.pipe(), os.pipe()
        control, guards_end = socket.socketpair()
        try:
            # Two milliseconds. On another thread a cancel could lose the process.
            self._process = self._spawn(requests[0], responses[1], guards_end.fileno(), log[1])
        except OSError as error:
            control.close()
            for descriptor in (requests[1], responses[0], log[0]):
                os.close(descriptor)
            raise AttemptFailed(f"No process could be started: {error}", DeadLetterCode.HANDLER_CRASHED) from error
        finally:
            guards_end.close()
            for descriptor in (requests[0], responses[1], log[1]):
                os.close(descriptor)
        self._control, self._log_pipe = control, log[0]
        self._control.setblocking(False)
        os.set_blocking(self._log_pipe, False)
        self._loop.add_reader(self._log_pipe, self._read_log)
        await self._loop.connect_read_pipe(lambda: self._responses, os.fdopen(responses[0], "rb", 0))
        self._requests, _ = await self._loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(requests[1], "wb", 0))
        self._send(Configure(self._options.sources, str(self._folder)))
        timer = self._loop.call_later(START_SECONDS, self.kill, "its handlers were not imported in time")
        try:
            message = await self._responses.receive()
        finally:
            timer.cancel()
        if isinstance(message, Unusable):
            raise AttemptFailed(message.reason, DeadLetterCode.HANDLER_CRASHED)
        if not isinstance(message, Ready):
            raise await self._ended_early()
        self.pid, self._cpu_before = message.pid, message.cpu_total

    def _spawn(self, request: int, response: int, control: int, log: int) -> subprocess.Popen[bytes]:
        names = (*ENVIRONMENT, *self._options.environment)
        folder = str(self._folder)
        environment = {name: self._environment[name] for name in names if name in self._environment}
        # glibc reserves 64 MiB of address space for each arena, which the limit of the memory would count.
        environment |= {"HOME": folder, "TMPDIR": folder, "PYTHONUNBUFFERED": "", "MALLOC_ARENA_MAX": "2"}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1"} if "PYTHONDONTWRITEBYTECODE" in self._environment else {}
        command = ["-P", "-m", "filemill.handlers.child", str(request), str(response), str(control)]
        return subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=environment,
            pass_fds=(request, response, control),
            start_new_session=True,
        )

    async def run(self, handler: Handler, request: JobRequest, hooks: AttemptHooks) -> Finished:
        """Run one attempt; returns its end. Raises AttemptFailed if the process ended, and what the hooks raise."""
        self.jobs += 1
        late = f"The handler did not end within its {handler.timeout:g} s"
        timer = self._loop.call_later(handler.timeout, self.kill, late, DeadLetterCode.DEADLINE_EXCEEDED)
        disk = self._loop.call_later(DISK_CHECK_SECONDS_LEAST, self._watch_disk, handler.disk)
        try:
            self._send(StartJob(request))
            while True:
                match await self._responses.receive():
                    case Chunk(data):
                        await hooks.write(data)
                    case Progress(fraction, text):
                        hooks.progress(fraction, text)
                    case Checkpoint(data):
                        await hooks.save_checkpoint(data)
                        self._send(CheckpointStored())
                    case LoadCheckpoint():
                        self._send(CheckpointLoaded(await hooks.load_checkpoint()))
                    case Finished() as finished:
                        self._read_log()
                        self._cpu_before = finished.cpu_total
                        return finished
                    case _:
                        raise await self._ended_early()
        finally:
            timer.cancel()
            disk.cancel()
            if self._disk_task is not None:
                self._disk_task.cancel()
                self._disk_task = None

    def kill(self, reason: str, code: DeadLetterCode = DeadLetterCode.HANDLER_CRASHED) -> None:
        """Kill the process and all its descendants, at once. The first reason counts."""
        if self._kill_reason is not None:
            return
        self._kill_reason = (reason, code)
        if self._control is not None:
            with contextlib.suppress(OSError):  # the guard has ended
                self._control.shutdown(socket.SHUT_WR)  # the guard kills
            self._force = self._loop.call_later(GUARD_SECONDS, self._kill_guard)

    def _kill_guard(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()  # the kernel then kills the runner
            with contextlib.suppress(OSError):
                if self.pid:
                    os.killpg(self.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Wait for the end of the killed process, and remove its folder."""
        await self._has_ended(GUARD_SECONDS * 5)
        if self._force is not None:
            self._force.cancel()
        self._responses.close()
        if self._requests is not None and not self._requests.is_closing():
            self._requests.abort()
        if self._log_pipe is not None:
            self._loop.remove_reader(self._log_pipe)
            os.close(self._log_pipe)
            self._log_pipe = None
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def usage_at_end(self) -> AttemptUsage:
        """What the attempt of a killed process used; it has ended when this returns, if its guard is in time.

        The guard reports it. Nothing is known of its CPU and memory if the guard itself was killed.
        """
        await self._has_ended(GUARD_SECONDS)
        self._read_log()
        report = b""
        with contextlib.suppress(OSError):
            if self._control is not None:
                report = self._control.recv(guard.USAGE.size)
        if len(report) != guard.USAGE.size:
            return AttemptUsage(log=self.take_log())
        cpu_total, peak_bytes = guard.USAGE.unpack(report)
        cpu_seconds = round(max(0.0, cpu_total - self._cpu_before), 6)
        return AttemptUsage(cpu_seconds=cpu_seconds, peak_bytes=peak_bytes, log=self.take_log())

    def take_log(self) -> str:
        """The log since the last call."""
        text, self._tail = self._tail.text(), LogTail()
        return text

    async def _ended_early(self) -> AttemptFailed:
        """Why the process ended during a job."""
        if self._kill_reason is None and not await self._has_ended(NATURAL_END_SECONDS):
            self.kill("The handler closed the pipe to its processor")
        await self._has_ended(GUARD_SECONDS * 2)
        self._read_log()
        if self._kill_reason is not None:
            return AttemptFailed(*self._kill_reason)
        code = self._process.returncode if self._process is not None else 0
        killed_by = code - 128 if code > 128 else -code  # the runner, or the guard itself
        how = f"by {_signal_name(killed_by)}" if killed_by > 0 else f"with the exit code {code}"
        return AttemptFailed(f"The handler's process ended {how}", DeadLetterCode.HANDLER_CRASHED)

    async def _has_ended(self, seconds: float) -> bool:
        """Wait for the end of the guard; returns whether it came in time."""
        end = self._loop.time() + seconds
        while self._process is not None and self._process.poll() is None:
            if self._loop.time() > end:
                return False
            await asyncio.sleep(0.005)
        return True

    def _watch_disk(self, limit: int) -> None:
        """Kill the process when its folder is too large. A limit of the kernel is for single files only."""

        async def watch() -> None:
            before, seconds = 0, DISK_CHECK_SECONDS_LEAST
            while True:
                used = await asyncio.to_thread(_folder_bytes, self._folder)
                if used > limit:
                    reason = f"The handler wrote {used} bytes to its folder; the limit is {limit}"
                    self.kill(reason, DeadLetterCode.DISK_EXCEEDED)
                    return
                seconds = seconds_to_next_check(used, before, limit, seconds)
                before = used
                await asyncio.sleep(seconds)

        self._disk_task = self._loop.create_task(watch())

    def _send(self, message: ToChild) -> None:
        if self._requests is not None and not self._requests.is_closing():
            self._requests.write(frame(message))

    def _read_log(self) -> None:
        """Read what is in the pipe, but not for ever: the loop has other work while a handler prints."""
        for _ in range(4):
            if self._log_pipe is None:
                return
            try:
                data = os.read(self._log_pipe, LOG_MAX_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._loop.remove_reader(self._log_pipe)
                return
            self._tail.add(data)


def seconds_to_next_check(used: int, before: int, limit: int, seconds: float) -> float:
    """When to look at a folder again that grew from `before` to `used` bytes in `seconds`.

    After half of the time in which it reaches its limit if it grows on like this.
    """
    growth = (used - before) / seconds
    left = (limit - used) / growth / 2 if growth > 0 else DISK_CHECK_SECONDS
    return min(DISK_CHECK_SECONDS, max(DISK_CHECK_SECONDS_LEAST, left))


def _folder_bytes(folder: Path | None) -> int:
    """The size of the files in a folder. What vanishes meanwhile is not counted."""
    total = 0
    pending = [str(folder)] if folder is not None else []
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"the signal {number}"
    return f"{name} from outside" if number == signal.SIGKILL else name
