"""In-memory ObjectStore."""

from collections.abc import AsyncIterator, Mapping, Sequence

from filemill.errors import AlreadyExists, NotFound, Unavailable
from filemill.ports import PutMode, StoredObject

LIST_PAGE = 1000
CHUNK_BYTES = 256 * 1024


class MemoryObjectStore:
    """A bucket. (port: ObjectStore).

    While `outage` has a text, every call raises Unavailable with that text.
    """

    def __init__(self) -> None:
        self.outage: str | None = None
        self.objects: dict[str, bytes] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.puts: list[str] = []  # the keys, in the order of the writes
        self.uploads: list[MemoryUpload] = []  # those that are open

    async def put(self, key: str, body: bytes, metadata: Mapping[str, str], mode: PutMode = "overwrite") -> None:
        """Write an object completely, unless the mode forbids it."""
        self._check_outage()
        if mode == "create" and key in self.objects:
            raise AlreadyExists(key)
        self.objects[key] = body
        self.metadata[key] = dict(metadata)
        self.puts.append(key)

    async def get(self, key: str) -> bytes:
        """An object's bytes."""
        self._check_outage()
        if key not in self.objects:
            raise NotFound(key)
        return self.objects[key]

    async def list(self) -> AsyncIterator[Sequence[StoredObject]]:
        """All objects, page by page."""
        self._check_outage()
        keys = sorted(self.objects, key=str.encode)
        for start in range(0, len(keys), LIST_PAGE):
            yield [StoredObject(key, len(self.objects[key])) for key in keys[start : start + LIST_PAGE]]

    async def chunks(self, key: str) -> AsyncIterator[bytes]:
        """An object's bytes, chunk by chunk."""
        body = await self.get(key)
        for start in range(0, len(body), CHUNK_BYTES):
            yield body[start : start + CHUNK_BYTES]

    async def size(self, key: str) -> int | None:
        """The size of an object."""
        self._check_outage()
        return len(self.objects[key]) if key in self.objects else None

    async def delete(self, key: str) -> None:
        """Delete an object."""
        self._check_outage()
        self.objects.pop(key, None)

    async def begin_upload(self, key: str, metadata: Mapping[str, str]) -> "MemoryUpload":
        """Begin a multipart upload."""
        self._check_outage()
        upload = MemoryUpload(self, key, metadata)
        self.uploads.append(upload)
        return upload

    def check_outage(self) -> None:
        """Raise Unavailable during an outage."""
        self._check_outage()

    def _check_outage(self) -> None:
        if self.outage is not None:
            raise Unavailable(self.outage)


class MemoryUpload:
    """A multipart upload. (port: Upload)."""

    def __init__(self, store: MemoryObjectStore, key: str, metadata: Mapping[str, str]) -> None:
        self._store = store
        self._key = key
        self._metadata = dict(metadata)
        self._parts: dict[int, bytes] = {}

    async def put_part(self, number: int, data: bytes) -> None:
        """Keep a part."""
        self._store.check_outage()
        self._parts[number] = data

    async def complete(self) -> None:
        """Make the object."""
        self._store.check_outage()
        self._store.objects[self._key] = b"".join(self._parts[number] for number in sorted(self._parts))
        self._store.metadata[self._key] = self._metadata
        self._store.uploads.remove(self)

    async def abort(self) -> None:
        """Discard the parts."""
        self._store.check_outage()
        self._store.uploads.remove(self)
