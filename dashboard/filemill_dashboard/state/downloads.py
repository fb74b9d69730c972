"""An object of the bucket, on its way to a browser."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

import structlog

from filemill.adapters.postgres.file_rows import FileRow
from filemill.adapters.s3.admin import boto_errors
from filemill.domain.content import CONTENT_TYPE
from filemill.domain.integrity import ExpectedObject, ObjectMismatch
from filemill.errors import NotFound
from filemill_dashboard.state.services import Services

if TYPE_CHECKING:
    from botocore.response import StreamingBody

log = structlog.get_logger("rest")

CHUNK_BYTES = 64 * 1024
PREVIEW_BYTES = 4096
# Up to here an object is read and checked as a whole before its first byte is answered or shown.
CHECK_WHOLE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class Download:
    """What to answer with."""

    headers: dict[str, str]
    chunks: Iterator[bytes]


def open_download(services: Services, file: FileRow, key: str) -> Download | None:
    """The object of a file; None where it is missing. Raises Unavailable, integrity.Differs.

    A small one is checked by now; of a larger one the last part is given out only if the whole is what the row says.
    """
    settings, expected = services.settings, _expected(file, key)
    try:
        with boto_errors(settings, key):
            found = services.objects.get_object(Bucket=settings.s3_bucket, Key=key)
            with _closed_on_error(found["Body"]) as body:
                expected.check_size(found["ContentLength"])
                chunks = _checked(body, found["ContentLength"], expected)
    except NotFound:
        return None
    headers = {
        "Content-Length": str(found["ContentLength"]),
        # Whatever an object says of itself, a browser saves it as text and runs nothing.
        "Content-Type": CONTENT_TYPE,
        "Content-Disposition": attachment(key),
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    return Download(headers, chunks)


@dataclass(frozen=True)
class ObjectPreview:
    """The first bytes of an object as text (what is not UTF-8 escaped), and its whole size in bytes."""

    text: str
    size: int
    differs: str | None = None

    @property
    def whole(self) -> bool:
        """Whether that is all of it."""
        return self.size <= PREVIEW_BYTES


def read_preview(services: Services, file: FileRow, key: str) -> ObjectPreview | None:
    """The beginning of a file's object, for a preview; None where it is missing. Raises Unavailable.

    `differs` says why there is nothing to see of an object that is not the file's. One that is larger than a mebibyte
    is shown by its size alone: its hash is compared when it is downloaded.
    """
    settings = services.settings
    try:
        expected = _expected(file, key)
        with boto_errors(settings, key):
            found = services.quick_objects.get_object(Bucket=settings.s3_bucket, Key=key)
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
    """The parts of an object; a small one is read and checked before this returns. Raises Differs."""
    if size > CHECK_WHOLE_BYTES:
        return _checked_chunks(body, expected)
    whole = body.read()
    body.close()
    expected.check(whole)
    return iter([whole])


def _checked_chunks(body: "StreamingBody", expected: ExpectedObject) -> Iterator[bytes]:
    """Each part once the next one has come. The last one stays where the hash is wrong: the answer breaks off."""
    digest, held = expected.digest(), b""
    with contextlib.closing(body):
        for chunk in body.iter_chunks(CHUNK_BYTES):
            digest.update(chunk)
            if held:
                yield held
            held = chunk
        try:
            digest.finish()
        except ObjectMismatch as error:
            log.error("A download was broken off", reason=str(error))  # noqa: TRY400 - no trace is needed
            raise
        yield held


@contextlib.contextmanager
def _closed_on_error(body: "StreamingBody") -> Iterator["StreamingBody"]:
    try:
        yield body
    except BaseException:
        body.close()
        raise
