"""ObjectStore: objects are complete, and a missing object differs from an unavailable service."""

import asyncio
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from filemill.adapters.memory.object_store import MemoryObjectStore
from filemill.adapters.s3.admin import bucket_exists, create_bucket, s3_client
from filemill.adapters.s3.store import S3ObjectStore
from filemill.adapters.s3.uploads import S3Uploads
from filemill.config.settings import Settings, load
from filemill.errors import AlreadyExists, NotFound, Unavailable
from filemill.ports import ObjectStore, ObjectStreams, StoredObject

UNREACHABLE = "http://127.0.0.1:1"
MULTIPART_BYTES = 5 * 1024 * 1024


def _own_bucket(settings: Settings) -> Settings:
    return settings.model_copy(update={"s3_bucket": f"contract-{uuid.uuid4().hex[:12]}", "server_timeout_seconds": 5.0})


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    """An empty bucket."""
    if request.param == "memory":
        return MemoryObjectStore()
    settings = _own_bucket(request.getfixturevalue("contract_settings"))
    assert create_bucket(settings)
    return S3ObjectStore(settings)


async def _pages(store: ObjectStore) -> list[list[StoredObject]]:
    return [list(page) async for page in store.list()]


def test_get_returns_what_put_wrote(store: ObjectStore) -> None:
    async def scenario() -> None:
        await store.put("file-1-5.txt", "Ünïcödé ✓\n".encode(), {})
        assert await store.get("file-1-5.txt") == "Ünïcödé ✓\n".encode()

    asyncio.run(scenario())


def test_put_replaces_an_existing_object_completely(store: ObjectStore) -> None:
    async def scenario() -> None:
        await store.put("k", b"a longer first version", {"sha256": "1"})
        await store.put("k", b"second", {})
        assert await store.get("k") == b"second"
        assert await _pages(store) == [[StoredObject("k", 6)]]

    asyncio.run(scenario())


def test_create_keeps_an_existing_object(store: ObjectStore) -> None:
    async def scenario() -> None:
        await store.put("k", b"", {"sha256": "1"}, "create")
        for body in (b"", b"second"):
            with pytest.raises(AlreadyExists, match="k"):
                await store.put("k", body, {}, "create")
        assert await store.get("k") == b""
        await store.put("k", b"third", {}, "overwrite")
        assert await store.get("k") == b"third"
        await store.put("l", b"another", {}, "create")
        assert await store.get("l") == b"another"

    asyncio.run(scenario())


def test_an_empty_object_can_be_stored(store: ObjectStore) -> None:
    async def scenario() -> None:
        await store.put("k", b"", {})
        assert await store.get("k") == b""
        assert await _pages(store) == [[StoredObject("k", 0)]]

    asyncio.run(scenario())


def test_a_large_object_is_read_completely(store: ObjectStore) -> None:
    bodies = [bytes(range(256)) * size for size in (1023, 1024, 1025, 5000)]

    async def scenario() -> None:
        for number, body in enumerate(bodies):
            await store.put(f"k{number}", body, {})
        assert [await store.get(f"k{number}") for number in range(len(bodies))] == bodies

    asyncio.run(scenario())


def test_get_of_a_missing_object_raises_not_found(store: ObjectStore) -> None:
    with pytest.raises(NotFound, match="file-9-9"):
        asyncio.run(store.get("file-9-9.txt"))


def test_keys_are_stored_unchanged(store: ObjectStore) -> None:
    keys = ["a b", "a+b", "a%20b", "ü", "文件.txt", "😀", "~"]

    async def scenario() -> None:
        for number, key in enumerate(keys):
            await store.put(key, str(number).encode(), {})
        for number, key in enumerate(keys):
            assert await store.get(key) == str(number).encode()
        (page,) = await _pages(store)
        assert {entry.key for entry in page} == set(keys)

    asyncio.run(scenario())


def test_a_list_is_ordered_by_the_keys_bytes(store: ObjectStore) -> None:
    keys = ["file-2-1.txt", "file-10-1.txt", "ü", "Z", "a", "～", "😀", "file-1-1.txt"]

    async def scenario() -> list[str]:
        for key in keys:
            await store.put(key, b"x", {})
        return [entry.key for page in await _pages(store) for entry in page]

    found = asyncio.run(scenario())
    assert found == sorted(keys, key=str.encode)
    assert found != sorted(keys, key=lambda key: key.encode("utf-16-be")), "the keys above distinguish the two orders"


def test_an_empty_bucket_has_no_pages(store: ObjectStore) -> None:
    assert [page for page in asyncio.run(_pages(store)) if page] == []


def test_each_object_is_listed_once_over_several_pages(store: ObjectStore) -> None:
    keys = [f"file-{number}-1.txt" for number in range(1, 1206)]

    async def scenario() -> list[list[StoredObject]]:
        gate = asyncio.Semaphore(100)

        async def put(key: str) -> None:
            async with gate:
                await store.put(key, key.encode(), {})

        await asyncio.gather(*(put(key) for key in keys))
        return await _pages(store)

    pages = asyncio.run(scenario())
    assert len(pages) > 1
    assert all(len(page) <= 1000 for page in pages)
    assert [entry for page in pages for entry in page] == [
        StoredObject(key, len(key)) for key in sorted(keys, key=str.encode)
    ]


def test_concurrent_puts_of_one_key_leave_one_complete_object(store: ObjectStore) -> None:
    """Two workers may process one record. Here their bytes differ, to tell them apart."""
    bodies = [bytes([number]) * 50_000 for number in range(20)]

    async def scenario() -> bytes:
        await asyncio.gather(*(store.put("k", body, {}) for body in bodies))
        return await store.get("k")

    assert asyncio.run(scenario()) in bodies


def test_metadata_and_content_type_are_stored(contract_settings: Settings) -> None:
    settings = _own_bucket(contract_settings)
    create_bucket(settings)
    asyncio.run(
        S3ObjectStore(settings).put("k", b"x", {"processed-at": "2026-01-04T12:00:00.000+00:00", "sha256": "ab"})
    )
    head = s3_client(settings).head_object(Bucket=settings.s3_bucket, Key="k")
    assert head["ContentType"] == "text/plain; charset=utf-8"
    assert head["Metadata"] == {"processed-at": "2026-01-04T12:00:00.000+00:00", "sha256": "ab"}


def test_a_missing_bucket_is_unavailable_not_not_found(contract_settings: Settings) -> None:
    settings = _own_bucket(contract_settings)
    store = S3ObjectStore(settings)
    for act in (lambda: store.put("k", b"x", {}), lambda: store.get("k"), lambda: _pages(store)):
        with pytest.raises(Unavailable, match=settings.s3_bucket):
            asyncio.run(act())
    assert not bucket_exists(settings), "a PUT must not have created it"


def test_creating_a_bucket_twice_succeeds(contract_settings: Settings) -> None:
    settings = _own_bucket(contract_settings)
    assert not bucket_exists(settings)
    assert create_bucket(settings)
    assert not create_bucket(settings)
    assert bucket_exists(settings)


def test_wrong_credentials_are_unavailable(contract_settings: Settings) -> None:
    settings = contract_settings.model_copy(update={"aws_secret_access_key": SecretStr("not-the-key")})
    with pytest.raises(Unavailable) as caught:
        asyncio.run(S3ObjectStore(settings).put("k", b"x", {}))
    assert "not-the-key" not in str(caught.value)


@pytest.fixture
def silent() -> Iterator[str]:
    """A service that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("service", ["unreachable", "silent"])
def test_an_unreachable_service_is_detected_within_the_timeout(service: str, silent: str, settings_at: "At") -> None:
    endpoint = UNREACHABLE if service == "unreachable" else silent
    store = S3ObjectStore(settings_at(endpoint))
    for act in (lambda: store.put("k", b"x", {}), lambda: store.get("k"), lambda: _pages(store)):
        began = time.monotonic()
        with pytest.raises(Unavailable, match=endpoint):
            asyncio.run(act())
        assert time.monotonic() - began < 5


At = Callable[[str], Settings]


@pytest.fixture
def settings_at() -> At:
    """Settings with an endpoint and a short timeout."""

    def at(endpoint: str) -> Settings:
        return Settings(s3_endpoint=endpoint, server_timeout_seconds=0.5)

    return at


def test_an_outage_of_the_fake_is_unavailable() -> None:
    store = MemoryObjectStore()
    store.outage = "S3 is unreachable"
    for act in (lambda: store.put("k", b"x", {}), lambda: store.get("k"), lambda: _pages(store)):
        with pytest.raises(Unavailable, match="S3 is unreachable"):
            asyncio.run(act())
    assert store.objects == {}


class Unconditional(ThreadingHTTPServer):
    """Accepts every PUT without a condition. `codes`: the responses to those with one, in order."""

    def __init__(self, *codes: tuple[int, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Unconditional)
        self.codes = list(codes)
        self.conditions: list[str | None] = []

    @property
    def store(self) -> S3ObjectStore:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return S3ObjectStore(load(s3_endpoint=f"http://127.0.0.1:{self.server_address[1]}"))

    def server_close(self) -> None:
        self.shutdown()
        super().server_close()


class _Unconditional(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Unconditional

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        condition = self.headers["if-none-match"]
        self.server.conditions.append(condition)
        status, code = self.server.codes.pop(0) if condition else (200, "")
        body = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
        self.send_response_only(status)
        self.send_header("ETag", '"e"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None: ...


@pytest.mark.parametrize("answer", [(501, "NotImplemented"), (501, ""), (400, "InvalidArgument"), (400, "")])
def test_a_service_without_conditional_writes_is_detected_once(answer: tuple[int, str]) -> None:
    with capture_logs() as logs, Unconditional(answer) as server:
        store = server.store

        async def scenario() -> None:
            for _ in range(3):
                await store.put("k", b"x", {}, "create")

        asyncio.run(scenario())
    assert server.conditions == ["*", None, None, None]
    assert [entry["event"] for entry in logs] == [
        "S3 does not support If-None-Match: an existing object is overwritten"
    ]


@pytest.mark.parametrize("answer", [(400, "ExpiredToken"), (409, "ConditionalRequestConflict"), (503, "SlowDown")])
def test_no_other_response_disables_conditional_writes(answer: tuple[int, str]) -> None:
    with Unconditional(answer, (200, "")) as server:
        store = server.store
        with pytest.raises(Unavailable):
            asyncio.run(store.put("k", b"x", {}, "create"))
        asyncio.run(store.put("k", b"x", {}, "create"))
    assert server.conditions == ["*", "*"]


@pytest.mark.parametrize("answer", [(412, "PreconditionFailed"), (412, ""), (304, "")])
def test_each_response_for_an_existing_object_raises_already_exists(answer: tuple[int, str]) -> None:
    with Unconditional(answer) as server, pytest.raises(AlreadyExists, match="k"):
        asyncio.run(server.store.put("k", b"x", {}, "create"))


class _Rangeless(BaseHTTPRequestHandler):
    """Responds to each GET with the complete object, whatever range was requested."""

    def do_GET(self) -> None:
        body = b"" if self.path.endswith("empty") else b"whole"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Sun, 04 Jan 2026 12:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None: ...


@pytest.mark.parametrize(("key", "body"), [("file-416-1.txt", b"whole"), ("empty", b"")])
def test_a_service_without_ranges_can_be_read(key: str, body: bytes) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Rangeless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            store = S3ObjectStore(load(s3_endpoint=f"http://127.0.0.1:{server.server_address[1]}"))
            assert asyncio.run(store.get(key)) == body
        finally:
            server.shutdown()


# --- objects of any size


@pytest.fixture
def streams(store: ObjectStore) -> ObjectStreams:
    """The same bucket, in bounded memory."""
    assert isinstance(store, (MemoryObjectStore, S3ObjectStore))
    return store


def test_a_completed_upload_is_one_object_and_is_read_in_chunks(store: ObjectStore, streams: ObjectStreams) -> None:
    parts = [bytes([number]) * MULTIPART_BYTES for number in (1, 2)] + [b"the end"]

    async def scenario() -> None:
        upload = await streams.begin_upload("large", {"Content-Type": "application/pdf"})
        for number in (2, 1, 3):
            await upload.put_part(number, parts[number - 1])
        assert await streams.size("large") is None
        await upload.complete()
        assert await streams.size("large") == 2 * MULTIPART_BYTES + 7
        chunks = [chunk async for chunk in streams.chunks("large")]
        assert b"".join(chunks) == b"".join(parts)
        assert len(chunks) > 2

    asyncio.run(scenario())


def test_an_aborted_upload_leaves_nothing(store: ObjectStore, streams: ObjectStreams) -> None:
    async def scenario() -> None:
        upload = await streams.begin_upload("large", {})
        await upload.put_part(1, bytes(MULTIPART_BYTES))
        if isinstance(store, S3ObjectStore):
            assert [one.key for one in S3Uploads(store.settings).open()] == ["large"]
        await upload.abort()
        assert await streams.size("large") is None
        if isinstance(store, S3ObjectStore):
            assert list(S3Uploads(store.settings).open()) == []

    asyncio.run(scenario())


def test_a_deleted_object_is_gone_and_may_be_deleted_again(store: ObjectStore, streams: ObjectStreams) -> None:
    async def scenario() -> None:
        await store.put("k", b"body", {})
        await streams.delete("k")
        await streams.delete("k")
        assert await streams.size("k") is None
        with pytest.raises(NotFound, match="k"):
            _ = [chunk async for chunk in streams.chunks("k")]

    asyncio.run(scenario())


def test_streams_of_an_unreachable_service_are_unavailable(contract_settings: Settings) -> None:
    store = S3ObjectStore(contract_settings.model_copy(update={"s3_endpoint": UNREACHABLE}))

    async def scenario() -> None:
        for call in (store.size("k"), store.delete("k"), store.begin_upload("k", {}), anext(store.chunks("k"))):
            with pytest.raises(Unavailable):
                await call

    asyncio.run(scenario())
