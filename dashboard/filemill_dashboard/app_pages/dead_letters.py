"""Dead letters: why, where from, what was in them, and once more."""

from collections import Counter
from collections.abc import Sequence, Set
from datetime import UTC, datetime

import streamlit as st

from filemill.domain.dead_letters import DeadLetter, histogram, likeness
from filemill.queries.dead_letters import KEPT_RECORDS, Content
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.bars import bars
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.grid import Column, RowAction, TableRow, data_grid
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.components.preview import preview
from filemill_dashboard.components.redrive_dialog import open_replay_dialog, replay_dialog
from filemill_dashboard.components.view_url import select_option, update_view
from filemill_dashboard.state import data as data_module
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import PageData, Snapshot
from filemill_dashboard.views.payload import pretty

SHOWN = 100
VIEWS = ["Still broken", "All"]
COLUMNS = [
    Column("place", "Place", "mono", 92, title="partition:offset in the topic of dead letters"),
    Column("age", "Died", "ago", 104),
    Column("file", "File", "text", 86, hide_below=800),
    Column("reason", "Reason"),
    Column("count", "Times", "number", 62, title="How often the record was read and came here", hide_below=800),
    Column("run", "Run", "number", 56, hide_below=800),
    Column("attempts", "Attempts", "text", 78, hide_below=900),
    Column("worker", "Worker", "text", 126, hide_below=1000),
    Column("standing", "Now", "badge", 150),
]


def _dead_letters(data: PageData, snapshot: CachedValue[Snapshot]) -> None:
    reading = data.dead_letters()
    reason = st.query_params.get("reason", "")
    with st.container(
        key="letter-bar", horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
    ):
        st.html('<div class="section">Why requests died</div>', width="content")
        view = select_option("Which", VIEWS, VIEWS[0], "view")
    if reading.value is None:
        what = "Kafka has not answered yet" if reading.error is None else "The dead letters cannot be read now"
        show_notices("letters-trouble", [Notice("warn", what, reading.error or "They appear as soon as it does.")])
        return
    error = reading.error
    old = [Notice("warn", "The dead letters are not of now", error)] if error else []
    show_notices("letters-trouble", old)
    within = [letter for letter in reading.value.items if view == "All" or letter.still_broken]
    empty = "Nothing is broken: every request that died was tried again since, or none ever did."
    bars(
        "reasons",
        histogram(within),
        reason,
        label="Reasons",
        empty=empty,
        on_choice=lambda name: update_view(reason=name),
    )
    found = [letter for letter in within if not reason or likeness(letter.reason) == reason]
    _replay_bar(found, truncated=reading.value.truncated)
    # Letters are dated by a server: their age is by a server's clock too, where it is known.
    now = snapshot.value.overview.as_of if snapshot.value else datetime.now(UTC)
    _table(found, now, old=error is not None)
    chosen = next((letter for letter in found if letter.place == st.query_params.get("place")), None)
    if chosen is not None:
        _details(data, chosen)
    if st.session_state.pop("opening", False):
        st.rerun(scope="app")  # a dialog opened by a fragment would close with its next refresh


def _replay_bar(found: Sequence[DeadLetter], *, truncated: bool) -> None:
    can = [letter for letter in found if letter.refusal is None]
    with st.container(key="redrive", horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        shown = f", the newest {SHOWN} are below" if len(found) > SHOWN else ""
        text = f"{len(found):,} dead letters match; {len(can):,} of them can be sent through once more{shown}."
        older = f" Only the newest {KEPT_RECORDS:,} records of the topic are listed." if truncated else ""
        st.caption((text if found else "No dead letter matches.") + older)
        st.button(
            f"Replay {len(can):,} …",
            key="redrive-all",
            type="primary",
            disabled=not can,
            help=None if can else "None of them can: their files were tried again, deleted, or never ours",
            on_click=open_replay_dialog,
            args=(list(found),),
        )


def _table(found: Sequence[DeadLetter], now: datetime, *, old: bool) -> None:
    newest = list(found)[::-1][:SHOWN]
    by_place = {letter.place: letter for letter in newest}
    data_grid(
        "letters",
        COLUMNS,
        [_row(letter, None if letter.at is None else max(0.0, (now - letter.at).total_seconds())) for letter in newest],
        label="Dead letters",
        empty=("No dead letters here", "Requests that no attempt could process appear here, with the reason."),
        stale=old,
        selected=st.query_params.get("place"),
        on_open=lambda place: update_view(place="" if st.query_params.get("place") == place else place),
        on_action=lambda place, act: _on_action(by_place[place], act),
    )


def _on_action(letter: DeadLetter, act: str) -> None:
    if act == "replay":
        open_replay_dialog([letter])
    else:
        page_shell.navigate_to("file", id=str(letter.file_id or ""))


def _row(letter: DeadLetter, age: float | None) -> TableRow:
    standing = ("can be replayed", "bad") if letter.refusal is None else ("not replayable", "none")
    if not letter.still_broken:
        standing = ("tried again since", "good")
    return TableRow(
        letter.place,
        {
            "place": letter.place,
            "age": None if age is None else max(0.0, age),
            "file": f"#{letter.file_id}" if letter.file_id is not None else None,
            "reason": letter.reason,
            "count": letter.count,
            "run": letter.run,
            "attempts": letter.attempts,
            "worker": letter.worker,
            "standing": standing,
        },
        actions=[
            RowAction("file", "File", "" if letter.file_id is not None else "It names no file"),
            RowAction("replay", "Replay", letter.refusal or ""),
        ],
        titles={
            "standing": letter.refusal or "its file has failed, and nothing was tried since",
            "age": letter.problem or "",
            "count": _occurrences(letter),
        },
    )


def _header_facts(content: Content | None, taken: Set[str]) -> list[Fact]:
    """All headers in their order; lines are told apart by their names, so that a second of a name gets a number."""
    seen = Counter(taken)
    found = []
    for name, value in content.headers if content is not None else []:
        seen[name] += 1
        if name != "filemill-trace":
            label = name if seen[name] == 1 else f"{name} ({seen[name]})"
            found.append(Fact(label, "(null)" if value is None else value, mono=True))
    return found


def _occurrences(letter: DeadLetter) -> str:
    """How often the record came here, and when first."""
    since = "" if letter.first_at is None else f", first at {letter.first_at:%Y-%m-%d %H:%M:%S} UTC"
    return "once" if letter.count == 1 else f"{letter.count:,} times{since}"


def _details(data: PageData, letter: DeadLetter) -> None:
    reading = data.dead_letter_content(letter)
    content = reading.value
    gone = reading.error or "The record is gone: retention removed it." if content is None else ""
    with st.container(key="columns", horizontal=True, gap="large"):
        with st.container(key="left"):
            payload = None if content is None else pretty(content.value)
            preview("payload", payload, title=f"Payload of {letter.place}", note=f"{letter.size:,} bytes", message=gone)
            trace = content.trace if content is not None else None
            preview("trace", trace, title="Trace", message=gone or "No trace: the worker gave none.")
        with st.container(key="right"):
            lines = [
                Fact("Reason", letter.reason, tone="bad"),
                Fact("File", f"#{letter.file_id}" if letter.file_id is not None else None),
                Fact("From", letter.source, mono=True),
                Fact("Seen", _occurrences(letter)),
                Fact("Now", letter.refusal or "can be replayed"),
            ]
            if letter.problem is not None:
                lines.insert(1, Fact("Unreadable", letter.problem, tone="warn"))
            lines += _header_facts(content, {line.name for line in lines})
            facts("headers", lines, title="Headers")


page_shell.render_page(_dead_letters)
replay_dialog(data_module.current())
