"""Handlers of the benchmarks. `FILEMILL_HANDLERS` of a measured processor names this module."""

import ctypes
import functools
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from filemill.handlers import Job, handler

# The deadline of the handlers that never end.
HANG_SECONDS = 1.0
PAUSE_SECONDS = 0.05
MEBIBYTE = 2**20


def trivial_content(title: str, description: str, *_moment: object) -> bytes:
    """The result of `trivial`."""
    return f"{title}\n{description}\n".encode()


class Stream(msgspec.Struct):
    """The size of a result in MiB."""

    mebibytes: int


@handler("trivial", content_type="text/plain", extension="txt", deterministic=True)
def trivial(job: Job[Any]) -> bytes:
    """As little work as possible: what is left is the cost of running a handler."""
    return trivial_content(job.title, job.description)


@handler("pause", content_type="text/plain", extension="txt", deterministic=True)
def pause(job: Job[Any]) -> bytes:
    """A short job that needs no CPU."""
    time.sleep(PAUSE_SECONDS)
    return trivial_content(job.title, job.description)


_endless = functools.partial(
    handler,
    content_type="text/plain",
    extension="txt",
    deterministic=True,
    timeout=HANG_SECONDS,
    attempts=1,
    max_concurrency=1,
)


@_endless("hang-in-c")
def hang_in_c(job: Job[Any]) -> bytes:  # noqa: ARG001
    """Never returns from C, and keeps the interpreter's lock."""
    ctypes.PyDLL(None).usleep(10**9)
    return b""


@_endless("loop")
def loop(job: Job[Any]) -> bytes:  # noqa: ARG001
    """Never ends, and uses a CPU."""
    while True:
        pass


@handler("stream", content_type="application/octet-stream", extension="bin", deterministic=True, timeout=3600)
def stream(job: Job[Stream]) -> Iterator[bytes]:
    """A result of any size."""
    block = bytes(range(256)) * (MEBIBYTE // 256)
    for _ in range(job.parameters.mebibytes):
        yield block
