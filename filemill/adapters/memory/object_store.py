"""In-memory ObjectStore."""

from collections.abc import AsyncIterator, Mapping, Sequence

from filemill.errors import AlreadyExists, NotFound, Unavailable
from filemill.ports import PutMode, StoredObject

LIST_PAGE = 1000


class MemoryObjectStore:
    """A bucket. (port: ObjectStore).

    While `outage` has a text, every call raises Unavailable with that text.
    """

    def __init__(self) -> None:
        self.outage: str | None = None
        self.objects: dict[str, bytes] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.puts: list[str] = []  # the keys, in the order of the writes

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

    def _check_outage(self) -> None:
        if self.outage is not None:
            raise Unavailable(self.outage)
