"""Reading bodies: by hand, since each way to be wrong has an answer of its own."""

import json
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from fastapi import Request

from dashboard.api_errors import Refused
from filemill.files import InvalidRequest, NewFile, new_file

T = TypeVar("T")

BODY_MAX_BYTES = 1024 * 1024
# A client that sends a little too much is heard out, so that it reads the answer instead of a broken connection.
HEARD_OUT_BYTES = 8 * BODY_MAX_BYTES


async def read_new_file(request: Request) -> NewFile:
    """The request in the body. Raises Refused or InvalidRequest."""
    document = await read_json(request)
    if not isinstance(document, dict):
        raise Refused(422, "invalid", "the body must be a JSON object with a title", "title")
    if "title" not in document:
        raise InvalidRequest("title", "is missing")
    title, description = document["title"], document.get("description")
    if not isinstance(title, str):
        raise InvalidRequest("title", "must be a string")
    if not isinstance(description, str | None):
        raise InvalidRequest("description", "must be a string")
    return new_file(title, description or "")


async def read_json(request: Request) -> Any:  # noqa: ANN401 - any document
    """The body as JSON. Raises Refused, also for a page of another site."""
    refuse_other_sites(request)
    text = _decode(await _read(request))
    try:
        return json.loads(text)
    except RecursionError:
        raise Refused(400, "bad_json", "the body is nested too deeply") from None
    except ValueError as error:
        raise Refused(400, "bad_json", f"the body is not JSON: {error}") from None


async def read_as(request: Request, kind: type[T]) -> T:
    """The body as a record; what it lacks has its default. Raises Refused naming what is wrong."""
    document = await read_json(request)
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        said = str(error)
        field = said.rpartition("`$.")[2].split("`")[0].split("[")[0] if "`$." in said else None
        raise Refused(422, "invalid", f"the body: {said}", field) from None


def refuse_other_sites(request: Request) -> None:
    """A page of another site may send a form here without asking first; its browser says where it comes from."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise Refused(403, "cross_origin", f"requests from pages of {origin!r} are refused")


async def _read(request: Request) -> bytes:
    body = bytearray()
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received <= BODY_MAX_BYTES:
            body += chunk
        elif received > HEARD_OUT_BYTES:
            break
    if received > BODY_MAX_BYTES:
        raise Refused(413, "too_large", f"the body has more than {BODY_MAX_BYTES} bytes")
    return bytes(body)


def _decode(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Refused(400, "bad_encoding", f"the body is not UTF-8: byte {error.start}") from None
