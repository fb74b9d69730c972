"""Experiments: the lab's runs with their verdicts, one laid over another; and faults for the stack that runs."""

import streamlit as st

from filemill.domain.files import epoch_milliseconds
from filemill.lab.runs import RecordedRun
from filemill.runtime.journal import JournalEntry
from filemill.services.faults import as_json_lines, offers
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.fault_dialog import OUTCOME, fault_dialog, open_fault_dialog
from filemill_dashboard.components.grid import Column, RowAction, TableRow, data_grid
from filemill_dashboard.components.notebook_link import notebook_link
from filemill_dashboard.components.notices import Notice, show_inline_notice, show_notices
from filemill_dashboard.components.run_chart import SERIES, course_chart
from filemill_dashboard.components.view_url import select_option, update_view
from filemill_dashboard.state import data as data_module
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.page_data import PageData, Snapshot

PARTS = ["Runs", "Faults"]
TEXT_MAX = 300
NDJSON = "application/x-ndjson"
# The measures of a run that its row shows, where it has them.
SHOWN = {
    "files": ("Files", "number", 78),
    "files_per_second": ("Files /s", "rate", 78),
    "end_to_end_p99": ("p99", "seconds", 74),
    "recovery_median": ("Recovery", "seconds", 84),
    "executed_again": ("Again", "number", 66),
}
ALIASES = {"files": "accepted", "files_per_second": "accepted_per_second"}
JOURNAL = [
    Column("at", "When", "moment", 190),
    Column("what", "What"),
    Column("target", "On what", "text", 170),
    Column("lasted", "Lasted", "seconds", 90),
    Column("more", "Learned", hide_below=760),
]


def _experiments(data: PageData, _snapshot: CachedValue[Snapshot]) -> None:
    if select_option("Part", PARTS, PARTS[0], "part") == PARTS[0]:
        _runs(data)
    else:
        _faults(data)
    if st.session_state.pop("opening", False):
        st.rerun(scope="app")  # a dialog opened by a fragment would close with its next refresh


def _runs(data: PageData) -> None:
    reading = data.lab.runs()
    runs, old = reading.value or [], reading.error is not None
    by_name = {run.name: run for run in runs}
    chosen, other = (by_name.get(st.query_params.get(name, "")) for name in ("run", "with"))
    trouble = [Notice("warn", "The runs cannot be read now", reading.error)] if reading.error else []
    show_notices("runs-trouble", trouble)
    data_grid(
        "runs",
        _columns(),
        [_row(run, chosen, other) for run in runs],
        label="Runs of the lab",
        empty=_empty(data, reading),
        stale=old,
        on_open=lambda name: update_view(run="" if chosen is not None and chosen.name == name else name),
        on_action=lambda name, _act: update_view(**{"with": "" if other is not None and other.name == name else name}),
    )
    if chosen is None and st.query_params.get("run") and reading.value is not None:
        text = "It may have been removed, or lie in another folder (FILEMILL_RESULTS)."
        show_notices("no-run", [Notice("warn", "There is no such run any more", text)])
        return
    show_notices("no-run", [])
    if chosen is not None:
        _selected_run(data, chosen, None if other is chosen else other)


def _columns() -> list[Column]:
    return [
        Column("run", "Run"),
        Column("began", "Began", "moment", 190, hide_below=760),
        Column("verdict", "Verdict", "badge", 118),
        *(
            Column(key, label, kind, width, hide_below=900)  # type: ignore[arg-type]
            for key, (label, kind, width) in SHOWN.items()
        ),
        Column("parameters", "Parameters", "text", hide_below=1060),
    ]


def _row(run: RecordedRun, chosen: RecordedRun | None, other: RecordedRun | None) -> TableRow:
    trouble = "; ".join(run.problems)
    told = ", ".join(f"{name} {value}" for name, value in run.parameters.items() if value not in ({}, [], None, ""))
    why_not = "" if chosen is not None else "Choose a run first: this one is laid over it"
    why_not = "It is the one that is chosen" if run is chosen else why_not
    why_not = why_not or ("" if run.frames or run.measures else "It has kept no figures")
    return TableRow(
        run.name,
        {
            "run": run.name,
            "began": epoch_milliseconds(run.began) if run.began else None,
            "verdict": _verdict(run),
            **{key: run.measures.get(key, run.measures.get(ALIASES.get(key, key))) for key in SHOWN},
            "parameters": told or None,
        },
        actions=[RowAction("overlay", "Remove" if run is other else "Overlay", why_not)],
        tone="bad" if run.invariants is not None and not run.invariants.ok else "warn" if run.problems else None,
        titles={"verdict": trouble, "parameters": told, "run": f"{run.name}: {trouble}" if trouble else run.name},
    )


def _verdict(run: RecordedRun) -> tuple[str, str]:
    if run.invariants is not None:
        return ("kept", "good") if run.invariants.ok else ("BROKEN", "bad")
    return ("unfinished", "warn") if run.facts else ("unreadable", "none")


def _empty(data: PageData, reading: CachedValue[list[RecordedRun]]) -> tuple[str, str]:
    if reading.value is None:
        return "Not read yet", reading.error or f"The runs are in {data.lab.folder}."
    todo = f"`make soak MINUTES=1` leaves one; they are looked for in {data.lab.folder} (FILEMILL_RESULTS)."
    return "The lab has no runs yet", todo


def _selected_run(data: PageData, run: RecordedRun, other: RecordedRun | None) -> None:
    both = [run] if other is None else [run, other]
    if run.problems:
        text = f"{'; '.join(run.problems)}. It goes on still, or it was cut off; what there is of it is below."
        show_notices("run-troubles", [Notice("warn", "This run is not whole", f"{text[0].upper()}{text[1:]}")])
    else:
        show_notices("run-troubles", [])
    with st.container(key="columns", horizontal=True, gap="medium"):
        with st.container(key="left"):
            with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
                st.html('<div class="section">Over time</div>', width="content")
                series = select_option("Series", SERIES, SERIES[0], "series")
            courses = [(one.name, data.lab.course(one)) for one in both]
            old = any(reading.error is not None for _, reading in courses)
            course_chart([(name, reading.value) for name, reading in courses], series, stale=old)
            st.html('<div class="section">Verdict</div>')
            _invariants(run)
            _journal(data, run)
        with st.container(key="right"):
            st.html('<div class="section">Figures</div>')
            _measures(run, other)
            lines = [Fact(name, _text(value)) for name, value in run.parameters.items()]
            facts("parameters", lines or [Fact("Parameters", None)], title="Parameters")
            parts = [_named(run.facts.get(part)) for part in ("machine", "servers", "versions")]
            machine = [Fact(name.replace("_", " "), _text(value)) for part in parts for name, value in part]
            facts("machine", machine or [Fact("Machine", None)], title="On what")


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
    empty = ("No figures were kept", "A run keeps them at its end.")
    data_grid("measures", columns, rows, label="Figures", empty=empty)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:,.3g}"


def _invariants(run: RecordedRun) -> None:
    words = {True: ("kept", "good"), False: ("BROKEN", "bad"), None: ("not observed", "none")}
    data_grid(
        "promises",
        [
            Column("number", "", "mono", 30),
            Column("promise", "Promise"),
            Column("verdict", "Verdict", "badge", 124),
            Column("evidence", "Evidence", hide_below=560),
        ],
        [
            TableRow(
                check.number,
                {
                    "number": check.number,
                    "promise": check.title,
                    "verdict": words[check.ok],
                    "evidence": check.evidence,
                },
                tone="bad" if check.ok is False else None,
                titles={"evidence": "\n".join([check.evidence, *check.examples[:20]])},
            )
            for check in (run.invariants.checks if run.invariants else [])
        ],
        label="Promises",
        empty=("No verdict yet", "It is given when the run is over; one that was cut off gets none."),
    )


def _journal(data: PageData, run: RecordedRun) -> None:
    reading = data.lab.journal(run)
    entries = reading.value or []
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.html('<div class="section">Journal</div>', width="content")
        with st.container(key="run-take", horizontal=True, vertical_alignment="center", width="content"):
            if run.frames:
                notebook_link(run=run.name)
            _download(entries[::-1], f"{run.name}.jsonl", "run-journal-download")
    _journal_grid("run-journal", entries[:200], "Nothing was done to it", "A run without faults has an empty journal.")


def _download(newest_first: list[JournalEntry], name: str, key: str) -> None:
    st.download_button(
        "Journal",
        as_json_lines(newest_first),
        file_name=name,
        mime=NDJSON,
        on_click="ignore",
        disabled=not newest_first,
        key=key,
        help="JSON lines, an entry each" if newest_first else "There is nothing in it",
    )


def _journal_grid(key: str, entries: list[JournalEntry], empty: str, todo: str) -> None:
    data_grid(
        key,
        JOURNAL,
        [
            TableRow(
                f"{entry.began}-{entry.name}-{entry.target}",
                {
                    "at": int(1000 * entry.began),
                    "what": entry.name if entry.ended is not None else f"{entry.name}: lasts still",
                    "target": entry.target or None,
                    "lasted": None if entry.ended is None else entry.ended - entry.began,
                    "more": str(entry.detail.get("error") or _details(entry))[:TEXT_MAX] or None,
                },
                tone="bad" if "error" in entry.detail else "warn" if entry.ended is None else None,
            )
            for entry in entries
        ],
        label="Journal",
        empty=(empty, todo),
    )


def _details(entry: JournalEntry) -> str:
    return ", ".join(f"{name} {value}" for name, value in entry.detail.items() if name not in ("key", "seconds"))


def _faults(data: PageData) -> None:
    stack, reading = data.stack(), data.faults()
    entries = reading.value or []
    found = {offer.key: offer for offer in offers(stack, entries)}
    show_inline_notice("fault-outcome", st.session_state.get(OUTCOME))
    data_grid(
        "offers",
        [
            Column("target", "What", "text", 150),
            Column("kind", "Fault", "badge", 110),
            Column("does", "What it does"),
        ],
        [
            TableRow(
                key,
                {
                    "target": offer.label,
                    "kind": (offer.kind, "bad" if offer.kind == "killed" else "warn"),
                    "does": offer.does,
                },
                actions=[RowAction("inject", "Inject …", offer.why_not, danger=True)],
            )
            for key, offer in found.items()
        ],
        label="Faults",
        empty=("Nothing can be broken", "Start a stack: `filemill up`."),
        on_action=lambda key, _act: open_fault_dialog(found[key]),
    )
    if stack is None:
        text = "Faults are for the embedded stack that a page belongs to (`filemill up`), and for the lab's own stacks."
        show_notices("no-stack", [Notice("none", "Nothing can be broken from here", text)])
    else:
        show_notices("no-stack", [])
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.html('<div class="section">Faults so far</div>', width="content")
        with st.container(key="faults-take", width="content"):
            _download(entries, "faults.jsonl", "fault-journal-download")
    _journal_grid("fault-journal", entries, "No fault was injected yet", "Each is here, and a bar on every chart.")


page_shell.render_page(_experiments)
fault_dialog(data_module.current())
