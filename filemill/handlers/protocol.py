"""The messages between a processor and its handler processes: msgpack behind a length of four bytes, on two pipes."""

import struct
from collections.abc import Iterator
from typing import Literal

import msgspec

from filemill.handlers.job import JobRequest
from filemill.handlers.registry import HandlerSources

_LENGTH = struct.Struct(">I")
# A request with its parameters and checkpoint, or a checkpoint, is the largest message.
MESSAGE_MAX_BYTES = 8 * 1024 * 1024
CHUNK_BYTES = 256 * 1024


class Configure(msgspec.Struct, frozen=True, tag=True):
    """The first message to a process: which handlers to import, and its folder."""

    sources: HandlerSources
    folder: str


class StartJob(msgspec.Struct, frozen=True, tag=True):
    """Run a job."""

    request: JobRequest


class CheckpointStored(msgspec.Struct, frozen=True, tag=True):
    """The checkpoint is durable."""


class CheckpointLoaded(msgspec.Struct, frozen=True, tag=True):
    """The last checkpoint of an earlier attempt, if there is one."""

    data: bytes | None


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The handlers are imported, by the process `pid`, which has used `cpu_total` seconds since its start."""

    pid: int
    cpu_total: float = 0.0


class Unusable(msgspec.Struct, frozen=True, tag=True):
    """The handlers cannot be imported."""

    reason: str


class Progress(msgspec.Struct, frozen=True, tag=True):
    """A job's progress."""

    fraction: float
    text: str


class Checkpoint(msgspec.Struct, frozen=True, tag=True):
    """A checkpoint to store."""

    data: bytes


class LoadCheckpoint(msgspec.Struct, frozen=True, tag=True):
    """The handler asks for the last checkpoint."""


class Chunk(msgspec.Struct, frozen=True, tag=True):
    """The next bytes of the result."""

    data: bytes


FailureKind = Literal["permanent", "retry-later", "parameters", "memory", "disk", "result", "error"]


class Failure(msgspec.Struct, frozen=True):
    """Why a job failed. `seconds` is for the kind "retry-later"."""

    kind: FailureKind
    reason: str
    trace: str = ""
    seconds: float = 0.0


class Finished(msgspec.Struct, frozen=True, tag=True):
    """The end of a job: its result is complete, or it failed.

    `cpu_seconds` includes that of ended subprocesses; `cpu_total` is that of all jobs of the process until now.
    `peak_bytes` is the largest resident memory of the process.
    `clean`: no process or thread of the job remains, so that the process may be used again.
    """

    cpu_seconds: float
    peak_bytes: int
    clean: bool
    failure: Failure | None = None
    cpu_total: float = 0.0


ToChild = Configure | StartJob | CheckpointStored | CheckpointLoaded
FromChild = Ready | Unusable | Progress | Checkpoint | LoadCheckpoint | Chunk | Finished

_encoder = msgspec.msgpack.Encoder()
to_child = msgspec.msgpack.Decoder(ToChild)
from_child = msgspec.msgpack.Decoder(FromChild)


class ProtocolError(Exception):
    """The other side did not send a message of this protocol."""


def frame(message: ToChild | FromChild) -> bytes:
    """A message with its length."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Collects bytes and returns the messages in them."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add bytes; returns the complete messages. Raises ProtocolError."""
        self._data += data
        start = 0
        try:
            while len(self._data) - start >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(self._data, start)
                if length > MESSAGE_MAX_BYTES:
                    raise ProtocolError(f"a message of {length} bytes")
                end = start + _LENGTH.size + length
                if len(self._data) < end:
                    return
                body = bytes(memoryview(self._data)[start + _LENGTH.size : end])
                start = end
                yield body
        finally:
            del self._data[:start]
