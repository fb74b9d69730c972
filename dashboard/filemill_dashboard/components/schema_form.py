"""Draws the fields of a handler's parameters and returns their values."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from filemill_dashboard.views.plain_markdown import as_plain_markdown
from filemill_dashboard.views.schema_form import FormField

_RECORD_ROWS_MIN = 1


def schema_form(key: str, fields: Sequence[FormField]) -> dict[str, Any]:
    """Draw the fields; returns the value of each by its name. `key` begins the keys of the widgets."""
    return {one.name: _draw(f"{key}-{one.name}", one) for one in fields}


def _draw(key: str, one: FormField) -> Any:  # noqa: ANN401, PLR0911 - one case for each kind
    name = as_plain_markdown(one.label)
    label = name if one.required else f"{name} (optional)"
    text: dict[str, Any] = {"key": key, "help": as_plain_markdown(one.help) or None}
    if one.kind == "boolean":
        return st.checkbox(name, value=bool(one.default), **text)
    if one.kind == "choice":
        index = one.options.index(one.default) if one.default in one.options else (0 if one.required else None)
        return st.selectbox(label, one.options, index=index, placeholder="None", **text)
    if one.kind == "date":
        return st.date_input(label, value=one.default, format="YYYY-MM-DD", **text)
    if one.kind in ("integer", "number"):
        return _number(label, one, text)
    if one.kind == "records":
        return _records(key, label, one)
    if one.kind == "text":
        return st.text_input(label, value=str(one.default or ""), **text)
    if one.kind == "long_text":
        return st.text_area(label, value=str(one.default or ""), **text)
    return st.text_area(f"{label}, as JSON", value="", placeholder="{ }", **text)


def _number(label: str, one: FormField, text: dict[str, Any]) -> Any:  # noqa: ANN401 - Streamlit has no type for it
    default = one.default
    if default is not None and not _within(one, default):  # Streamlit raises an exception for it
        default = None
    if one.kind == "integer":
        return st.number_input(
            label,
            min_value=None if one.minimum is None else int(one.minimum),
            max_value=None if one.maximum is None else int(one.maximum),
            value=None if default is None else int(default),
            step=1,
            **text,
        )
    return st.number_input(
        label,
        min_value=one.minimum,
        max_value=one.maximum,
        value=None if default is None else float(default),
        **text,
    )


def _within(one: FormField, value: float) -> bool:
    return (one.minimum is None or value >= one.minimum) and (one.maximum is None or value <= one.maximum)


_TYPES = {"integer": "Int64", "number": "float64", "boolean": "boolean"}


def _records(key: str, label: str, one: FormField) -> list[dict[str, Any]]:
    """A grid with one row for each record."""
    st.markdown(label, help=as_plain_markdown(one.help) or None)
    empty = pd.DataFrame(
        {column.name: pd.Series(dtype=_TYPES.get(column.kind, "object")) for column in one.columns},
        index=pd.RangeIndex(0),
    )
    edited = st.data_editor(
        empty.reindex(range(_RECORD_ROWS_MIN)),
        key=key,
        num_rows="dynamic",
        hide_index=True,
        width="stretch",
        column_config={column.name: _column(column) for column in one.columns},
    )
    return [{str(name): cell for name, cell in row.items()} for row in edited.to_dict("records")]


def _column(column: FormField) -> Any:  # noqa: ANN401 - each kind has a class of its own
    options: dict[str, Any] = {"help": as_plain_markdown(column.help) or None, "required": column.required}
    if column.kind == "integer":
        return st.column_config.NumberColumn(column.label, step=1, **options)
    if column.kind == "number":
        return st.column_config.NumberColumn(column.label, **options)
    if column.kind == "boolean":
        return st.column_config.CheckboxColumn(column.label, **options)
    if column.kind == "choice":
        return st.column_config.SelectboxColumn(column.label, options=list(column.options), **options)
    if column.kind == "date":
        return st.column_config.DateColumn(column.label, **options)
    return st.column_config.TextColumn(column.label, **options)
