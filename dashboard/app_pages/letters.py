"""Dead letters: why, where from, what was in them, and once more."""

from collections.abc import Sequence
from datetime import UTC, datetime

import streamlit as st

from dashboard import data as data_module
from dashboard.components import shell
from dashboard.components.bars import bars
from dashboard.components.facts import Fact, facts
from dashboard.components.grid import Act, Column, Row, grid
from dashboard.components.preview import preview
from dashboard.components.redrive import redrive_dialog, want
from dashboard.components.trouble import Notice, show_notices
from dashboard.components.view_url import choice, turn
from dashboard.data import Data, Snapshot
from dashboard.payload import pretty
from dashboard.readings import Reading
from filemill.dead_letters import DeadLetter, histogram, likeness

SHOWN = 100
VIEWS = ["Still broken", "All"]
COLUMNS = [
    Column("place", "Place", "mono", 92, title="partition:offset in the topic of dead letters"),
    Column("age", "Died", "ago", 104),
    Column("file", "File", "text", 86),
    Column("reason", "Reason"),
    Column("run", "Run", "number", 56, hide_below=800),
    Column("attempts", "Attempts", "text", 78, hide_below=900),
    Column("worker", "Worker", "text", 126, hide_below=1000),
    Column("standing", "Now", "badge", 150),
]


def _letters(data: Data, _snapshot: Reading[Snapshot]) -> None:
    reading = data.letters()
    reason = st.query_params.get("reason", "")
    with st.container(
        key="letter-bar", horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
    ):
        st.html('<div class="section">Why requests died</div>', width="content")
        view = choice("Which", VIEWS, VIEWS[0], "view")
    if reading.value is None:
        what = "Kafka has not answered yet" if reading.error is None else "The dead letters cannot be read now"
        show_notices("letters-trouble", [Notice("warn", what, reading.error or "They appear as soon as it does.")])
        return
    error = reading.error
    old = [Notice("warn", "The dead letters are not of now", error)] if error else []
    show_notices("letters-trouble", old)
    within = [letter for letter in reading.value if view == "All" or letter.still_broken]
    empty = "Nothing is broken: every request that died was tried again since, or none ever did."
    bars("reasons", histogram(within), reason, label="Reasons", empty=empty, on_choice=lambda name: turn(reason=name))
    found = [letter for letter in within if not reason or likeness(letter.reason) == reason]
    _redrive_bar(found)
    _table(found, old=error is not None)
    chosen = next((letter for letter in found if letter.place == st.query_params.get("place")), None)
    if chosen is not None:
        _details(chosen)
    if st.session_state.pop("opening", False):
        st.rerun(scope="app")  # a dialog opened by a fragment would close with its next refresh


def _redrive_bar(found: Sequence[DeadLetter]) -> None:
    can = [letter for letter in found if letter.refusal is None]
    with st.container(key="redrive", horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        shown = f", the newest {SHOWN} are below" if len(found) > SHOWN else ""
        text = f"{len(found):,} dead letters match; {len(can):,} of them can be sent through once more{shown}."
        st.caption(text if found else "No dead letter matches.")
        st.button(
            f"Replay {len(can):,} …",
            key="redrive-all",
            type="primary",
            disabled=not can,
            help=None if can else "None of them can: their files were tried again, deleted, or never ours",
            on_click=want,
            args=(list(found),),
        )


def _table(found: Sequence[DeadLetter], *, old: bool) -> None:
    now = datetime.now(UTC)
    newest = list(found)[::-1][:SHOWN]
    by_place = {letter.place: letter for letter in newest}
    grid(
        "letters",
        COLUMNS,
        [_row(letter, (now - letter.at).total_seconds()) for letter in newest],
        label="Dead letters",
        empty=("No dead letters here", "Requests that no attempt could process appear here, with the reason."),
        old=old,
        on_open=lambda place: turn(place="" if st.query_params.get("place") == place else place),
        on_act=lambda place, act: _act(by_place[place], act),
    )


def _act(letter: DeadLetter, act: str) -> None:
    if act == "replay":
        want([letter])
    else:
        shell.go("file", id=str(letter.file_id or ""))


def _row(letter: DeadLetter, age: float) -> Row:
    standing = ("can be replayed", "bad") if letter.refusal is None else ("cannot be", "none")
    if not letter.still_broken:
        standing = ("tried again since", "good")
    return Row(
        letter.place,
        {
            "place": letter.place,
            "age": max(0.0, age),
            "file": f"#{letter.file_id}" if letter.file_id is not None else None,
            "reason": letter.reason,
            "run": letter.run,
            "attempts": letter.attempts,
            "worker": letter.worker,
            "standing": standing,
        },
        acts=[
            Act("file", "File", "" if letter.file_id is not None else "It names no file"),
            Act("replay", "Replay", letter.refusal or ""),
        ],
        titles={"standing": letter.refusal or "its file has failed, and nothing was tried since"},
    )


def _details(letter: DeadLetter) -> None:
    with st.container(key="columns", horizontal=True, gap="large"):
        with st.container(key="left"):
            size = f"{len(letter.value or b''):,} bytes"
            preview("payload", pretty(letter.value), title=f"Payload of {letter.place}", note=size)
            preview("trace", letter.trace, title="Trace", message="No trace: the worker gave none.")
        with st.container(key="right"):
            lines = [
                Fact("Reason", letter.reason, tone="bad"),
                Fact("From", letter.source, mono=True),
                Fact("Now", letter.refusal or "can be replayed"),
            ]
            headers = dict(letter.headers)  # of several with one name the last counts
            lines += [Fact(name, value, mono=True) for name, value in headers.items() if name != "filemill-trace"]
            facts("headers", lines, title="Headers")


shell.show(_letters)
redrive_dialog(data_module.current())
