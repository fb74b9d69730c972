"""The form of a handler's parameters, from its JSON Schema."""

from datetime import date
from typing import Any

import pytest

from filemill.errors import InvalidRequest
from filemill_dashboard.views.csv_requests import csv_requests
from filemill_dashboard.views.schema_form import form_fields, parameters_of
from tests.integration.announcements import INVOICE

# As msgspec and pydantic write them.
OPTIONAL: dict[str, Any] = {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}], "default": None}


def test_each_type_has_its_kind_of_field() -> None:
    fields = form_fields(INVOICE.schema)
    assert fields is not None
    kinds = {one.name: (one.kind, one.required) for one in fields}
    assert list(kinds) == ["number", "lines", "due", "paid", "currency"], "the required fields come first"
    assert kinds == {
        "number": ("text", True),
        "due": ("date", False),
        "paid": ("boolean", False),
        "currency": ("choice", False),
        "lines": ("records", True),
    }
    lines = fields[1]
    assert [(column.name, column.kind, column.required) for column in lines.columns] == [
        ("text", "text", True),
        ("price", "number", True),
    ]


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        (OPTIONAL, "date"),
        ({"type": ["integer", "null"]}, "integer"),
        ({"$ref": "#/$defs/Choice"}, "choice"),
        ({"type": "array", "items": {"type": "string"}}, "json"),
        ({"type": "object"}, "json"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "json"),
        ({"$ref": "https://example.org/schema"}, "json"),
        ({"$ref": "#/$defs/Loop"}, "json"),
        ({"type": "string", "maxLength": 5000}, "long_text"),
        ({"type": "array", "items": {"$ref": "#/$defs/Nested"}}, "json"),
    ],
)
def test_what_has_no_field_of_its_own_is_edited_as_json(node: dict[str, Any], kind: str) -> None:
    nested = {"type": "object", "properties": {"inner": {"type": "object"}}}
    definitions = {"Choice": {"enum": ["a", "b"]}, "Loop": {"$ref": "#/$defs/Loop"}, "Nested": nested}
    fields = form_fields({"type": "object", "properties": {"it": node}, "$defs": definitions})
    assert fields is not None
    assert fields[0].kind == kind


def test_a_schema_without_properties_is_edited_as_json_unless_it_allows_nothing() -> None:
    assert form_fields({}) is None
    assert form_fields({"oneOf": [{"type": "object"}], "properties": {"a": {"type": "string"}}}) is None
    assert form_fields({"type": "object", "additionalProperties": False}) == []


def test_a_reference_to_the_root_object_is_followed() -> None:
    schema = {"$ref": "#/$defs/Root", "$defs": {"Root": {"type": "object", "properties": {"a": {"type": "string"}}}}}
    assert [one.name for one in form_fields(schema) or ()] == ["a"]


def test_empty_optional_fields_are_left_out() -> None:
    fields = form_fields(INVOICE.schema) or []
    rows = [{"text": "Work", "price": 12.0}, {"text": None, "price": float("nan")}]
    values = {"number": "AB-7", "due": date(2026, 1, 2), "paid": False, "currency": None, "lines": rows}
    assert parameters_of(fields, values) == {
        "number": "AB-7",
        "due": "2026-01-02",
        "paid": False,
        "lines": [{"text": "Work", "price": 12}],
    }
    assert parameters_of(fields, {"number": "", "due": None, "lines": []}) == {"number": "", "lines": []}


def test_a_json_field_that_is_not_json_is_named() -> None:
    fields = form_fields({"properties": {"options": {"type": "object"}}, "additionalProperties": False}) or []
    assert parameters_of(fields, {"options": '{"a": 1}'}) == {"options": {"a": 1}}
    with pytest.raises(InvalidRequest, match="options"):
        parameters_of(fields, {"options": "{"})


def test_a_csv_file_has_one_request_a_row() -> None:
    fields = form_fields(INVOICE.schema)
    text = (
        'title,queue,number,paid,lines\nOne,urgent,AB-1,yes,"[{""text"": ""a"", ""price"": 1}]"\n,,AB-2,,\nThree,,7,,\n'
    )
    rows = csv_requests(text.encode(), "invoice", fields, "bulk")
    assert [(row.line, row.title, row.error is None) for row in rows] == [
        (2, "One", True),
        (3, "", False),
        (4, "Three", True),
    ]
    first, third = rows[0].request, rows[2].request
    assert first is not None
    assert third is not None
    assert first.parameters == '{"number":"AB-1","paid":true,"lines":[{"text":"a","price":1}]}'
    assert (first.queue, third.queue, third.parameters) == ("urgent", "bulk", '{"number":"7"}')


@pytest.mark.parametrize("content", [b"", b"name\nx\n", b"title\n\xff\n", b'title\n"a"b\n'])
def test_a_file_that_is_no_csv_of_requests_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequest):
        csv_requests(content, "text", [], None)


def test_a_row_with_too_many_cells_is_an_error_of_this_row() -> None:
    rows = csv_requests(b"title\nOne,2\nTwo\n", "text", [], None)
    assert [row.error is None for row in rows] == [False, True]
