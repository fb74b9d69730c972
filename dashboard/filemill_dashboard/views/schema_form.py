"""The fields of a form, from the JSON Schema of a handler's parameters. Pure.

Texts, numbers, dates, booleans, choices and lists of flat records have fields of their own. Anything else is edited as
JSON. Only the handler's schema decides whether the values are valid.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal

import msgspec

from filemill.errors import InvalidRequest

FieldKind = Literal["text", "long_text", "integer", "number", "date", "boolean", "choice", "records", "json"]

# A text that may be longer than this gets several lines.
LONG_TEXT_CHARACTERS = 200
_REFERENCE = "#/"
_REFERENCES_MAX = 20
_ONE_VALUE: dict[str, FieldKind] = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}


class FormField(msgspec.Struct, frozen=True):
    """A field. `options` are those of a choice, `columns` those of a list of records."""

    name: str
    label: str
    kind: FieldKind
    required: bool = False
    default: Any = None
    help: str = ""
    options: tuple[Any, ...] = ()
    columns: tuple["FormField", ...] = ()
    minimum: float | None = None
    maximum: float | None = None


def form_fields(schema: Mapping[str, Any]) -> list[FormField] | None:
    """The fields of an object, required ones first; None: it has to be edited as JSON as a whole.

    PostgreSQL's jsonb does not keep the order of the schema.
    """
    root = _resolve(schema, schema)
    properties = root.get("properties")
    if not isinstance(properties, Mapping) or root.keys() & {"oneOf", "anyOf", "allOf", "if"}:
        return None if root.keys() & {"oneOf", "anyOf", "allOf", "if"} or root.get("additionalProperties", True) else []
    required = root.get("required", ())
    fields = [_field(name, node, schema, required=name in required) for name, node in properties.items()]
    return sorted(fields, key=lambda one: not one.required)


def _field(name: str, node: Any, schema: Mapping[str, Any], *, required: bool, nested: bool = False) -> FormField:  # noqa: ANN401
    found = _resolve(_without_null(_resolve(node, schema)), schema)
    kind, columns = _kind(found, schema, nested=nested)
    return FormField(
        name,
        str(found.get("title") or name.replace("_", " ").capitalize()),
        kind,
        required=required,
        default=found.get("default", node.get("default") if isinstance(node, Mapping) else None),
        help=str(found.get("description") or ""),
        options=tuple(found.get("enum", ())),
        columns=columns,
        minimum=_number(found.get("minimum")),
        maximum=_number(found.get("maximum")),
    )


def _kind(
    node: Mapping[str, Any], schema: Mapping[str, Any], *, nested: bool
) -> tuple[FieldKind, tuple[FormField, ...]]:
    if isinstance(node.get("enum"), list) and all(isinstance(one, str | int | float) for one in node["enum"]):
        return "choice", ()
    of_type = node.get("type")
    if of_type == "string" and node.get("format") == "date":
        return "date", ()
    if of_type == "string" and node.get("maxLength", 0) > LONG_TEXT_CHARACTERS and not nested:
        return "long_text", ()
    if isinstance(of_type, str) and of_type in _ONE_VALUE:
        return _ONE_VALUE[of_type], ()
    if of_type == "array" and not nested:
        columns = _columns(node.get("items"), schema)
        if columns:
            return "records", columns
    return "json", ()


def _columns(items: Any, schema: Mapping[str, Any]) -> tuple[FormField, ...]:  # noqa: ANN401
    """The columns of a list of flat records; none for any other list."""
    item = _resolve(items, schema)
    properties = item.get("properties")
    if item.get("type") != "object" or not isinstance(properties, Mapping):
        return ()
    required = item.get("required", ())
    columns = tuple(
        _field(name, node, schema, required=name in required, nested=True) for name, node in properties.items()
    )
    return () if any(column.kind == "json" for column in columns) else columns


def _resolve(node: Any, schema: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ANN401
    """The node without references within the document."""
    for _ in range(_REFERENCES_MAX):
        if not isinstance(node, Mapping):
            return {}
        reference = node.get("$ref")
        if not isinstance(reference, str):
            return node
        if not reference.startswith(_REFERENCE):
            return {}
        target: Any = schema
        for step in reference.removeprefix(_REFERENCE).split("/"):
            target = target.get(step) if isinstance(target, Mapping) else None
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}} if target else {}
    return {}


def _without_null(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a value that may be null, without the null."""
    of_type = node.get("type")
    if isinstance(of_type, list) and len(rest := [one for one in of_type if one != "null"]) == 1:
        return {**node, "type": rest[0]}
    choices = node.get("anyOf")
    if isinstance(choices, list):
        values = [one for one in choices if isinstance(one, Mapping) and one.get("type") != "null"]
        if len(values) == 1:
            return {**values[0], **{key: value for key, value in node.items() if key != "anyOf"}}
    return node


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def parameters_of(fields: Sequence[FormField], values: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that the values of a form mean; an empty optional field is left out. Raises InvalidRequest."""
    found = {}
    for one in fields:
        value = _value(one, values.get(one.name))
        if value is not None:
            found[one.name] = value
    return found


def _value(one: FormField, value: Any) -> Any:  # noqa: ANN401, PLR0911 - one case for each kind
    if value is None or (value == "" and not (one.required and one.kind in ("text", "long_text"))):
        return None
    if one.kind == "json":
        return parse_json(one.name, str(value))
    if one.kind == "date":
        return value.isoformat() if isinstance(value, date) else str(value)
    if one.kind == "integer":
        return int(value)
    if one.kind == "number":
        return _whole(float(value))
    if one.kind == "records":
        rows = [parameters_of(one.columns, {key: _cell(cell) for key, cell in row.items()}) for row in value]
        rows = [row for row in rows if row]
        return rows or ([] if one.required else None)
    return value


def _cell(value: Any) -> Any:  # noqa: ANN401
    """A cell of a grid: an empty one is NaN or None."""
    return None if value is None or value != value else value  # noqa: PLR0124 - NaN differs from itself


def _whole(value: float) -> int | float:
    return int(value) if value.is_integer() else value


def parse_json(name: str, text: str) -> Any:  # noqa: ANN401
    """The value of a field that is edited as JSON. Raises InvalidRequest, which names the field."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(name, f"must be JSON: {error}") from None
