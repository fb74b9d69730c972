"""REST's OpenAPI document. Its schemas are generated from the records that are sent and received."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import msgspec
from fastapi import FastAPI

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.files import DESCRIPTION_MAX_BYTES, TITLE_MAX_CHARACTERS, has_visible_character
from filemill.domain.handlers import INPUTS_MAX
from filemill.queries.files import FileDetails
from filemill.queries.handlers import HandlerView
from filemill_dashboard.rest.errors import ErrorBody
from filemill_dashboard.rest.records import (
    AuditList,
    BulkResult,
    DeadLetterList,
    FileSelector,
    HandlerList,
    Me,
    OffsetResetRequest,
    OffsetResetResult,
    PipelineState,
    ReplayRequest,
    ReplayResult,
    RetrySelector,
    WorkerList,
)

_RECORDS: list[type] = [
    FileRow,
    FileDetails,
    HandlerList,
    HandlerView,
    ErrorBody,
    PipelineState,
    FileSelector,
    RetrySelector,
    BulkResult,
    DeadLetterList,
    ReplayRequest,
    ReplayResult,
    WorkerList,
    OffsetResetRequest,
    OffsetResetResult,
    AuditList,
    Me,
]
# The names under which the document publishes these classes. They are part of the API, so they stay when a class is
# renamed.
_PUBLISHED_NAMES = {
    "AuditEntryRow": "AuditEntry",
    "BulkResult": "Bulk",
    "DeadLetterItem": "Letter",
    "DeadLetterList": "LetterList",
    "FileSelector": "Which",
    "HandlerView": "Handler",
    "OffsetResetRequest": "OffsetOrder",
    "OffsetResetResult": "OffsetsMoved",
    "PipelineState": "Overview",
    "RecreatedTopic": "Recreated",
    "RefusedFile": "Refused",
    "ReplayRequest": "ReplayOrder",
    "ReplayResult": "Replay",
    "RetrySelector": "WhichToRetry",
    "StallReason": "Reason",
    "StatusCounts": "Counts",
    "ShownState": "Condition",
    "WorkerItem": "WorkerView",
}
_REF = "#/components/schemas/{name}"
_MEANINGS = {
    400: "The body is not JSON in UTF-8, or there is not exactly one Host header",
    401: "Not signed in",
    403: "Sent by a page of another site, or not allowed for the role of the principal",
    404: "Not found",
    409: "Conflict with the current state",
    413: "The body is larger than 1 MiB",
    415: "The Content-Type of the body is not `application/json`",
    421: "The Host header is not a name of this server",
    422: "A field is invalid: `error.field` names it",
    429: "More than a principal may submit or read at once, or too many unknown tokens: wait `Retry-After` seconds",
    500: "Internal error: see the log of the dashboard",
    502: "The object in the bucket is not the one that was written for this file",
    503: "A server is unreachable: retry after `Retry-After` seconds",
}
# Each operation may respond with these: the layers in front of it (filter, sign-in, limits), and internal errors.
_COMMON_STATUSES = (400, 401, 403, 421, 429, 500)
_FILE_LIST = {
    "type": "object",
    "required": ["items", "next_cursor", "previous_cursor"],
    "properties": {
        "items": {"type": "array", "items": {"$ref": _REF.format(name="FileRow")}},
        "next_cursor": {"type": ["string", "null"], "description": "Cursor of the next page"},
        "previous_cursor": {"type": ["string", "null"], "description": "Cursor of the previous page"},
    },
}
_CONTROLS = r"\u0000-\u001f\u007f-\u009f"
# All assigned characters are in these ranges.
_PLANES = (range(0xD800), range(0xE000, 0x33480), range(0xE0000, 0xE0200))


def _title_pattern() -> str:
    r"""No control character and at least one visible one: the rule of `filemill.domain.files.new_file` for ECMA-262.

    It has ranges instead of `\p{Z}`, because many readers of OpenAPI documents do not know Unicode properties.
    """
    ranges: list[list[int]] = []
    for code in (code for plane in _PLANES for code in plane if not has_visible_character(chr(code))):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    invisible = "".join(f"{_escaped(first)}-{_escaped(last)}" for first, last in ranges)
    return f"^[^{_CONTROLS}]*[^{invisible}][^{_CONTROLS}]*$"


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else chr(code)


# Times that stay within the years 1970 to 9999 in every time zone. The use case also accepts the times at the edges.
_YEAR = "(197[1-9]|19[89][0-9]|[2-8][0-9]{3}|9[0-8][0-9]{2}|99[0-8][0-9]|999[0-8])"
_TIME = {
    "format": "date-time",
    "pattern": f"^{_YEAR}-[01][0-9]-[0-3][0-9]T[0-2][0-9](:[0-5][0-9]){{2}}(\\.[0-9]+)?(Z|[+-][0-2][0-9]:[0-5][0-9])$",
}
NEW_FILE_BODY: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": _REF.format(name="NewFile")}}},
}


@cache
def _new_file() -> dict[str, Any]:
    """The schema of a new file. Built at first use, because its pattern takes a fraction of a second."""
    title = {
        "type": "string",
        "minLength": 1,
        "maxLength": TITLE_MAX_CHARACTERS,
        "pattern": _title_pattern(),
        "description": "With a visible character, without control characters",
    }
    description = {
        "type": ["string", "null"],
        "default": "",
        "maxLength": DESCRIPTION_MAX_BYTES,
        "pattern": "^[^\\u0000]*$",
        "description": f"At most {DESCRIPTION_MAX_BYTES} bytes of UTF-8, no NUL",
    }
    name = {"type": ["string", "null"], "minLength": 1, "maxLength": 64, "pattern": "^[a-z][a-z0-9_-]*$"}
    parameters = {
        "type": ["object", "null"],
        "description": "What the handler needs, as its schema says; at most 256 KiB as JSON",
    }
    inputs = {
        "type": ["object", "null"],
        "maxProperties": INPUTS_MAX,
        "additionalProperties": {"type": "string", "minLength": 1, "maxLength": 1024},
        "description": "Keys of objects in the bucket, by the names that the handler knows them by",
    }
    return {
        "type": "object",
        "required": ["title"],
        "properties": {
            "title": title,
            "description": description,
            "handler": {**name, "description": "Name of the handler, see `/api/handlers`; default: text"},
            "parameters": parameters,
            "queue": {**name, "description": "Name of the queue; default: the queue of the handler"},
            "inputs": inputs,
        },
    }


def _reference(name: str) -> dict[str, str]:
    return {"$ref": _REF.format(name=_PUBLISHED_NAMES.get(name, name))}


def body_of(record: type) -> dict[str, Any]:
    """For `openapi_extra`: a request body with this record."""
    content = {"application/json": {"schema": _reference(record.__name__)}}
    return {"requestBody": {"required": True, "content": content}}


def optional(pattern: str) -> dict[str, Any]:
    """The schema of a text parameter that is empty or has this pattern."""
    return {"pattern": f"^({pattern})?$"}


Responses = dict[int | str, dict[str, Any]]


def responses(success: int, content: type | str | None, *errors: int) -> Responses:
    """The responses of an endpoint, as FastAPI takes them.

    `content` is the record of the body, the name of a schema, or the media types of a raw body, separated by spaces;
    None: no body.
    """
    types: dict[str, Any] = {}
    if isinstance(content, str) and "/" in content:
        types = {
            media_type: {"schema": {"type": "object" if media_type.endswith("+json") else "string"}}
            for media_type in content.split()
        }
    elif content is not None:
        name = content if isinstance(content, str) else content.__name__
        types = {"application/json": {"schema": _reference(name)}}
    if 413 in errors:  # an endpoint with a body may also get one of a wrong type
        errors = (*errors, 415)
    return {success: {"description": "Success", "content": types}, **_error_responses(*errors)}


def _error_responses(*statuses: int) -> Responses:
    content = {"application/json": {"schema": _reference(ErrorBody.__name__)}}
    return {str(status): {"description": _MEANINGS[status], "content": content} for status in statuses}


def with_response_header(declared: Responses, status: int, name: str, description: str) -> Responses:
    """The same responses, with a header in the one of this status."""
    header = {"description": description, "schema": {"type": "string"}}
    return {**declared, status: {**declared[status], "headers": {name: header}}}


# What the types of these records cannot express: which fields belong together.
_SELECTOR_VARIANTS: list[dict[str, Any]] = [
    {"required": ["ids"], "properties": {"ids": {"minItems": 1}, "all": {"const": False}}},
    {"required": ["all"], "properties": {"ids": {"maxItems": 0}, "all": {"const": True}}},
]
_RETRY_VARIANTS: list[dict[str, Any]] = [
    *({**kind, "properties": {**kind["properties"], "lost": {"const": False}}} for kind in _SELECTOR_VARIANTS),
    {
        "required": ["lost"],
        "properties": {"ids": {"maxItems": 0}, "all": {"const": False}, "lost": {"const": True}},
    },
]
_RESET_VARIANTS: list[dict[str, Any]] = [
    {"required": ["at"], "properties": {"to": {"const": "time"}, "at": {"type": "string", **_TIME}}},
    {"properties": {"to": {"enum": ["earliest", "latest", "shift"]}, "at": {"type": ["string", "null"], **_TIME}}},
]
_VARIANTS: dict[type, list[dict[str, Any]]] = {
    FileSelector: _SELECTOR_VARIANTS,
    RetrySelector: _RETRY_VARIANTS,
    OffsetResetRequest: _RESET_VARIANTS,
}


def _one_of(schema: Mapping[str, Any], variants: list[dict[str, Any]]) -> dict[str, Any]:
    """The schema as alternatives, each with all its fields, so that a reader need not combine them."""
    found = []
    for variant in variants:
        properties = dict(schema["properties"])
        for name, more in variant["properties"].items():
            properties[name] = more if more.keys() & {"const", "enum", "type"} else {**properties[name], **more}
        required = [*schema.get("required", []), *variant.get("required", [])]
        found.append({**schema, "properties": properties, "required": required})
    return {"title": schema["title"], "description": schema.get("description", ""), "oneOf": found}


def _published_schemas() -> dict[str, Any]:
    """The schemas of all records under their published names."""
    _, components = msgspec.json.schema_components(_RECORDS, ref_template=_REF)
    for record, variants in _VARIANTS.items():
        components[record.__name__] = _one_of(components[record.__name__], variants)
    schemas = {_PUBLISHED_NAMES.get(name, name): _with_published_names(schema) for name, schema in components.items()}
    return {**schemas, "FileList": _FILE_LIST, "NewFile": _new_file()}


def _with_published_names(node: Any) -> Any:  # noqa: ANN401 - any part of a schema
    if isinstance(node, list):
        return [_with_published_names(each) for each in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        return _reference(node["$ref"].rpartition("/")[2])
    return {key: _with_published_names(value) for key, value in node.items()}


def complete_document(app: FastAPI) -> None:
    """Add the records' schemas and the common responses to the document that FastAPI generates."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        document.setdefault("components", {}).setdefault("schemas", {}).update(_published_schemas())
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"] = {**_error_responses(*_COMMON_STATUSES), **operation["responses"]}
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
