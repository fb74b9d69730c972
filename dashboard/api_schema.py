"""REST's OpenAPI document: the schemas are those of the records that are sent."""

from typing import Any

import msgspec
from fastapi import FastAPI

from dashboard.api_errors import ErrorBody
from dashboard.api_records import Bulk, LetterList, OffsetOrder, OffsetsMoved, ReplayOrder, Which, WorkerList
from filemill.adapters.postgres_reads import FileRow
from filemill.adapters.postgres_reads_group import Overview
from filemill.dead_letters import Replay
from filemill.files import DESCRIPTION_MAX_BYTES, TITLE_MAX_CHARACTERS

_REF = "#/components/schemas/{name}"
_MEANINGS = {
    400: "The body is not JSON in UTF-8",
    403: "Sent by a page of another site",
    404: "There is no such thing",
    409: "Not possible in the state that it is in",
    413: "The body is larger than 1 MiB",
    415: "The body is not announced as `application/json`",
    422: "A field breaks a limit: `error.field` names it",
    502: "The object in the bucket is not the one that was made",
    503: "A server is away: try again after `Retry-After` seconds",
}
_FILE_LIST = {
    "type": "object",
    "required": ["items", "next_cursor", "previous_cursor"],
    "properties": {
        "items": {"type": "array", "items": {"$ref": _REF.format(name="FileRow")}},
        "next_cursor": {"type": ["string", "null"], "description": "Of the page that follows"},
        "previous_cursor": {"type": ["string", "null"], "description": "Of the page before"},
    },
}
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["title"],
                "properties": {
                    "title": {
                        "type": "string",
                        "minLength": 1,
                        "maxLength": TITLE_MAX_CHARACTERS,
                        "description": "Not blank, no control characters",
                    },
                    "description": {
                        "type": "string",
                        "default": "",
                        "description": f"At most {DESCRIPTION_MAX_BYTES} bytes of UTF-8, no NUL",
                    },
                },
            }
        }
    },
}


def body_of(record: type) -> dict[str, Any]:
    """For `openapi_extra`: a body that is this record."""
    schema = {"$ref": _REF.format(name=record.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def answers(success: int, schema: str | None, *errors: int) -> dict[int | str, dict[str, Any]]:
    """The answers of an endpoint; `schema` None is plain text, "" no body."""
    if schema == "":
        content: dict[str, Any] = {}
    elif schema is None:
        content = {"text/plain": {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": {"$ref": _REF.format(name=schema)}}}
    if 413 in errors:  # there is a body, so it may also be of a wrong type
        errors = (*errors, 415)
    wrong = {"application/json": {"schema": {"$ref": _REF.format(name="ErrorBody")}}}
    return {
        success: {"description": "Done", "content": content},
        **{status: {"description": _MEANINGS[status], "content": wrong} for status in errors},
    }


def with_header(
    told: dict[int | str, dict[str, Any]], status: int, name: str, description: str
) -> dict[int | str, dict[str, Any]]:
    """The answers of an endpoint, one of which may have this header."""
    header = {"description": description, "schema": {"type": "string"}}
    return {**told, status: {**told[status], "headers": {name: header}}}


def complete(app: FastAPI) -> None:
    """Add the records' schemas to the document that FastAPI generates."""
    generate = app.openapi
    records = [FileRow, ErrorBody, Overview, Which, Bulk, LetterList, ReplayOrder, Replay, WorkerList]
    records += [OffsetOrder, OffsetsMoved]
    _, components = msgspec.json.schema_components(records, ref_template=_REF)

    def openapi() -> dict[str, Any]:
        document = generate()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update({**components, "FileList": _FILE_LIST})
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way
