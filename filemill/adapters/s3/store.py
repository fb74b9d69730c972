"""S3 through obstore, for creating and verifying files (docs/decisions/0021-two-s3-clients.md)."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import obstore
import structlog
from obstore import exceptions
from obstore.store import S3Store

from filemill.adapters.client_environment import without_s3_variables
from filemill.adapters.errors import ErrorCategory
from filemill.adapters.s3.errors import UNREACHABLE, classify, classify_text, unavailable, unreachable
from filemill.config.settings import Settings
from filemill.domain.content import CONTENT_TYPE
from filemill.errors import AlreadyExists, NotFound
from filemill.ports import PutMode, StoredObject, Upload

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config

    from filemill.adapters.s3.uploads import S3Uploads

log = structlog.get_logger("s3")

# Up to this size one call of obstore reads an object; a larger one needs a second call from its beginning.
AT_ONCE_BYTES = 256 * 1024
CHUNK_BYTES = 1024 * 1024
# obstore's texts, which have no codes, for an empty object and for a server that ignores ranges. If another failure
# matches, it costs a second request.
NO_RANGE = ("416", "non-partial response", "Wanted range")
# Errors of obstore before anything is sent.
NEVER_SENT = (exceptions.InvalidPathError, exceptions.NotSupportedError, exceptions.UnknownConfigurationKeyError)
# Responses to a PUT with `If-None-Match: *`: the object exists; and from a service without conditional writes.
EXISTS = ("PreconditionFailed", "412", "NotModified", "304")
UNCONDITIONAL = ("NotImplemented", "501", "InvalidArgument", "InvalidRequest", "400")


class S3ObjectStore:
    """One bucket. (port: ObjectStore)."""

    def __init__(self, settings: Settings) -> None:
        # One thread of obstore, not one per core: more would wait for each other and for Python. The environment is the
        # only way to set it, before the first call.
        os.environ.setdefault("TOKIO_WORKER_THREADS", "1")
        self.settings = settings
        self._store = open_store(settings)
        self._uploads: S3Uploads | None = None
        self._conditional = True  # until the service rejects the condition

    async def put(self, key: str, body: bytes, metadata: Mapping[str, str], mode: PutMode = "overwrite") -> None:
        """Write an object completely; in the mode "create" with `If-None-Match: *`, if the service supports it."""
        with self._errors(""):
            if mode == "create" and self._conditional:
                try:
                    await self._put(key, body, metadata, "create")
                except exceptions.BaseError as error:
                    code, _ = classify_text(str(error))
                    if code in EXISTS:
                        raise AlreadyExists(key) from None
                    if code not in UNCONDITIONAL:
                        raise
                else:
                    return
                await self._put(key, body, metadata, "overwrite")
                self._note_unconditional(code)
            else:
                await self._put(key, body, metadata, "overwrite")

    async def _put(self, key: str, body: bytes, metadata: Mapping[str, str], mode: PutMode) -> None:
        # Small enough for one request, so the object appears completely or not at all.
        attributes = {"Content-Type": CONTENT_TYPE, **metadata}
        await obstore.put_async(self._store, key, body, attributes=attributes, mode=mode, use_multipart=False)

    def _note_unconditional(self, code: str) -> None:
        if self._conditional:  # concurrent PUTs may come here, too
            self._conditional = False
            log.warning(
                "S3 does not support If-None-Match: an existing object is overwritten",
                endpoint=self.settings.s3_endpoint,
                answer=code,
            )

    async def get(self, key: str) -> bytes:
        """An object's bytes. Through boto3 if obstore cannot express the key, for example a foreign service's."""
        if key == key.strip("/"):
            with self._errors(key), contextlib.suppress(ValueError):
                head = await self._head(key)
                if head is not None and len(head) < AT_ONCE_BYTES:
                    return head
                answer = await obstore.get_async(self._store, key)
                return bytes(await answer.bytes_async())
        from filemill.adapters.s3.admin import read_object  # noqa: PLC0415 - a worker does not load boto3

        return await asyncio.to_thread(read_object, self.settings, key)

    async def _head(self, key: str) -> bytes | None:
        """The first bytes; None if the object is empty or the server does not support ranges.

        Faster than `get_async`, which needs another call for the body.
        """
        try:
            return bytes(await obstore.get_range_async(self._store, key, start=0, length=AT_ONCE_BYTES))
        except exceptions.GenericError as error:
            if not any(text in str(error) for text in NO_RANGE):
                raise
            return None

    async def list(self) -> AsyncIterator[Sequence[StoredObject]]:
        """All objects, page by page. Through boto3: obstore fails at a key like `a//b` or one with a line break."""
        from filemill.adapters.s3.admin import list_objects  # noqa: PLC0415

        pages = list_objects(self.settings)
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            yield page

    async def chunks(self, key: str) -> AsyncIterator[bytes]:
        """An object's bytes, chunk by chunk."""
        with self._errors(key):
            answer = await obstore.get_async(self._store, key)
        stream = aiter(answer.stream(min_chunk_size=CHUNK_BYTES))
        while True:
            with self._errors(key):
                chunk = await anext(stream, None)
            if chunk is None:
                return
            yield bytes(chunk)

    async def size(self, key: str) -> int | None:
        """The size of an object."""
        try:
            with self._errors(key):
                return (await obstore.head_async(self._store, key))["size"]
        except NotFound:
            return None

    async def delete(self, key: str) -> None:
        """Delete an object."""
        with contextlib.suppress(NotFound), self._errors(key):
            await obstore.delete_async(self._store, key)

    async def begin_upload(self, key: str, metadata: Mapping[str, str]) -> Upload:
        """Begin a multipart upload, through boto3: obstore does not say which uploads are left."""
        from filemill.adapters.s3.uploads import S3Uploads  # noqa: PLC0415 - most workers do not load boto3

        if self._uploads is None:
            self._uploads = S3Uploads(self.settings)
        return await self._uploads.begin(key, metadata)

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except NEVER_SENT:
            raise
        except (exceptions.BaseError, OSError) as error:
            s3_code, rule = classify_text(str(error))
            if rule is UNREACHABLE:
                raise unreachable(self.settings, error) from None
            if rule.category is ErrorCategory.NOT_FOUND:
                # The response to a PUT means that the bucket is missing.
                if key:
                    raise NotFound(key) from None
                rule = classify("NoSuchBucket")
            if rule.category is ErrorCategory.BUG:
                raise
            raise unavailable(self.settings, rule, s3_code) from None


def open_store(settings: Settings) -> S3Store:
    """Obstore's client of the bucket. It reads no configuration but the settings."""
    timeout = timedelta(seconds=settings.server_timeout_seconds)
    options: ClientConfig = {
        "allow_http": settings.s3_endpoint.startswith("http://"),
        "timeout": timeout,
        "connect_timeout": timeout,
    }
    if settings.s3_proxy:
        options["proxy_url"] = settings.s3_proxy
    if settings.s3_ca_bundle is not None:
        options["root_certificate"] = settings.s3_ca_bundle.read_bytes()
    credentials: S3Config = {
        "access_key_id": settings.aws_access_key_id.get_secret_value(),
        "secret_access_key": settings.aws_secret_access_key.get_secret_value(),
    }
    if token := settings.s3_session_token.get_secret_value():
        credentials["session_token"] = token
    # Without TLS a broken SSL_CERT_FILE must not matter.
    with without_s3_variables(certificates=bool(options["allow_http"])):
        return S3Store(
            settings.s3_bucket,
            endpoint=settings.s3_endpoint,
            region=settings.s3_region,
            config=credentials,
            virtual_hosted_style_request=False,
            client_options=options,
            # The caller decides about retries (filemill.domain.retry).
            retry_config={"max_retries": 0, "retry_timeout": timeout},
        )
