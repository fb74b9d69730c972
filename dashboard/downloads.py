"""An object of the bucket, on its way to a browser."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from dashboard.services import Services
from filemill.adapters.s3_admin import boto_errors
from filemill.content import CONTENT_TYPE
from filemill.ports import Missing

if TYPE_CHECKING:
    from botocore.response import StreamingBody

CHUNK_BYTES = 64 * 1024
START_BYTES = 4096


@dataclass(frozen=True)
class Download:
    """What to answer with."""

    headers: dict[str, str]
    chunks: Iterator[bytes]


def open_object(services: Services, key: str) -> Download | None:
    """The object, its first bytes still to be read; None where it is missing. Raises retry.Unavailable."""
    settings = services.settings
    try:
        with boto_errors(settings, key):
            found = services.objects.get_object(Bucket=settings.s3_bucket, Key=key)
    except Missing:
        return None
    headers = {
        "Content-Length": str(found["ContentLength"]),
        # Whatever an object says of itself, a browser saves it as text and runs nothing.
        "Content-Type": CONTENT_TYPE,
        "Content-Disposition": attachment(key),
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    return Download(headers, _chunks(found["Body"]))


@dataclass(frozen=True)
class ObjectStart:
    """The first bytes of an object as text (what is not UTF-8 escaped), and its whole size in bytes."""

    text: str
    size: int

    @property
    def whole(self) -> bool:
        """Whether that is all of it."""
        return self.size <= START_BYTES


def read_start(services: Services, key: str) -> ObjectStart | None:
    """The beginning of an object, for a preview; None where it is missing. Raises retry.Unavailable."""
    settings = services.settings
    try:
        with boto_errors(settings, key):
            found = services.quick_objects.get_object(Bucket=settings.s3_bucket, Key=key)
            with contextlib.closing(found["Body"]) as body:
                start = body.read(START_BYTES)
    except Missing:
        return None
    return ObjectStart(start.decode(errors="backslashreplace"), found["ContentLength"])


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


def _chunks(body: "StreamingBody") -> Iterator[bytes]:
    try:
        yield from body.iter_chunks(CHUNK_BYTES)
    finally:
        body.close()
