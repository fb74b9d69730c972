"""Downloads and previews of objects in the bucket, checked against the file's row."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

import structlog

from filemill.adapters.postgres.file_rows import FileRow
from filemill.adapters.s3.admin import boto_errors
from filemill.domain.content import CONTENT_TYPE
from filemill.domain.files import checkpoint_key
from filemill.domain.handlers import TEXT_HANDLER
from filemill.domain.integrity import ExpectedObject, ObjectMismatch
from filemill.errors import NotFound
from filemill_dashboard.state.services import Services

if TYPE_CHECKING:
    from botocore.response import StreamingBody

log = structlog.get_logger("rest")

_MEDIA_TYPE = re.compile(r"[a-z]+/[A-Za-z0-9.+-]+(; ?charset=[A-Za-z0-9-]+)?")
CHUNK_BYTES = 64 * 1024
PREVIEW_BYTES = 4096
# Up to this size, an object is read and checked as a whole before its first byte is sent or shown.
CHECK_WHOLE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Download:
    """The headers and the body of the response."""

    headers: dict[str, str]
    chunks: Iterator[bytes]


def open_download(services: Services, file: FileRow, key: str) -> Download | None:
    """The object of a file; None if it is missing. Raises Unavailable, ObjectMismatch.

    A small object is checked before this returns. The last part of a larger one is sent only if the whole object
    matches its row.
    """
    settings, expected = services.settings, _expected(file, key)
    try:
        with boto_errors(settings, key):
            found = services.s3.get_object(Bucket=settings.s3_bucket, Key=key)
            with _closed_on_error(found["Body"]) as body:
                expected.check_size(found["ContentLength"])
                chunks = _checked(body, found["ContentLength"], expected)
    except NotFound:
        return None
    headers = {
        "Content-Length": str(found["ContentLength"]),
        "Content-Type": content_type(file),
        "Content-Disposition": attachment(key),
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    return Download(headers, chunks)


def content_type(file: FileRow) -> str:
    """The type of a file's object: the one that its handler declared, or the text of the reference design.

    Whatever it is, a browser saves the object as an attachment and runs nothing.
    """
    declared = file.content_type if file.handler != TEXT_HANDLER else None
    return declared if declared is not None and _MEDIA_TYPE.fullmatch(declared) else CONTENT_TYPE


@dataclass(frozen=True)
class ObjectPreview:
    """The first bytes of an object as text (bytes that are not UTF-8 escaped), and its whole size in bytes."""

    text: str
    size: int
    differs: str | None = None

    @property
    def whole(self) -> bool:
        """Whether the text is the whole object."""
        return self.size <= PREVIEW_BYTES


def read_preview(services: Services, file: FileRow, key: str) -> ObjectPreview | None:
    """The beginning of a file's object, for a preview; None if it is missing. Raises Unavailable.

    `differs` says why an object is not shown because it does not match the file's row. Of an object above one mebibyte,
    only the size is compared; its hash is compared at download.
    """
    settings = services.settings
    try:
        expected = _expected(file, key)
        with boto_errors(settings, key):
            found = services.s3_for_health_checks.get_object(Bucket=settings.s3_bucket, Key=key)
            size = found["ContentLength"]
            with contextlib.closing(found["Body"]) as body:
                expected.check_size(size)
                small = size <= CHECK_WHOLE_BYTES
                start = body.read(None if small else PREVIEW_BYTES)
        if small:
            expected.check(start)
    except NotFound:
        return None
    except ObjectMismatch as error:
        return ObjectPreview("", 0, differs=str(error))
    return ObjectPreview(start[:PREVIEW_BYTES].decode(errors="backslashreplace"), size)


@dataclass(frozen=True)
class CheckpointState:
    """The checkpoint of a run: its size in bytes, and when it was stored."""

    size: int
    stored_at: datetime


def read_checkpoint(services: Services, file: FileRow) -> CheckpointState | None:
    """The checkpoint of a file's current run; None if there is none. Raises Unavailable."""
    key = checkpoint_key(file.id, file.created_at, file.run)
    try:
        with boto_errors(services.settings, key):
            found = services.s3_for_health_checks.head_object(Bucket=services.settings.s3_bucket, Key=key)
    except NotFound:
        return None
    return CheckpointState(found["ContentLength"], found["LastModified"])


def _expected(file: FileRow, key: str) -> ExpectedObject:
    return ExpectedObject(file.id, key, file.sha256, file.size)


def attachment(key: str) -> str:
    """A Content-Disposition for any key (RFC 6266): a plain name for all clients, the exact one beside it.

    A foreign service may have chosen the key, so it can hold quotes, line breaks, slashes or any script.
    """
    name = key.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    name = "".join(letter for letter in name if letter.isprintable()) or "file.txt"
    plain = "".join(letter if letter.isascii() and letter not in '"\\%;' else "_" for letter in name)
    if plain == name:
        return f'attachment; filename="{plain}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"


def _checked(body: "StreamingBody", size: int, expected: ExpectedObject) -> Iterator[bytes]:
    """The parts of an object. A small object is read and checked before this returns. Raises ObjectMismatch."""
    if size > CHECK_WHOLE_BYTES:
        return _checked_chunks(body, expected)
    whole = body.read()
    body.close()
    expected.check(whole)
    return iter([whole])


def _checked_chunks(body: "StreamingBody", expected: ExpectedObject) -> Iterator[bytes]:
    """Yield each part after the next one was read. With a wrong hash the last part is withheld: the response is cut."""
    digest, withheld = expected.digest(), b""
    with contextlib.closing(body):
        for chunk in body.iter_chunks(CHUNK_BYTES):
            digest.update(chunk)
            if withheld:
                yield withheld
            withheld = chunk
        try:
            digest.finish()
        except ObjectMismatch as error:
            log.error("Download aborted", reason=str(error))  # noqa: TRY400 - no trace needed
            raise
        yield withheld


@contextlib.contextmanager
def _closed_on_error(body: "StreamingBody") -> Iterator["StreamingBody"]:
    try:
        yield body
    except BaseException:
        body.close()
        raise
