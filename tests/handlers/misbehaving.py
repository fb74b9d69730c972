"""Handlers that do what handlers must not do, and some that behave."""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from filemill.handlers import Handler, Job, PermanentError, RetryLater, handler
from filemill.handlers.definition import Function


class Echo(msgspec.Struct):
    text: str = "hello"
    number: int = 1


def short(name: str, **options: Any) -> Callable[[Function], Handler]:
    """A handler with small limits."""
    options = {"timeout": 1.0, "deterministic": True, "attempts": 1} | options
    return handler(name, content_type="text/plain", extension="txt", **options)


@short("echo", timeout=20.0, attempts=5)
def echo(job: Job[Echo]) -> bytes:
    return f"{job.parameters.text} {job.id}".encode()


@short("echo-async", timeout=20.0)
async def echo_async(job: Job[Echo]) -> bytes:
    await asyncio.sleep(0)
    return job.parameters.text.encode()


@short("stream-async", timeout=20.0)
async def stream_async(job: Job[Echo]) -> AsyncIterator[bytes]:
    for number in range(job.parameters.number):
        await asyncio.sleep(0)
        yield b"%d\n" % number


@short("sleep-async", timeout=0.3)
async def sleep_async(job: Job[Any]) -> bytes:
    await asyncio.sleep(1000)
    return b""


@short("sleep")
def sleep(job: Job[Any]) -> bytes:
    time.sleep(1e9)
    return b""


@short("spin")
def spin(job: Job[Any]) -> bytes:
    while True:
        pass


# Long enough for a busy machine to give it some of its CPU.
BURN_SECONDS = 3.0


def _burn(seconds: float) -> None:
    used = bytearray(40 * 2**20)
    print(f"burning with {len(used)} bytes", flush=True)
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@short("burn", timeout=BURN_SECONDS)
def burn(job: Job[Any]) -> bytes:
    _burn(job.parameters["seconds"])
    return b""


@short("burn-in-child", timeout=BURN_SECONDS)
def burn_in_child(job: Job[Any]) -> bytes:
    pid = os.fork()
    if pid == 0:
        _burn(1000)
    os.waitpid(pid, 0)
    return b""


@short("burn-detached", timeout=BURN_SECONDS)
def burn_detached(job: Job[Any]) -> bytes:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            _burn(1000)
        os._exit(0)
    time.sleep(1000)
    return b""


@short("spin-in-c")
def spin_in_c(job: Job[Any]) -> bytes:
    ctypes.PyDLL(None).usleep(10**9)  # keeps the interpreter's lock
    return b""


@short("ignore-signals")
def ignore_signals(job: Job[Any]) -> bytes:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(1e9)
    return b""


@short("fork")
def fork(job: Job[Any]) -> bytes:
    """Starts processes: a child, one in a session of its own, and one that is orphaned as well."""
    marker = job.parameters["marker"]
    for detached in (False, True):
        subprocess.Popen(["sleep", marker], start_new_session=detached)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execvp("sleep", ["sleep", marker])  # noqa: S606
        os._exit(0)
    if job.parameters.get("return"):
        return b"left them behind"
    subprocess.run(["sleep", marker], check=True)
    return b""


@short("allocate", timeout=30.0, memory="64 MiB")
def allocate(job: Job[Any]) -> bytes:
    parts = []
    while True:
        parts.append(bytearray(8 * 2**20))


_kept: list[bytearray] = []


@short("leak", memory="64 MiB")
def leak(job: Job[Any]) -> bytes:
    _kept.append(bytearray(40 * 2**20))
    return b"leaked"


@short("fill-file", timeout=60.0, disk="32 MiB")
def fill_file(job: Job[Any]) -> bytes:
    with (job.folder / "large").open("wb") as file:
        for _ in range(10 * 1024):
            file.write(bytes(2**20))
    return b""


@short("fill-folder", timeout=60.0, disk="32 MiB")
def fill_folder(job: Job[Any]) -> bytes:
    for number in range(10 * 1024):
        (job.folder / str(number)).write_bytes(bytes(2**20))
        time.sleep(0.01)
    return b""


@short("fill-disk", timeout=600.0, disk="128 MiB")
def fill_disk(job: Job[Any]) -> bytes:
    """Writes 10 GiB as fast as it can, in files that are each below the limit."""
    for number in range(160):
        with (job.folder / str(number)).open("wb") as file:
            for _ in range(64):
                file.write(bytes(2**20))
    return b"filled"


@short("exit", timeout=20.0)
def leave(job: Job[Any]) -> bytes:
    print("leaving")
    os._exit(3)


@short("system-exit", timeout=20.0)
def system_exit(job: Job[Any]) -> bytes:
    sys.exit(4)


@short("segfault", timeout=20.0)
def segfault(job: Job[Any]) -> bytes:
    ctypes.string_at(0)
    return b""


@short("close-pipes", timeout=20.0)
def close_pipes(job: Job[Any]) -> bytes:
    os.closerange(0, 1000)
    time.sleep(1e9)
    return b""


@short("garbage", timeout=20.0)
def garbage(job: Job[Any]) -> bytes:
    for descriptor in range(3, 1000):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"\xff" * 4096)
    time.sleep(1e9)
    return b""


@short("nothing", timeout=20.0)
def nothing(job: Job[Any]) -> bytes:
    return None  # type: ignore[return-value]


@short("returns-text", timeout=20.0)
def returns_text(job: Job[Any]) -> bytes:
    return "text"  # type: ignore[return-value]


@short("gone", timeout=20.0)
def gone(job: Job[Any]) -> Path:
    return job.folder / "gone"


@short("yield-and-raise", timeout=20.0)
def yield_and_raise(job: Job[Any]) -> Iterator[bytes]:
    yield bytes(10 * 2**20)
    raise ValueError("after ten megabytes")


@short("print-much", timeout=600.0)
def print_much(job: Job[Echo]) -> bytes:
    line = "x" * 1023 + "\n"
    for _ in range(job.parameters.number):
        sys.stdout.write(line)
    print("the end")
    return b"printed"


@short("escapes", timeout=20.0)
def escapes(job: Job[Any]) -> bytes:
    os.write(1, b"\x1b[31mred\x1b[0m \x00 \xff\n")
    job.log("<script>alert(1)</script>")
    return b"escaped"


@short("refuse", timeout=20.0)
def refuse(job: Job[Echo]) -> bytes:
    raise PermanentError(f"there is no {job.parameters.text}")


@short("later", timeout=20.0)
def later(job: Job[Echo]) -> bytes:
    raise RetryLater(0.25, "not yet")


@short("fail", timeout=20.0)
def fail(job: Job[Echo]) -> bytes:
    print("about to fail")
    raise ValueError("it failed")


@short("report", timeout=20.0, deterministic=False)
def report(job: Job[Any]) -> bytes:
    """What a handler can see of its process."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(entry.readlink()))
    return msgspec.json.encode(
        {
            "environment": dict(os.environ),
            "descriptors": links,
            "folder": str(job.folder),
            "cwd": str(Path.cwd()),
            "pid": os.getpid(),
            "files": [path.name for path in job.folder.iterdir()],
        }
    )


@short("litter", timeout=20.0)
def litter(job: Job[Any]) -> bytes:
    (job.folder / "folder").mkdir()
    (job.folder / "folder" / "file").write_bytes(b"left")
    return b"littered"


@short("steps", timeout=60.0, attempts=3)
def steps(job: Job[Any]) -> bytes:
    """Counts to a number, with a checkpoint at each step."""
    start = int(job.resume or b"0")
    print(f"starts at step {start}")
    total = job.parameters["steps"]
    for step in range(start, total):
        time.sleep(job.parameters.get("seconds", 0.0))
        job.checkpoint(str(step + 1).encode())
        job.progress((step + 1) / total, f"step {step + 1} of {total}")
    return b"steps: %d" % total


@short("inputs", timeout=20.0)
def inputs(job: Job[Any]) -> bytes:
    return b"".join(name.encode() + b": " + path.read_bytes() for name, path in job.inputs.items())


_alone: list[int] = []


@short("alone-async", timeout=20.0, max_concurrency=1)
async def alone(job: Job[Any]) -> bytes:
    _alone.append(job.id)
    await asyncio.sleep(0.01)
    seen = len(_alone)
    _alone.remove(job.id)
    return b"%d at a time" % seen


@short("large", timeout=600.0, disk="16 GiB")
def large(job: Job[Any]) -> Iterator[bytes]:
    block = bytes(range(256)) * 4096
    for _ in range(job.parameters["mebibytes"]):
        yield block


@short("liar", timeout=20.0)
def liar(job: Job[Any]) -> bytes:
    """Says that it is deterministic."""
    return os.urandom(16)


@short("large-slowly", timeout=600.0, attempts=2)
def large_slowly(job: Job[Any]) -> Iterator[bytes]:
    block = bytes(range(256)) * 4096
    for _ in range(job.parameters["mebibytes"]):
        time.sleep(job.parameters["seconds"])
        yield block


@short("silent", timeout=20.0)
def silent(job: Job[Any]) -> bytes:
    time.sleep(job.parameters["seconds"])
    return b"done"
