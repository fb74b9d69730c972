"""Experiments: the lab's runs with their verdicts, compared with each other; and faults for the running stack."""

import streamlit as st

from filemill.domain.files import epoch_milliseconds
from filemill.lab.runs import RecordedRun
from filemill.runtime.journal import JournalEntry
from filemill.runtime.stack_state import StackState
from filemill.services.faults import as_json_lines, fault_options, is_active
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.fault_dialog import OUTCOME, fault_dialog, open_fault_dialog
from filemill_dashboard.components.grid import Column, RowAction, TableRow, data_grid
from filemill_dashboard.components.notebook_link import notebook_link
from filemill_dashboard.components.notices import Notice, show_inline_notice, show_notices
from filemill_dashboard.components.run_chart import SERIES, course_chart
from filemill_dashboard.components.view_url import select_option, update_view
from filemill_dashboard.state import page_data
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import PageData, Snapshot

PARTS = ["Runs", "Faults"]
TEXT_MAX = 300
NDJSON = "application/x-ndjson"
# The measures that the row of a run shows.
SHOWN = {
    "files": ("Files", "number", 78),
    "files_per_second": ("Files /s", "rate", 78),
    "end_to_end_p99": ("p99", "seconds", 74),
    "recovery_median": ("Recovery", "seconds", 84),
    "executed_again": ("Reprocessed", "number", 96),
}
ALIASES = {"files": "accepted", "files_per_second": "accepted_per_second"}
JOURNAL = [
    Column("at", "Time", "moment", 190),
    Column("event", "Event"),
    Column("target", "Target", "text", 170),
    Column("duration", "Duration", "seconds", 90),
    Column("details", "Details", hide_below=760),
]


def _experiments(data: PageData, _snapshot: CachedValue[Snapshot]) -> None:
    if select_option("View", PARTS, PARTS[0], "part") == PARTS[0]:
        _runs(data)
    else:
        _faults(data)
    if st.session_state.pop("open_dialog", False):
        st.rerun(scope="app")  # the next refresh would close a dialog that a fragment opened


def _runs(data: PageData) -> None:
    reading = data.lab.runs()
    runs, stale = reading.value or [], reading.error is not None
    by_name = {run.name: run for run in runs}
    selected, other = (by_name.get(st.query_params.get(name, "")) for name in ("run", "with"))
    notices = [Notice("warn", "The runs cannot be read", reading.error)] if reading.error else []
    show_notices("runs-notice", notices)
    data_grid(
        "runs",
        _columns(),
        [_row(run, selected, other) for run in runs],
        label="Runs of the lab",
        empty=_empty(data, reading),
        stale=stale,
        on_open=lambda name: update_view(run="" if selected is not None and selected.name == name else name),
        on_action=lambda name, _action: update_view(
            **{"with": "" if other is not None and other.name == name else name}
        ),
    )
    if selected is None and st.query_params.get("run") and reading.value is not None:
        text = "It may have been removed, or be in another folder (FILEMILL_RESULTS)."
        show_notices("no-run", [Notice("warn", "Run not found", text)])
        return
    show_notices("no-run", [])
    if selected is not None:
        _selected_run(data, selected, None if other is selected else other)


def _columns() -> list[Column]:
    return [
        Column("run", "Run"),
        Column("began", "Started", "moment", 190, hide_below=760),
        Column("verdict", "Verdict", "badge", 118),
        *(
            Column(key, label, kind, width, hide_below=900)  # type: ignore[arg-type]
            for key, (label, kind, width) in SHOWN.items()
        ),
        Column("parameters", "Parameters", "text", hide_below=1060),
    ]


def _row(run: RecordedRun, selected: RecordedRun | None, other: RecordedRun | None) -> TableRow:
    problems = "; ".join(run.problems)
    parameters = ", ".join(
        f"{name} {value}" for name, value in run.parameters.items() if value not in ({}, [], None, "")
    )
    reason = "" if selected is not None else "Select a run first; this one can then be compared with it"
    reason = "This run is selected" if run is selected else reason
    reason = reason or ("" if run.frames or run.measures else "This run has no recorded data")
    return TableRow(
        run.name,
        {
            "run": run.name,
            "began": epoch_milliseconds(run.began) if run.began else None,
            "verdict": _verdict(run),
            **{key: run.measures.get(key, run.measures.get(ALIASES.get(key, key))) for key in SHOWN},
            "parameters": parameters or None,
        },
        actions=[RowAction("overlay", "Remove" if run is other else "Overlay", reason)],
        tone="bad" if run.invariants is not None and not run.invariants.ok else "warn" if run.problems else None,
        titles={
            "verdict": problems,
            "parameters": parameters,
            "run": f"{run.name}: {problems}" if problems else run.name,
        },
    )


def _verdict(run: RecordedRun) -> tuple[str, str]:
    if run.invariants is not None:
        return ("passed", "good") if run.invariants.ok else ("failed", "bad")
    return ("unfinished", "warn") if run.facts else ("unreadable", "none")


def _empty(data: PageData, reading: CachedValue[list[RecordedRun]]) -> tuple[str, str]:
    if reading.value is None:
        return "No data yet", reading.error or f"The runs are read from {data.lab.folder}."
    hint = f"`make soak MINUTES=1` creates one in {data.lab.folder} (FILEMILL_RESULTS)."
    return "No lab runs yet", hint


def _selected_run(data: PageData, run: RecordedRun, other: RecordedRun | None) -> None:
    both = [run] if other is None else [run, other]
    if run.problems:
        problems = "; ".join(run.problems)
        text = f"{problems}. This run is still in progress or was interrupted. Partial results are shown below."
        show_notices("run-notice", [Notice("warn", "Incomplete run", f"{text[0].upper()}{text[1:]}")])
    else:
        show_notices("run-notice", [])
    with st.container(key="columns", horizontal=True, gap="medium"):
        with st.container(key="left"):
            with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
                page_shell.section_heading("Over time")
                series = select_option("Series", SERIES, SERIES[0], "series")
            courses = [(one.name, data.lab.series(one)) for one in both]
            stale = any(reading.error is not None for _, reading in courses)
            course_chart([(name, reading.value) for name, reading in courses], series, stale=stale)
            page_shell.section_heading("Verdict")
            _invariants(run)
            _journal(data, run)
        with st.container(key="right"):
            page_shell.section_heading("Measures")
            _measures(run, other)
            lines = [Fact(name, _text(value)) for name, value in run.parameters.items()]
            facts("parameters", lines or [Fact("Parameters", None)], title="Parameters")
            parts = [_named(run.facts.get(part)) for part in ("machine", "servers", "versions")]
            machine = [Fact(name.replace("_", " "), _text(value)) for part in parts for name, value in part]
            facts("machine", machine or [Fact("Machine", None)], title="Environment")


def _text(value: object) -> str:
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value))[:TEXT_MAX]


def _named(found: object) -> list[tuple[str, object]]:
    return [(str(name), value) for name, value in found.items()] if isinstance(found, dict) else []


def _measures(run: RecordedRun, other: RecordedRun | None) -> None:
    names = list(dict.fromkeys([*run.measures, *(other.measures if other else ())]))
    columns = [Column("name", "Measure"), Column("a", "A", "mono", 96)]
    columns += [Column("b", "B", "mono", 96), Column("change", "Change", "text", 84)] if other else []
    rows = []
    for name in names:
        a, b = run.measures.get(name), other.measures.get(name) if other else None
        change = f"{100 * (b / a - 1):+.1f} %" if a and b is not None else None
        cells = {"name": name.replace("_", " "), "a": _number(a), "b": _number(b), "change": change}
        rows.append(TableRow(name, cells))
    empty = ("No measures recorded", "A run records its measures at its end.")
    data_grid("measures", columns, rows, label="Measures", empty=empty)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:,.3g}"


def _invariants(run: RecordedRun) -> None:
    words = {True: ("holds", "good"), False: ("violated", "bad"), None: ("not observed", "none")}
    data_grid(
        "invariants",
        [
            Column("number", "#", "mono", 30),
            Column("invariant", "Invariant"),
            Column("verdict", "Verdict", "badge", 124),
            Column("evidence", "Evidence", hide_below=560),
        ],
        [
            TableRow(
                check.number,
                {
                    "number": check.number,
                    "invariant": check.title,
                    "verdict": words[check.ok],
                    "evidence": check.evidence,
                },
                tone="bad" if check.ok is False else None,
                titles={"evidence": "\n".join([check.evidence, *check.examples[:20]])},
            )
            for check in (run.invariants.checks if run.invariants else [])
        ],
        label="Invariants",
        empty=("No verdict yet", "The verdict is recorded at the end of a run; an interrupted run has none."),
    )


def _journal(data: PageData, run: RecordedRun) -> None:
    reading = data.lab.journal(run)
    entries = reading.value or []
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        page_shell.section_heading("Journal")
        with st.container(key="run-toolbar", horizontal=True, vertical_alignment="center", width="content"):
            if run.frames:
                notebook_link(run=run.name)
            _download(entries[::-1], f"{run.name}.jsonl", "run-journal-download")
    _journal_grid("run-journal", entries[:200], "No events", "A run without faults has an empty journal.")


def _download(newest_first: list[JournalEntry], name: str, key: str) -> None:
    st.download_button(
        "Download journal",
        as_json_lines(newest_first),
        file_name=name,
        mime=NDJSON,
        on_click="ignore",
        disabled=not newest_first,
        key=key,
        help="JSON lines, one entry per line" if newest_first else "The journal is empty",
    )


def _journal_grid(
    key: str, entries: list[JournalEntry], empty: str, hint: str, stack: StackState | None = None
) -> None:
    """Draw a journal. An entry without an end is active in `stack`, or it was interrupted."""
    data_grid(
        key,
        JOURNAL,
        [
            TableRow(
                f"{entry.began}-{entry.name}-{entry.target}",
                {
                    "at": int(1000 * entry.began),
                    "event": _event(entry, stack),
                    "target": entry.target or None,
                    "duration": None if entry.ended is None else entry.ended - entry.began,
                    "details": str(entry.detail.get("error") or _details(entry))[:TEXT_MAX] or None,
                },
                tone="bad" if "error" in entry.detail else "warn" if is_active(stack, entry) else None,
            )
            for entry in entries
        ],
        label="Journal",
        empty=(empty, hint),
    )


def _event(entry: JournalEntry, stack: StackState | None) -> str:
    if entry.ended is not None:
        return entry.name
    return f"{entry.name} ({'active' if is_active(stack, entry) else 'no end recorded'})"


def _details(entry: JournalEntry) -> str:
    return ", ".join(f"{name} {value}" for name, value in entry.detail.items() if name not in ("key", "seconds"))


def _faults(data: PageData) -> None:
    stack, reading = data.stack(), data.faults()
    entries = reading.value or []
    by_key = {option.key: option for option in fault_options(stack, entries)}
    show_inline_notice("fault-outcome", st.session_state.get(OUTCOME))
    data_grid(
        "offers",
        [
            Column("target", "Target", "text", 150),
            Column("kind", "Fault", "badge", 110),
            Column("effect", "Effect"),
        ],
        [
            TableRow(
                key,
                {
                    "target": option.label,
                    "kind": (option.kind, "bad" if option.kind == "killed" else "warn"),
                    "effect": option.effect,
                },
                actions=[RowAction("inject", "Inject …", option.reason, danger=True)],
            )
            for key, option in by_key.items()
        ],
        label="Faults",
        empty=("No targets", "Start a stack: `filemill up`."),
        on_action=lambda key, _action: open_fault_dialog(by_key[key]),
    )
    if stack is None:
        text = "Faults can be injected into the embedded stack of a page (`filemill up`) and into the lab's stacks."
        show_notices("no-stack", [Notice("none", "Faults cannot be injected from this page", text)])
    else:
        show_notices("no-stack", [])
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        page_shell.section_heading("Fault journal")
        with st.container(key="faults-toolbar", width="content"):
            _download(entries, "faults.jsonl", "fault-journal-download")
    hint = "Each fault appears here and on every chart."
    _journal_grid("fault-journal", entries, "No faults injected yet", hint, stack)


page_shell.render_page("Experiments", _experiments)
fault_dialog(page_data.current())
