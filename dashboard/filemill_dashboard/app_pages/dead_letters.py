"""Dead letters: their reasons, their contents, and their replay."""

from collections import Counter
from collections.abc import Sequence, Set
from datetime import UTC, datetime

import streamlit as st

from filemill.domain.dead_letters import DeadLetter, reason_counts, reason_fingerprint
from filemill.domain.permissions import Permission
from filemill.queries.dead_letters import KEPT_RECORDS, DeadLetterContent
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.bars import bars
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.grid import Column, RowAction, TableRow, data_grid
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.components.preview import preview
from filemill_dashboard.components.replay_dialog import open_replay_dialog, replay_dialog
from filemill_dashboard.components.view_url import select_option, update_view
from filemill_dashboard.state import page_data
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import PageData, Snapshot
from filemill_dashboard.views.payload import pretty
from filemill_dashboard.views.plurals import counted

SHOWN = 100
VIEWS = ["Unresolved", "All"]
COLUMNS = [
    Column("place", "Position", "mono", 92, title="partition:offset in the dead-letter topic"),
    Column("age", "Age", "ago", 104),
    Column("file", "File", "text", 86, hide_below=800),
    Column("reason", "Reason"),
    Column("count", "Count", "number", 62, title="How often the record was dead-lettered", hide_below=800),
    Column("run", "Run", "number", 56, hide_below=800),
    Column("attempts", "Attempts", "text", 78, hide_below=900),
    Column("worker", "Worker", "text", 126, hide_below=1000),
    Column("state", "State", "badge", 150),
]


def _dead_letters(data: PageData, snapshot: CachedValue[Snapshot]) -> None:
    reading = data.dead_letters()
    reason = st.query_params.get("reason", "")
    with st.container(
        key="dead-letter-bar", horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
    ):
        page_shell.section_heading("Reasons")
        view = select_option("Show", VIEWS, VIEWS[0], "view")
    if reading.value is None:
        title = "Waiting for Kafka" if reading.error is None else "The dead letters cannot be read"
        show_notices(
            "dead-letters-notice",
            [Notice("warn", title, reading.error or "The dead letters appear when Kafka responds.")],
        )
        return
    error = reading.error
    warning = [Notice("warn", "Showing stale data", error)] if error else []
    show_notices("dead-letters-notice", warning)
    within = [letter for letter in reading.value.items if view == "All" or letter.still_broken]
    empty = "No unresolved dead letters."
    bars(
        "reasons",
        reason_counts(within),
        reason,
        label="Reasons",
        empty=empty,
        on_choice=lambda name: update_view(reason=name),
    )
    letters = [letter for letter in within if not reason or reason_fingerprint(letter.reason) == reason]
    _replay_bar(letters, truncated=reading.value.truncated)
    # The timestamps are a server's, so the age is computed by a server's clock, if it is known.
    now = snapshot.value.overview.as_of if snapshot.value else datetime.now(UTC)
    _table(letters, now, stale=error is not None)
    selected = next((letter for letter in letters if letter.place == st.query_params.get("place")), None)
    if selected is not None:
        _details(data, selected)
    if st.session_state.pop("open_dialog", False):
        st.rerun(scope="app")  # the next refresh would close a dialog that a fragment opened


def _replay_bar(letters: Sequence[DeadLetter], *, truncated: bool) -> None:
    replayable = [letter for letter in letters if letter.refusal is None]
    with st.container(
        key="replay-bar", horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
    ):
        shown = f"; the newest {SHOWN} are listed" if len(letters) > SHOWN else ""
        matching = counted(len(letters), "dead letter matches", "dead letters match")
        text = f"{matching}, {len(replayable):,} can be replayed{shown}."
        older = f" Only the newest {KEPT_RECORDS:,} records of the topic are read." if truncated else ""
        st.caption((text if letters else "No dead letters match.") + older)
        st.button(
            f"Replay {len(replayable):,} …",
            key="replay-all",
            type="primary",
            disabled=not replayable,
            help=None
            if replayable
            else "No dead letter can be replayed: each file was retried, was deleted, or is unknown.",
            on_click=open_replay_dialog,
            args=(list(letters),),
        )


def _table(letters: Sequence[DeadLetter], now: datetime, *, stale: bool) -> None:
    newest = list(letters)[::-1][:SHOWN]
    by_place = {letter.place: letter for letter in newest}
    data_grid(
        "letters",
        COLUMNS,
        [_row(letter, None if letter.at is None else max(0.0, (now - letter.at).total_seconds())) for letter in newest],
        label="Dead letters",
        empty=("No dead letters", "Requests that cannot be processed appear here with the reason."),
        stale=stale,
        selected=st.query_params.get("place"),
        on_open=lambda place: update_view(place="" if st.query_params.get("place") == place else place),
        on_action=lambda place, action: _on_action(by_place[place], action),
    )


def _on_action(letter: DeadLetter, action: str) -> None:
    if action == "replay":
        open_replay_dialog([letter])
    else:
        page_shell.navigate_to("file", id=str(letter.file_id or ""))


def _row(letter: DeadLetter, age: float | None) -> TableRow:
    state = ("replayable", "bad") if letter.refusal is None else ("not replayable", "none")
    if not letter.still_broken:
        state = ("resolved", "good")
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
            "state": state,
        },
        actions=[
            RowAction("file", "File", "" if letter.file_id is not None else "The record has no valid file ID"),
            RowAction("replay", "Replay", letter.refusal or ""),
        ],
        titles={
            "state": letter.refusal or "The file failed and was not retried",
            "age": letter.problem or "",
            "count": _occurrences(letter),
        },
    )


def _header_facts(content: DeadLetterContent | None, used_names: Set[str]) -> list[Fact]:
    """Return all headers in order. A repeated name gets a number, because the names of facts are unique."""
    seen = Counter(used_names)
    lines = []
    for name, value in content.headers if content is not None else []:
        seen[name] += 1
        if name != "filemill-trace":
            label = name if seen[name] == 1 else f"{name} ({seen[name]})"
            lines.append(Fact(label, "(null)" if value is None else value, mono=True))
    return lines


def _occurrences(letter: DeadLetter) -> str:
    """Return how often the record was dead-lettered, and when first."""
    since = "" if letter.first_at is None else f", first at {letter.first_at:%Y-%m-%d %H:%M:%S} UTC"
    return "once" if letter.count == 1 else f"{letter.count:,} times{since}"


def _details(data: PageData, letter: DeadLetter) -> None:
    reading = data.dead_letter_content(letter)
    content = reading.value
    missing = reading.error or "The record was removed by retention." if content is None else ""
    with st.container(key="columns", horizontal=True, gap="large"):
        with st.container(key="left"):
            payload = None if content is None else pretty(content.value)
            size = counted(letter.size, "byte")
            preview("payload", payload, title=f"Payload of {letter.place}", note=size, message=missing)
            trace = content.trace if content is not None else None
            preview("trace", trace, title="Stack trace", message=missing or "No stack trace was recorded.")
        with st.container(key="right"):
            lines = [
                Fact("Reason", letter.reason, tone="bad"),
                Fact("File", f"#{letter.file_id}" if letter.file_id is not None else None),
                Fact("Source", letter.source, mono=True),
                Fact("Count", _occurrences(letter)),
                Fact("State", letter.refusal or "replayable"),
            ]
            if letter.problem is not None:
                lines.insert(1, Fact("Unreadable", letter.problem, tone="warn"))
            lines += _header_facts(content, {line.name for line in lines})
            facts("headers", lines, title="Headers")


page_shell.render_page("Dead letters", _dead_letters, permission=Permission.READ_DEAD_LETTERS)
replay_dialog(page_data.current())
