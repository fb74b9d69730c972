"""Reading bodies: by hand, since each way to be wrong has an answer of its own."""

import json
from typing import Any, TypeVar

import msgspec
from fastapi import Request

from filemill.domain.files import InvalidRequest, NewFile, new_file
from filemill_dashboard.rest.errors import ApiError

T = TypeVar("T")

JSON_TYPE = "application/json"
BODY_MAX_BYTES = 1024 * 1024
# A client that sends a little too much is heard out, so that it reads the answer instead of a broken connection.
HEARD_OUT_BYTES = 8 * BODY_MAX_BYTES


async def read_new_file(request: Request) -> NewFile:
    """The request in the body. Raises Refused or InvalidRequest."""
    document = await read_json(request)
    if not isinstance(document, dict):
        raise ApiError(422, "invalid", "the body must be a JSON object with a title", "title")
    if "title" not in document:
        raise InvalidRequest("title", "is missing")
    title, description = document["title"], document.get("description")
    if not isinstance(title, str):
        raise InvalidRequest("title", "must be a string")
    if not isinstance(description, str | None):
        raise InvalidRequest("description", "must be a string or null")
    return new_file(title, description or "")


async def read_json(request: Request) -> Any:  # noqa: ANN401 - any document
    """The body as JSON. Raises Refused, also for a body that does not say that it is JSON: a form needs no leave."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON_TYPE:
        raise ApiError(415, "unsupported_media_type", f"the body must be {JSON_TYPE}: send it with that Content-Type")
    text = _decode(await _read(request))
    try:
        return json.loads(text, parse_float=_number, parse_constant=_no_number)
    except RecursionError:
        raise ApiError(400, "bad_json", "the body is nested too deeply") from None
    except ValueError as error:
        raise ApiError(400, "bad_json", f"the body is not JSON: {error}") from None


def _number(text: str) -> int | float:
    """JSON has but numbers, and for JSON Schema 2.0 is the integer 2; its digits are read, so nothing is rounded."""
    whole, _, fraction = text.partition(".")
    return float(text) if fraction.strip("0") or not fraction else int(whole)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


async def read_record(request: Request, kind: type[T]) -> T:
    """The body as a record; what it lacks has its default. Raises Refused naming what is wrong."""
    document = await read_json(request)
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        said = str(error)
        field = said.rpartition("`$.")[2].split("`")[0].split("[")[0] if "`$." in said else None
        raise ApiError(422, "invalid", f"the body: {said}", field) from None


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
        raise ApiError(413, "too_large", f"the body has more than {BODY_MAX_BYTES} bytes")
    return bytes(body)


def _decode(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise ApiError(400, "bad_encoding", f"the body is not UTF-8: byte {error.start}") from None
