"""Request bodies, read by hand because each kind of error has its own code."""

import json
from typing import Any, TypeVar

import msgspec
from fastapi import Request

from filemill.domain.files import NewFile, new_file
from filemill.domain.handlers import TEXT_HANDLER, check_inputs
from filemill.errors import InvalidRequest
from filemill.services.job_requests import encode_parameters
from filemill_dashboard.rest.errors import ApiError

T = TypeVar("T")

JSON_TYPE = "application/json"
BODY_MAX_BYTES = 1024 * 1024
# Of a body that is too large, this much is read and discarded, so that the client can read the response.
DISCARD_MAX_BYTES = 8 * BODY_MAX_BYTES


async def read_new_file(request: Request) -> NewFile:
    """The new file that the body describes. Raises ApiError or InvalidRequest."""
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
    return with_job(new_file(title, description or ""), document)


def with_job(file: NewFile, document: dict[str, Any]) -> NewFile:
    """The request with the optional fields of a job; null means absent. Raises InvalidRequest."""
    handler, queue, inputs = (document.get(name) for name in ("handler", "queue", "inputs"))
    for name, value in (("handler", handler), ("queue", queue)):
        if not isinstance(value, str | None) or value == "":
            raise InvalidRequest(name, "must be a name or null")
    if inputs is not None and not (isinstance(inputs, dict) and all(isinstance(key, str) for key in inputs.values())):
        raise InvalidRequest("inputs", "must be an object of names and keys, or null")
    parameters = document.get("parameters")
    return msgspec.structs.replace(
        file,
        handler=handler or TEXT_HANDLER,
        parameters=None if parameters is None else encode_parameters(parameters),
        inputs=check_inputs(inputs or {}),
        queue=queue,
    )


async def read_json(request: Request) -> Any:  # noqa: ANN401 - any document
    """The body as JSON. Raises ApiError.

    The Content-Type must be JSON: a foreign page can send other types without a preflight request.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON_TYPE:
        raise ApiError(415, "unsupported_media_type", f"the body must be {JSON_TYPE}: send it with that Content-Type")
    text = _decode(await _read(request))
    try:
        return json.loads(text, parse_float=_parse_number, parse_constant=_reject_constant)
    except RecursionError:
        raise ApiError(400, "bad_json", "the body is nested too deeply") from None
    except ValueError as error:
        raise ApiError(400, "bad_json", f"the body is not JSON: {error}") from None


def _parse_number(text: str) -> int | float:
    """JSON has one type of number, and for JSON Schema 2.0 is the integer 2. The digits are kept exactly."""
    whole, _, fraction = text.partition(".")
    return float(text) if fraction.strip("0") or not fraction else int(whole)


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


async def read_record(request: Request, kind: type[T]) -> T:
    """The body as a record; missing fields have their defaults. Raises ApiError that names the wrong field."""
    document = await read_json(request)
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        message = str(error)
        # msgspec has the path of the wrong field only in its message: "… - at `$.limit`".
        field = message.rpartition("`$.")[2].split("`")[0].split("[")[0] if "`$." in message else None
        raise ApiError(422, "invalid", f"the body: {message}", field) from None


async def _read(request: Request) -> bytes:
    body = bytearray()
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received <= BODY_MAX_BYTES:
            body += chunk
        elif received > DISCARD_MAX_BYTES:
            break
    if received > BODY_MAX_BYTES:
        raise ApiError(413, "too_large", f"the body has more than {BODY_MAX_BYTES} bytes")
    return bytes(body)


def _decode(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise ApiError(400, "bad_encoding", f"the body is not UTF-8: byte {error.start}") from None
