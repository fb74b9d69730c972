"""Set-up: is each part there, which step is missing, what is in force, and who did what."""

import streamlit as st

from filemill.domain.files import epoch_milliseconds
from filemill.runtime.stack_state import StackState
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.chart_marks import describe
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.grid import Column, TableRow, data_grid
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.components.view_url import select_option
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.health import LABELS
from filemill_dashboard.state.page_data import PageData, Snapshot
from filemill_dashboard.state.setup_facts import own_versions, settings_in_force

TOPICS = [
    Column("name", "Topic", "mono"),
    Column("dated_by", "Timestamps by", "text", 112, title="Who sets the time of a record: the broker or its producer"),
    Column("partitions", "Partitions", "number", 92),
]
VIEWS = ["Health", "Settings", "Activity"]


def _setup(data: PageData, snapshot: CachedValue[Snapshot]) -> None:
    view = select_option("View", VIEWS, VIEWS[0], "show")
    if view == "Settings":
        _settings(data)
    elif view == "Activity":
        _activity(data)
    else:
        _health(data, snapshot)


def _health(data: PageData, snapshot: CachedValue[Snapshot]) -> None:
    stack = data.stack()
    with st.container(key="columns", horizontal=True, gap="large"):
        with st.container(key="half-a"):
            _servers(data, stack)
            _topics(data)
        with st.container(key="half-b"):
            _roles(data, snapshot)
            facts(
                "versions", [Fact(name, version, mono=True) for name, version in own_versions().items()], title="Here"
            )
    _processes(stack)


def _servers(data: PageData, stack: StackState | None) -> None:
    versions = {server.name: server.version for server in stack.servers} if stack else {}
    postgres = data.postgres_version().value
    if postgres:
        versions["postgres"] = postgres
    rows = []
    for name, reading in data.health().items():
        health = reading.value
        state = ("asking …", "none") if health is None else ("well", "good") if health.ok else ("away", "bad")
        cells = {
            "name": LABELS[name],
            "state": state,
            "version": versions.get(name),
            "address": health.address if health else None,
            "took": health.took_ms / 1000 if health and health.took_ms is not None else None,
        }
        rows.append(TableRow(name, cells, titles={"state": (health.problem or "") if health else ""}))
    columns = [
        Column("name", "Server", "text", 104),
        Column("state", "State", "badge", 92),
        Column("version", "Version", "mono", 84),
        Column("address", "Address", "mono"),
        Column("took", "Answer in", "seconds", 88),
    ]
    st.html('<div class="section">Servers</div>')
    data_grid("servers", columns, rows, label="Servers", empty=("None", ""))
    known = [reading.value for reading in data.health().values() if reading.value is not None]
    missing = [one for one in known if not one.ok]
    steps = [Notice("warn", f"{LABELS[one.server]} {one.problem}", one.advice or "") for one in missing]
    fine = Notice("good", "Nothing is missing", "Servers, schema, topics and bucket are there.")
    show_notices("missing", steps or ([fine] if len(known) == len(LABELS) else []))


def _topics(data: PageData) -> None:
    reading = data.topics()
    st.html('<div class="section">Topics</div>')
    data_grid(
        "topics",
        TOPICS,
        [
            TableRow(topic.name, {"name": topic.name, "partitions": topic.partitions, "dated_by": topic.dated_by})
            for topic in reading.value or []
        ],
        label="Topics",
        empty=("Not known yet", reading.error or "Kafka has not answered."),
        stale=reading.error is not None,
        on_open=lambda topic: page_shell.navigate_to("messages", topic=topic),
    )
    odd = [topic.name for topic in reading.value or [] if topic.dated_by == "producers"]
    what = f"Producers set the timestamps of {', '.join(odd)}"
    todo = "A producer with a wrong clock distorts times. Run `filemill prepare`: the broker then sets the timestamps."
    show_notices("dates", [Notice("warn", what, todo)] if odd else [])


def _roles(data: PageData, snapshot: CachedValue[Snapshot]) -> None:
    leases = snapshot.value.overview.leases if snapshot.value else {}
    names = {"relay": "Outbox relay", "sync": "Status sync", "monitor": "Group monitor"}
    lines = []
    for name, label in names.items():
        lease = leases.get(name)
        held = lease is not None and lease.held
        lines.append(Fact(label, lease.holder if lease and held else "nobody", tone="good" if held else "warn"))
    lines.append(Fact("Relay in this process", data.services.relay_state or "none"))
    facts("leases", lines if snapshot.value else [Fact(label, None) for label in names.values()], title="Who is active")


def _processes(stack: StackState | None) -> None:
    if stack is None:
        return
    st.html('<div class="section">Processes of the embedded stack</div>')
    rows = [_process(server.name, server.process.pid, None, server.log) for server in stack.servers]
    rows += [_process(worker.id, worker.process.pid, worker.restarts, worker.log) for worker in stack.workers]
    columns = [
        Column("name", "Process", "text", 150),
        Column("pid", "Pid", "text", 90),
        Column("restarts", "Restarts", "number", 84),
        Column("log", "Log", "mono"),
    ]
    data_grid("processes", columns, rows, label="Processes", empty=("None", ""))


def _process(name: str, pid: int, restarts: int | None, log: str) -> TableRow:
    return TableRow(name, {"name": name, "pid": str(pid), "restarts": restarts, "log": log})


def _settings(data: PageData) -> None:
    columns = [
        Column("name", "Setting", "mono", 300),
        Column("value", "In force", "mono"),
        Column("given", "", "badge", 96),
        Column("meaning", "Meaning", hide_below=900),
    ]
    rows = [
        TableRow(
            one.name,
            {
                "name": one.name,
                "value": one.value,
                "given": ("given", "busy") if one.given else ("default", "none"),
                "meaning": one.meaning,
            },
        )
        for one in settings_in_force(data.services.settings)
    ]
    data_grid("settings", columns, rows, label="Settings", empty=("None", ""))


def _activity(data: PageData) -> None:
    reading = data.operations()
    data_grid(
        "acts",
        [
            Column("at", "When", "moment", 190),
            Column("actor", "Who", "text", 170),
            Column("action", "Did", "mono", 130),
            Column("detail", "What"),
        ],
        [
            TableRow(
                str(act.id),
                {
                    "at": epoch_milliseconds(act.at),
                    "actor": act.actor,
                    "action": act.action,
                    "detail": describe(act).removesuffix(f" · {act.actor}"),
                },
            )
            for act in reading.value or []
        ],
        label="What people did within a day",
        empty=("Nobody did anything within a day", "Retries, cancellations, replays, orders to workers appear here.")
        if reading.value is not None
        else ("Not known yet", "The database has not answered."),
        stale=reading.error is not None,
    )


page_shell.render_page(_setup)
