"""S3 by obstore, where files are made and checked (docs/decisions/0021-two-s3-clients.md)."""

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
from filemill.ports import PutMode, StoredObject

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config

log = structlog.get_logger("s3")

# Up to here an object is read in one call of obstore's; a longer one takes a second, from its beginning.
AT_ONCE_BYTES = 256 * 1024
# What obstore says of an empty object, and of a server that answers with the whole. Taken for one by mistake, a failure
# costs a second try.
NO_RANGE = ("416", "non-partial response", "Wanted range")
# Errors of obstore's that come before anything is sent.
NEVER_SENT = (exceptions.InvalidPathError, exceptions.NotSupportedError, exceptions.UnknownConfigurationKeyError)
# Answers to a PUT with `If-None-Match: *`: the object exists; and of a service that does not know that condition.
EXISTS = ("PreconditionFailed", "412", "NotModified", "304")
UNCONDITIONAL = ("NotImplemented", "501", "InvalidArgument", "InvalidRequest", "400")


class S3ObjectStore:
    """One bucket by obstore. (port: ObjectStore)."""

    def __init__(self, settings: Settings) -> None:
        # One thread of obstore's beside Python's, not one per core: they would wait for each other and for Python. The
        # environment is the only way to tell it, before its first call.
        os.environ.setdefault("TOKIO_WORKER_THREADS", "1")
        self._settings = settings
        self._store = open_store(settings)
        self._conditional = True  # until a PUT succeeds only without a condition

    async def put(self, key: str, body: bytes, metadata: Mapping[str, str], mode: PutMode = "overwrite") -> None:
        """Write an object whole; in the mode "create" with `If-None-Match: *`, where the service knows that."""
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
        # Small enough to go in one request, and so to appear whole or not at all.
        attributes = {"Content-Type": CONTENT_TYPE, **metadata}
        await obstore.put_async(self._store, key, body, attributes=attributes, mode=mode, use_multipart=False)

    def _note_unconditional(self, code: str) -> None:
        if self._conditional:  # others may have found it out at the same time
            self._conditional = False
            log.warning(
                "S3 does not support If-None-Match: an existing object is overwritten",
                endpoint=self._settings.s3_endpoint,
                answer=code,
            )

    async def get(self, key: str) -> bytes:
        """An object's bytes. By boto3 where obstore cannot name the key, as one of a foreign service's may be."""
        if key == key.strip("/"):
            with self._errors(key), contextlib.suppress(ValueError):
                head = await self._head(key)
                if head is not None and len(head) < AT_ONCE_BYTES:
                    return head
                answer = await obstore.get_async(self._store, key)
                return bytes(await answer.bytes_async())
        from filemill.adapters.s3.admin import read_object  # noqa: PLC0415 - a worker does without boto3

        return await asyncio.to_thread(read_object, self._settings, key)

    async def _head(self, key: str) -> bytes | None:
        """Its first bytes; None where it has none, or its server knows no ranges.

        Quicker than `get_async`, which needs a call for the body.
        """
        try:
            return bytes(await obstore.get_range_async(self._store, key, start=0, length=AT_ONCE_BYTES))
        except exceptions.GenericError as error:
            if not any(sign in str(error) for sign in NO_RANGE):
                raise
            return None

    async def list(self) -> AsyncIterator[Sequence[StoredObject]]:
        """All objects, a page at a time. By boto3: obstore gives up at a key like `a//b` or one with a line break."""
        from filemill.adapters.s3.admin import list_objects  # noqa: PLC0415

        pages = list_objects(self._settings)
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            yield page

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except NEVER_SENT:
            raise
        except (exceptions.BaseError, OSError) as error:
            code, row = classify_text(str(error))
            if row is UNREACHABLE:
                raise unreachable(self._settings, error) from None
            if row.category is ErrorCategory.NOT_FOUND:
                # A PUT is answered so when the bucket is missing: that is the service's state, not the object's.
                if key:
                    raise NotFound(key) from None
                row = classify("NoSuchBucket")
            if row.category is ErrorCategory.BUG:
                raise
            raise unavailable(self._settings, row, code) from None


def open_store(settings: Settings) -> S3Store:
    """Obstore's client of the bucket, made of the settings alone."""
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
    # Without TLS nobody needs certificates, and a broken SSL_CERT_FILE must not matter.
    with without_s3_variables(certificates=bool(options["allow_http"])):
        return S3Store(
            settings.s3_bucket,
            endpoint=settings.s3_endpoint,
            region=settings.s3_region,
            config=credentials,
            virtual_hosted_style_request=False,
            client_options=options,
            # Whether and when to try again is the caller's rule (filemill.domain.retry), not the client's.
            retry_config={"max_retries": 0, "retry_timeout": timeout},
        )
