"""REST's OpenAPI document: the schemas are those of the records that are sent."""

from functools import cache
from typing import Any

import msgspec
from fastapi import FastAPI

from filemill.adapters.postgres.file_rows import FileRow
from filemill.domain.files import DESCRIPTION_MAX_BYTES, TITLE_MAX_CHARACTERS, has_visible_character
from filemill.queries.group import Overview
from filemill.services.dead_letters import Replay
from filemill_dashboard.rest.errors import ErrorBody
from filemill_dashboard.rest.records import (
    BulkResult,
    DeadLetterList,
    FileSelector,
    OffsetResetRequest,
    OffsetResetResult,
    ReplayRequest,
    RetrySelector,
    WorkerList,
)

_REF = "#/components/schemas/{name}"
_MEANINGS = {
    400: "The body is not JSON in UTF-8, or there is not exactly one Host",
    403: "Sent by a page of another site",
    404: "There is no such thing",
    409: "Not possible in the state that it is in",
    413: "The body is larger than 1 MiB",
    415: "The body is not announced as `application/json`",
    421: "The Host is not one under which this server is known",
    422: "A field breaks a limit: `error.field` names it",
    500: "A bug: the log says more",
    502: "The object in the bucket is not the one that was made",
    503: "A server is away: try again after `Retry-After` seconds",
}
# What each operation may answer: the gate in front of all of them, and a bug.
ANYWHERE = (400, 403, 421, 500)
_FILE_LIST = {
    "type": "object",
    "required": ["items", "next_cursor", "previous_cursor"],
    "properties": {
        "items": {"type": "array", "items": {"$ref": _REF.format(name="FileRow")}},
        "next_cursor": {"type": ["string", "null"], "description": "Of the page that follows"},
        "previous_cursor": {"type": ["string", "null"], "description": "Of the page before"},
    },
}
_CONTROLS = r"\u0000-\u001f\u007f-\u009f"
# All assigned characters are in these.
_PLANES = (range(0xD800), range(0xE000, 0x33480), range(0xE0000, 0xE0200))


def _title_pattern() -> str:
    r"""No control character, and one that shows something: the rule of `filemill.domain.files.new_file` for ECMA-262.

    With ranges, where `\p{Z}` would be short: many readers of OpenAPI documents have no Unicode properties.
    """
    ranges: list[list[int]] = []
    for code in (code for plane in _PLANES for code in plane if not has_visible_character(chr(code))):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    hidden = "".join(f"{_escaped(first)}-{_escaped(last)}" for first, last in ranges)
    return f"^[^{_CONTROLS}]*[^{hidden}][^{_CONTROLS}]*$"


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else chr(code)


# Times that no time zone moves out of the years 1970 to 9999; the use case takes those at the edges, too.
_YEAR = "(197[1-9]|19[89][0-9]|[2-8][0-9]{3}|9[0-8][0-9]{2}|99[0-8][0-9]|999[0-8])"
_TIME = {
    "format": "date-time",
    "pattern": f"^{_YEAR}-[01][0-9]-[0-3][0-9]T[0-2][0-9](:[0-5][0-9]){{2}}(\\.[0-9]+)?(Z|[+-][0-2][0-9]:[0-5][0-9])$",
}
BODY: dict[str, Any] = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": _REF.format(name="NewFile")}}},
}


@cache
def _new_file() -> dict[str, Any]:
    """What a request for a file is. Made when it is first asked for: the pattern takes a fraction of a second."""
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
    return {
        "type": "object",
        "required": ["title"],
        "properties": {"title": title, "description": description},
    }


def body_of(record: type) -> dict[str, Any]:
    """For `openapi_extra`: a body that is this record."""
    schema = {"$ref": _REF.format(name=record.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def optional(pattern: str) -> dict[str, Any]:
    """The schema of a parameter's text: none, or one of this form."""
    return {"pattern": f"^({pattern})?$"}


def responses(success: int, content: str, *errors: int) -> dict[int | str, dict[str, Any]]:
    """The answers of an endpoint. `content` is a record's name, or the types of what is sent as it is; "": no body."""
    types: dict[str, Any] = {}
    if "/" in content:
        types = {
            media_type: {"schema": {"type": "object" if media_type.endswith("+json") else "string"}}
            for media_type in content.split()
        }
    elif content:
        types = {"application/json": {"schema": {"$ref": _REF.format(name=content)}}}
    if 413 in errors:  # there is a body, so it may also be of a wrong type
        errors = (*errors, 415)
    return {success: {"description": "Done", "content": types}, **_errors(*errors)}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    wrong = {"application/json": {"schema": {"$ref": _REF.format(name="ErrorBody")}}}
    return {str(status): {"description": _MEANINGS[status], "content": wrong} for status in statuses}


def with_response_header(
    told: dict[int | str, dict[str, Any]], status: int, name: str, description: str
) -> dict[int | str, dict[str, Any]]:
    """The answers of an endpoint, one of which may have this header."""
    header = {"description": description, "schema": {"type": "string"}}
    return {**told, status: {**told[status], "headers": {name: header}}}


# What the types of these records do not say: which fields belong together.
_WHICH: list[dict[str, Any]] = [
    {"required": ["ids"], "properties": {"ids": {"minItems": 1}, "all": {"const": False}}},
    {"required": ["all"], "properties": {"ids": {"maxItems": 0}, "all": {"const": True}}},
]
_WHICH_TO_RETRY: list[dict[str, Any]] = [
    *({**kind, "properties": {**kind["properties"], "lost": {"const": False}}} for kind in _WHICH),
    {
        "required": ["lost"],
        "properties": {"ids": {"maxItems": 0}, "all": {"const": False}, "lost": {"const": True}},
    },
]
_OFFSET_ORDER: list[dict[str, Any]] = [
    {"required": ["at"], "properties": {"to": {"const": "time"}, "at": {"type": "string", **_TIME}}},
    {"properties": {"to": {"enum": ["earliest", "latest", "shift"]}, "at": {"type": ["string", "null"], **_TIME}}},
]


def _alternatives(schema: dict[str, Any], *kinds: dict[str, Any]) -> dict[str, Any]:
    """The schema, where one of the kinds holds: each with all its fields, so that a reader need not combine them."""
    found = []
    for kind in kinds:
        properties = dict(schema["properties"])
        for name, more in kind["properties"].items():
            properties[name] = more if more.keys() & {"const", "enum", "type"} else {**properties[name], **more}
        required = [*schema.get("required", []), *kind.get("required", [])]
        found.append({**schema, "properties": properties, "required": required})
    return {"title": schema["title"], "description": schema.get("description", ""), "oneOf": found}


def complete_document(app: FastAPI) -> None:
    """Add the records' schemas to the document that FastAPI generates."""
    generate = app.openapi
    records = [
        FileRow,
        ErrorBody,
        Overview,
        FileSelector,
        RetrySelector,
        BulkResult,
        DeadLetterList,
        ReplayRequest,
        Replay,
        WorkerList,
    ]
    records += [OffsetResetRequest, OffsetResetResult]
    _, components = msgspec.json.schema_components(records, ref_template=_REF)

    def openapi() -> dict[str, Any]:
        document = generate()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update({**components, "FileList": _FILE_LIST, "NewFile": _new_file()})
        schemas["Which"] = _alternatives(schemas["Which"], *_WHICH)
        schemas["WhichToRetry"] = _alternatives(schemas["WhichToRetry"], *_WHICH_TO_RETRY)
        schemas["OffsetOrder"] = _alternatives(schemas["OffsetOrder"], *_OFFSET_ORDER)
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"] = {**_errors(*ANYWHERE), **operation["responses"]}
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
