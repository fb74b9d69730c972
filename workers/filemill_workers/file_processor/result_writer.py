"""Stores the result of a handler while it arrives, in bounded memory, and computes its hash and size on the way."""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable

import structlog

from filemill.errors import DeadLetterCode, NotFound, PermanentError, Unavailable
from filemill.ports import ObjectStreams, Upload

log = structlog.get_logger("processor")

# A larger result is uploaded in parts of this size. S3 allows 10,000 parts: 80 GiB.
PART_BYTES = 8 * 1024 * 1024
# Parts on the way at the same time. One more is being filled.
PARTS_AT_ONCE = 2

Call = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
# Stores a small result: its bytes and their hash.
PutSmall = Callable[[bytes, str], Awaitable[None]]


class ResultWriter:
    """The result of one attempt. Call `write` for each chunk, then `finish`; if anything fails, `abort`."""

    def __init__(
        self,
        streams: ObjectStreams,
        key: str,
        content_type: str,
        *,
        put_small: PutSmall,
        call_store: Call,
        wait_for_membership: Callable[[], Awaitable[None]],
    ) -> None:
        """`put_small` stores a result of less than a part; `call_store` makes calls through the circuit breaker."""
        self._streams = streams
        self._key = key
        self._content_type = content_type
        self._put_small = put_small
        self._call_store = call_store
        self._wait_for_membership = wait_for_membership
        self._hash = hashlib.sha256()
        self._waiting = bytearray()
        self._upload: Upload | None = None
        self._exists = False
        self._part = 0
        self._sending: set[asyncio.Task[None]] = set()
        self.size = 0

    @property
    def sha256(self) -> str:
        """The hash of what was written, 64 hexadecimal digits."""
        return self._hash.hexdigest()

    async def write(self, data: bytes) -> None:
        """Add bytes; waits while too many parts are on the way. Raises Unavailable."""
        self._hash.update(data)
        self.size += len(data)
        if self._exists:
            return
        self._waiting += data
        if len(self._waiting) >= PART_BYTES:
            await self._send_part()

    async def finish(self) -> None:
        """Make the object durable. Raises Unavailable, PermanentError if another object has the key."""
        if self._exists:
            await self._compare()
        elif self._upload is None:
            await self._put_small(bytes(self._waiting), self.sha256)
        else:
            if self._waiting:
                await self._send_part()
            await self._wait_for_parts(0)
            await self._wait_for_membership()
            await self._call_store(self._upload.complete)
            self._upload = None

    async def abort(self) -> None:
        """Discard what was sent. If S3 is unreachable, `filemill verify` lists the upload."""
        for task in self._sending:
            task.cancel()
        if self._sending:
            await asyncio.wait(self._sending)
        upload, self._upload = self._upload, None
        if upload is not None:
            try:
                await upload.abort()
            except Unavailable as error:
                log.warning(
                    "A multipart upload could not be aborted; `filemill verify` lists it",
                    key=self._key,
                    error=str(error),
                )

    async def _send_part(self) -> None:
        data, self._waiting = bytes(self._waiting), bytearray()
        if self._upload is None and not await self._begin():
            return
        await self._wait_for_parts(PARTS_AT_ONCE - 1)
        self._part += 1
        self._sending.add(asyncio.create_task(self._put_part(self._part, data)))

    async def _put_part(self, number: int, data: bytes) -> None:
        upload = self._upload
        assert upload is not None
        await self._call_store(lambda: upload.put_part(number, data))

    async def _begin(self) -> bool:
        """Begin the upload, unless the object exists: then the rest of the result is only compared."""
        await self._wait_for_membership()

        async def begin() -> None:
            self._exists = await self._streams.size(self._key) is not None
            if not self._exists:
                self._upload = await self._streams.begin_upload(self._key, {"Content-Type": self._content_type})

        await self._call_store(begin)
        return not self._exists

    async def _wait_for_parts(self, most: int) -> None:
        """Wait until at most this many parts are on the way. Raises what a part raised."""
        while len(self._sending) > most:
            done, self._sending = await asyncio.wait(self._sending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    async def _compare(self) -> None:
        found = hashlib.sha256()

        async def read() -> None:
            nonlocal found
            found = hashlib.sha256()
            with contextlib.suppress(NotFound):  # it was deleted meanwhile
                async for chunk in self._streams.chunks(self._key):
                    found.update(chunk)

        await self._call_store(read)
        if found.digest() != self._hash.digest():
            raise PermanentError(
                f"Another object has the key {self._key}. It was kept, and nothing was written. If it is not the right"
                " one, delete it and retry the file",
                DeadLetterCode.OBJECT_EXISTS,
            )
