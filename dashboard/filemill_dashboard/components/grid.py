"""A data table. Columns define how their cells are shown; rows can be opened and can have action buttons."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import streamlit as st

from filemill_dashboard.components.assets import component, only_drawn

CellKind = Literal["text", "mono", "number", "badge", "bytes", "seconds", "ago", "rate", "percent", "moment", "chips"]


@dataclass(frozen=True)
class Column:
    """A column. `width` is in pixels; None takes the remaining width.

    The column is hidden if the table is narrower than `hide_below` pixels.
    """

    key: str
    label: str
    kind: CellKind = "text"
    width: int | None = None
    hide_below: int = 0
    title: str = ""


@dataclass(frozen=True)
class RowAction:
    """A button of a row. `disabled_reason` disables it and is its tooltip."""

    name: str
    label: str
    disabled_reason: str = ""
    danger: bool = False


@dataclass(frozen=True)
class TableRow:
    """A row: its cells by the keys of the columns.

    None is unknown; a badge is (text, tone); `ago` and `seconds` are in seconds; `moment` is milliseconds since 1970.
    """

    key: str
    cells: dict[str, Any]
    actions: Sequence[RowAction] = ()
    tone: str | None = None
    titles: dict[str, str] = field(default_factory=dict)


def data_grid(
    key: str,
    columns: Sequence[Column],
    rows: Sequence[TableRow],
    *,
    label: str,
    empty: tuple[str, str],
    stale: bool = False,
    selected: str | None = None,
    on_open: Callable[[str], None] | None = None,
    on_action: Callable[[str, str], None] | None = None,
) -> None:
    """Draw the table. Without rows, `empty` is shown: a title and a hint. `on_action` gets the row and the action.

    `selected` is the row whose details the page shows below the table; opening a row scrolls to them.

    The callbacks are called only for rows that were drawn and for buttons that were enabled.
    """
    drawn = {row.key: [action.name for action in row.actions if not action.disabled_reason] for row in rows}

    def dispatch() -> None:
        state = st.session_state[key]
        if state.open is not None and on_open is not None:
            row = only_drawn(key, state.open, drawn)
            if row is not None:
                on_open(row)
        elif state.action is not None and on_action is not None:
            sent = state.action if isinstance(state.action, Mapping) else {}
            row = only_drawn(key, sent.get("row"), drawn)
            name = only_drawn(key, sent.get("action"), drawn[row]) if row is not None else None
            if row is not None and name is not None:
                on_action(row, name)

    component("grid")(
        key=key,
        data={
            "columns": [asdict(column) for column in columns],
            "rows": [
                {
                    "key": row.key,
                    "cells": row.cells,
                    "actions": [asdict(action) for action in row.actions],
                    "tone": row.tone,
                    "titles": row.titles,
                }
                for row in rows
            ],
            "actions": any(row.actions for row in rows),
            "label": label,
            "empty": {"title": empty[0], "hint": empty[1]} if not rows else None,
            "opens": on_open is not None,
            "stale": stale,
            "selected": selected,
        },
        on_open_change=dispatch,
        on_action_change=dispatch,
    )
