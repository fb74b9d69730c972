"""Dead letters: their reasons and contents; replay and dismiss them."""

from collections import Counter
from collections.abc import Sequence, Set

import streamlit as st

from filemill.adapters.kafka.admin import all_topics
from filemill.domain.dead_letters import DeadLetter, ReplayRefusal, parse_place, reason_counts, reason_fingerprint
from filemill.domain.files import epoch_milliseconds
from filemill.domain.permissions import Permission
from filemill.domain.queues import topic_of
from filemill.errors import Forbidden, Unavailable
from filemill.queries.dead_letters import KEPT_RECORDS, DeadLetterContent
from filemill.services.dead_letters import dismiss, restore
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.bars import bars
from filemill_dashboard.components.confirmation import confirmation
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.grid import Column, RowAction, TableRow, data_grid
from filemill_dashboard.components.notices import Notice, show_inline_notice, show_notices
from filemill_dashboard.components.preview import preview
from filemill_dashboard.components.queue_filter import queue_filter
from filemill_dashboard.components.record_details import link_to_record
from filemill_dashboard.components.replay_dialog import open_replay_dialog, replay_dialog
from filemill_dashboard.components.view_url import search_box, select_option, update_view
from filemill_dashboard.state import page_data
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import PageData, Snapshot
from filemill_dashboard.state.principals import page_principal, why_not
from filemill_dashboard.views.payload import pretty
from filemill_dashboard.views.plurals import counted

SHOWN = 100
DRAWER_PIXELS = 640
VIEWS = ["Unresolved", "Dismissed", "All"]
COLUMNS = [
    Column("place", "Position", "mono", 92, title="partition:offset in the dead-letter topic"),
    Column("at", "Last", "moment", 178, title="When the record was dead-lettered, or last if several times"),
    Column("first", "First", "moment", 178, hide_below=1380),
    Column("file", "File", "text", 86, hide_below=800),
    Column("reason", "Reason"),
    Column("count", "Count", "number", 62, title="How often the record was dead-lettered", hide_below=900),
    Column("run", "Run", "number", 56, hide_below=1000),
    Column("attempts", "Attempts", "text", 78, hide_below=1180),
    Column("worker", "Worker", "text", 126, hide_below=1240),
    Column("state", "State", "badge", 122),
]
# What a resolved dead letter is called, by the code of why it cannot be replayed.
RESOLVED = {
    ReplayRefusal.RETRIED_SINCE: ("retried since", "good"),
    ReplayRefusal.NOT_FAILED: ("not failed", "good"),
    ReplayRefusal.OTHER_RUN: ("other run", "none"),
    ReplayRefusal.FILE_DELETED: ("file deleted", "none"),
    ReplayRefusal.UNKNOWN_FILE: ("unknown file", "none"),
}
NOT_REPLAYABLE = (
    "No dead letter can be replayed: each file was retried, deleted or is not failed, or the record names no file."
)
_UNREACHABLE = ("Kafka is unreachable", "The dead letters appear when it responds again.")
_DISMISS_REQUESTED = "dismiss_requested"
_OUTCOME = "dead_letters_outcome"


def _dead_letters(data: PageData, _snapshot: CachedValue[Snapshot]) -> None:
    reading = data.dead_letters()
    reason = st.query_params.get("reason", "")
    with st.container(
        key="dead-letter-bar", horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
    ):
        page_shell.section_heading("Reasons")
        with st.container(key="dead-letter-filter", horizontal=True, vertical_alignment="center", width="content"):
            queue = queue_filter(data)
            text = search_box("Search", "Reason, or #id of a file", "find", live="300ms", width=220)
            view = select_option("Show", VIEWS, VIEWS[0], "view")
    away = "kafka" in data.visibility().unreachable
    if reading.value is None and away:  # a banner says so
        show_notices("dead-letters-notice", [])
        data_grid("letters", COLUMNS, [], label="Dead letters", empty=_UNREACHABLE)
        return
    if reading.value is None:
        title = "Waiting for Kafka" if reading.error is None else "The dead letters cannot be read"
        show_notices(
            "dead-letters-notice",
            [Notice("warn", title, reading.error or "The dead letters appear when Kafka responds.")],
        )
        return
    # An outage of Kafka has its own banner, which moves no row.
    error = None if away else reading.error
    warning = [Notice("warn", "Showing stale data", error)] if error else []
    show_notices("dead-letters-notice", warning)
    topic = topic_of(queue, data.services.settings.all_queues)
    within = [
        letter
        for letter in reading.value.items
        if _in_view(letter, view) and _matches(letter, text) and (not topic or letter.source_topic == topic)
    ]
    empty = (
        "No matching dead letters."
        if text or queue
        else "None."
        if view == "All"
        else f"No {view.lower()} dead letters."
    )
    bars(
        "reasons",
        reason_counts(within),
        reason,
        label="Reasons",
        empty=empty,
        on_choice=lambda name: update_view(reason=name),
    )
    letters = [letter for letter in within if not reason or reason_fingerprint(letter.reason) == reason]
    _letter_bar(letters, truncated=reading.value.truncated)
    _table(data, letters, stale=reading.error is not None)
    if st.session_state.pop("open_dialog", False):
        st.rerun(scope="app")  # the next refresh would close a dialog that a fragment opened


def _in_view(letter: DeadLetter, view: str) -> bool:
    return view == "All" or (letter.dismissed if view == "Dismissed" else letter.unresolved)


def _matches(letter: DeadLetter, text: str) -> bool:
    """Whether the search finds it: `#7` is the file with id 7, anything else is part of the reason."""
    if text.startswith("#"):
        return letter.file_id is not None and str(letter.file_id) == text[1:].strip()
    return text.lower() in letter.reason.lower()


def _letter_bar(letters: Sequence[DeadLetter], *, truncated: bool) -> None:
    replayable = [letter for letter in letters if letter.refusal is None]
    with st.container(
        key="replay-bar", horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
    ):
        shown = f"; the newest {SHOWN} are listed" if len(letters) > SHOWN else ""
        matching = counted(len(letters), "dead letter matches", "dead letters match")
        text = f"{matching}, {len(replayable):,} can be replayed{shown}."
        older = f" Only the newest {KEPT_RECORDS:,} records of the topic are read." if truncated else ""
        st.caption((text if letters else "No dead letters match.") + older)
        _letter_actions(letters, replayable)
    show_inline_notice("dead-letters-outcome", st.session_state.get(_OUTCOME))


def _letter_actions(letters: Sequence[DeadLetter], replayable: Sequence[DeadLetter]) -> None:
    unresolved = [letter for letter in letters if letter.unresolved]
    with st.container(key="letter-actions", horizontal=True, width="content", gap="small"):
        reason = why_not(Permission.DISMISS_DEAD_LETTERS) if unresolved else "No dead letter needs an action"
        st.button(
            f"Dismiss {len(unresolved):,} …",
            key="dismiss-all",
            disabled=bool(reason),
            help=reason or "Mark them as needing no action",
            on_click=_open_dismissal,
            args=(unresolved,),
        )
        reason = why_not(Permission.REPLAY_DEAD_LETTERS) if replayable else NOT_REPLAYABLE
        st.button(
            f"Replay {len(replayable):,} …",
            key="replay-all",
            type="primary",
            disabled=bool(reason),
            help=reason or None,
            on_click=open_replay_dialog,
            args=(list(letters),),
        )


def _table(data: PageData, letters: Sequence[DeadLetter], *, stale: bool) -> None:
    newest = list(letters)[::-1][:SHOWN]
    by_place = {letter.place: letter for letter in newest}
    data_grid(
        "letters",
        COLUMNS,
        [_row(letter) for letter in newest],
        label="Dead letters",
        empty=("No dead letters", "Requests that cannot be processed appear here with the reason."),
        stale=stale,
        selected=st.query_params.get("place"),
        on_open=_open,
        on_action=lambda place, action: _on_action(data, by_place[place], action),
    )


def _open(place: str) -> None:
    update_view(place=place)
    st.session_state["open_dialog"] = True


def _close() -> None:
    st.query_params.pop("place", None)


def _on_action(data: PageData, letter: DeadLetter, action: str) -> None:
    if action == "replay":
        open_replay_dialog([letter])
    else:
        _set_dismissed(data, [letter], dismissed=action == "dismiss")


def _set_dismissed(data: PageData, letters: Sequence[DeadLetter], *, dismissed: bool) -> str | None:
    """Dismiss the dead letters or take that back, show the outcome, and return why it failed."""
    change = dismiss if dismissed else restore
    try:
        places = change(data.services.engine, letters, principal=page_principal())
    except (Unavailable, Forbidden) as error:
        st.session_state[_OUTCOME] = Notice("bad", "Dead letters not changed", str(error))
        return str(error)
    data.invalidate()
    where = places[0] if len(places) == 1 else counted(len(places), "dead letter")
    how = "dismissed; Restore in the view Dismissed takes it back" if dismissed else "restored"
    st.session_state[_OUTCOME] = Notice("good", f"{where} {how}")
    return None


def _open_dismissal(letters: Sequence[DeadLetter]) -> None:
    st.session_state.update({_DISMISS_REQUESTED: list(letters), "open_dialog": True})


def dismissal_dialog(data: PageData) -> bool:
    """Open the dialog that dismisses many dead letters, if it was requested; return whether it was."""
    letters: list[DeadLetter] | None = st.session_state.get(_DISMISS_REQUESTED)
    if letters is None:
        return False

    def about() -> str:
        reasons = reason_counts(letters)
        bars("dismiss-reasons", reasons, "", label="Reasons", empty="None", on_choice=lambda _name: None)
        st.caption("They are no longer listed as unresolved. The records stay on the topic, and Restore takes it back.")
        return f"Dismiss {counted(len(letters), 'dead letter')}"

    def close() -> None:
        st.session_state.pop(_DISMISS_REQUESTED, None)

    confirmation(
        "dismiss",
        "Dismiss dead letters",
        about,
        lambda: _set_dismissed(data, letters, dismissed=True),
        close,
        failure="Dead letters not changed",
        danger=False,
    )
    return True


def _row(letter: DeadLetter) -> TableRow:
    forbidden = why_not(Permission.DISMISS_DEAD_LETTERS)
    resolved = "" if letter.dismissed or letter.unresolved else "It needs no action"
    return TableRow(
        letter.place,
        {
            "place": letter.place,
            "at": None if letter.at is None else epoch_milliseconds(letter.at),
            "first": None if letter.first_at is None else epoch_milliseconds(letter.first_at),
            "file": f"#{letter.file_id}" if letter.file_id is not None else None,
            "reason": letter.reason,
            "count": letter.count,
            "run": letter.run,
            "attempts": letter.attempts,
            "worker": letter.worker,
            "state": _state(letter),
        },
        actions=[
            RowAction("replay", "Replay", letter.refusal or why_not(Permission.REPLAY_DEAD_LETTERS)),
            RowAction("restore", "Restore", forbidden)
            if letter.dismissed
            else RowAction("dismiss", "Dismiss", resolved or forbidden),
        ],
        titles={
            "state": letter.refusal or "The file failed and was not retried",
            "at": letter.problem or "",
            "count": _occurrences(letter),
        },
    )


def _state(letter: DeadLetter) -> tuple[str, str]:
    """Return what became of it, and its tone."""
    if letter.dismissed:
        return "dismissed", "none"
    if letter.refusal_code is None:
        return "replayable", "bad"
    return ("no file", "warn") if letter.still_broken else RESOLVED.get(letter.refusal_code, ("resolved", "good"))


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


def letter_details(data: PageData, place: str) -> None:
    """Open the drawer of a dead letter, if there is one at this position."""
    snapshot = data.dead_letters().value
    letter = next((one for one in snapshot.items if one.place == place), None) if snapshot is not None else None
    if letter is None:
        return

    def body() -> None:
        reading = data.dead_letter_content(letter)
        content = reading.value
        missing = reading.error or "The record was removed by retention." if content is None else ""
        _links(data, letter)
        lines = [
            Fact("Reason", letter.reason, tone="bad"),
            Fact("File", f"#{letter.file_id}" if letter.file_id is not None else None),
            Fact("Source", letter.source, mono=True),
            Fact("Count", _occurrences(letter)),
            Fact("Last", None if letter.at is None else f"{letter.at:%Y-%m-%d %H:%M:%S} UTC"),
            Fact("State", _state(letter)[0]),
            Fact("Replay", f"not possible: {letter.refusal}" if letter.refusal else "possible"),
        ]
        if letter.problem is not None:
            lines.insert(1, Fact("Unreadable", letter.problem, tone="warn"))
        lines += _header_facts(content, {line.name for line in lines})
        facts("headers", lines)
        payload = None if content is None else pretty(content.value)
        preview("payload", payload, title="Payload", note=counted(letter.size, "byte"), message=missing)
        trace = content.trace if content is not None else None
        preview("trace", trace, title="Stack trace", message=missing or "No stack trace was recorded.")

    st.dialog(f"Dead letter {place}", width=DRAWER_PIXELS, position="right", on_dismiss=_close)(body)()


def _links(data: PageData, letter: DeadLetter) -> None:
    topic, _, position = letter.source.partition("/")
    source, latest = position.replace("/", ":"), f"{letter.latest[0]}:{letter.latest[1]}"
    with st.container(key="record-links", horizontal=True):
        if letter.file_id is not None:
            page_shell.page_link("file", f"File #{letter.file_id}", id=str(letter.file_id))
        if parse_place(source) is not None and topic in all_topics(data.services.settings):
            link_to_record("Source record", topic, source)
        link_to_record("Record on Kafka", data.services.settings.topic_dead_letters, latest)


page_shell.render_page("Dead letters", _dead_letters, permission=Permission.READ_DEAD_LETTERS)
if not dismissal_dialog(page_data.current()) and not replay_dialog(page_data.current()):
    letter_details(page_data.current(), st.query_params.get("place", ""))
