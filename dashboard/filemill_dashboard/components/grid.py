"""A table of anything: columns that say how their cells look, rows that may be opened or acted on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import streamlit as st

from filemill_dashboard.components.assets import component, only_drawn

CellKind = Literal["text", "mono", "number", "badge", "bytes", "seconds", "ago", "rate", "percent", "moment", "chips"]


@dataclass(frozen=True)
class Column:
    """A column. `width` in pixels, None takes what is left; below `hide_below` pixels of the table it is left out."""

    key: str
    label: str
    kind: CellKind = "text"
    width: int | None = None
    hide_below: int = 0
    title: str = ""


@dataclass(frozen=True)
class RowAction:
    """A button of a row. With `why_not` it cannot be pressed, and says why."""

    name: str
    label: str
    disabled_reason: str = ""
    danger: bool = False


@dataclass(frozen=True)
class TableRow:
    """A row: `cells` by the columns' keys.

    None is unknown; a badge is (text, tone); `ago` and `seconds` are seconds, `moment` is milliseconds since 1970.
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
    """Draw it; without rows, `empty` says what is the case and what to do. `on_act` gets the row and the act.

    `chosen` is the row whose details the page shows below in `columns`: opening a row scrolls to them.

    Both hear only of rows that were drawn, and of buttons that could be pressed there.
    """
    drawn = {row.key: [one.name for one in row.actions if not one.disabled_reason] for row in rows}

    def act() -> None:
        state = st.session_state[key]
        if state.open is not None and on_open is not None:
            row = only_drawn(key, state.open, drawn)
            if row is not None:
                on_open(row)
        elif state.act is not None and on_action is not None:
            sent = state.act if isinstance(state.act, Mapping) else {}
            row = only_drawn(key, sent.get("row"), drawn)
            name = only_drawn(key, sent.get("act"), drawn[row]) if row is not None else None
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
                    "acts": [asdict(one) for one in row.actions],
                    "tone": row.tone,
                    "titles": row.titles,
                }
                for row in rows
            ],
            "acts": any(row.actions for row in rows),
            "label": label,
            "empty": {"what": empty[0], "todo": empty[1]} if not rows else None,
            "opens": on_open is not None,
            "old": stale,
            "chosen": selected,
        },
        on_open_change=act,
        on_act_change=act,
    )
