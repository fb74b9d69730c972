"""Set-up: server health, missing steps, and effective settings."""

import streamlit as st

from filemill.runtime.stack_state import StackState
from filemill_dashboard.components import page_shell
from filemill_dashboard.components.facts import Fact, facts
from filemill_dashboard.components.grid import Column, TableRow, data_grid
from filemill_dashboard.components.links import links
from filemill_dashboard.components.notices import Notice, show_notices
from filemill_dashboard.components.role_facts import role_facts
from filemill_dashboard.components.view_url import select_option
from filemill_dashboard.state.cache import CachedValue
from filemill_dashboard.state.health import LABELS, HealthCode
from filemill_dashboard.state.page_data import PageData, Snapshot
from filemill_dashboard.state.principals import page_principal
from filemill_dashboard.state.setup_facts import effective_settings, process_versions

TOPICS = [
    Column("name", "Topic", "mono"),
    Column(
        "timestamps",
        "Timestamps by",
        "text",
        112,
        title="Who sets the timestamp of a record: the broker or the producer",
    ),
    Column("partitions", "Partitions", "number", 92),
]
VIEWS = ["Health", "Settings"]


def _setup(data: PageData, snapshot: CachedValue[Snapshot]) -> None:
    view = select_option("View", VIEWS, VIEWS[0], "show")
    if view == "Settings":
        _settings(data)
    else:
        _health(data, snapshot)


def _health(data: PageData, snapshot: CachedValue[Snapshot]) -> None:
    stack = data.stack()
    with st.container(key="columns", horizontal=True, gap="large"):
        with st.container(key="half-a"):
            _servers(data, stack)
            _topics(data)
        with st.container(key="half-b"):
            _viewer(data)
            _roles(data, snapshot)
            facts(
                "versions",
                [Fact(name, version, mono=True) for name, version in process_versions().items()],
                title="Versions",
            )
    _processes(stack)


def _viewer(data: PageData) -> None:
    """Say who is signed in, if people sign in."""
    if data.services.settings.auth == "local":
        return
    viewer = page_principal()
    facts("viewer", [Fact("Signed in as", viewer.name), Fact("Role", viewer.role)], title="You")
    links("sign-out", [("Sign out", "/sign-out")])


def _servers(data: PageData, stack: StackState | None) -> None:
    versions = {server.name: server.version for server in stack.servers} if stack else {}
    postgres = data.postgres_version().value
    if postgres:
        versions["postgres"] = postgres
    rows = []
    for name, reading in data.health().items():
        health = reading.value
        state = ("checking …", "none") if health is None else ("ok", "good") if health.ok else ("unavailable", "bad")
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
        Column("state", "State", "badge", 126),
        Column("version", "Version", "mono", 84),
        Column("address", "Address", "mono"),
        Column("took", "Latency", "seconds", 88),
    ]
    page_shell.section_heading("Servers")
    data_grid("servers", columns, rows, label="Servers", empty=("None", ""))
    known = [reading.value for reading in data.health().values() if reading.value is not None]
    missing = [one for one in known if not one.ok]
    # The banner of the page names an unreachable server.
    found = [one for one in missing if one.code is not HealthCode.UNREACHABLE]
    steps = [Notice("warn", f"{LABELS[one.server]} {one.problem}", one.advice or "") for one in found]
    complete = Notice("good", "Set-up complete", "Servers, schema, topics and bucket are ready.")
    show_notices("missing", steps or ([complete] if len(known) == len(LABELS) and not missing else []))


def _topics(data: PageData) -> None:
    reading = data.topics()
    page_shell.section_heading("Topics")
    data_grid(
        "topics",
        TOPICS,
        [
            TableRow(
                topic.name, {"name": topic.name, "partitions": topic.partitions, "timestamps": topic.timestamps_from}
            )
            for topic in reading.value or []
        ],
        label="Topics",
        empty=("No data yet", reading.error or "Waiting for Kafka."),
        stale=reading.error is not None,
        on_open=lambda topic: page_shell.navigate_to("messages", topic=topic),
    )
    odd = [topic.name for topic in reading.value or [] if topic.timestamps_from == "producers"]
    title = f"Producers set the timestamps of {', '.join(odd)}"
    hint = (
        "A producer with a wrong clock distorts times. Run `filemill prepare` so that the broker sets the timestamps."
    )
    show_notices("dates", [Notice("warn", title, hint)] if odd else [])


def _roles(data: PageData, snapshot: CachedValue[Snapshot]) -> None:
    overview = snapshot.value.overview if snapshot.value else None
    lines = role_facts(data, overview, data.visibility())
    facts("leases", lines, title="Active roles", stale=snapshot.error is not None)


def _processes(stack: StackState | None) -> None:
    if stack is None:
        return
    page_shell.section_heading("Processes of the embedded stack")
    rows = [_process(server.name, server.process.pid, None, server.log) for server in stack.servers]
    rows += [_process(worker.id, worker.process.pid, worker.restarts, worker.log) for worker in stack.workers]
    columns = [
        Column("name", "Process", "text", 150),
        Column("pid", "PID", "text", 90),
        Column("restarts", "Restarts", "number", 84),
        Column("log", "Log", "mono"),
    ]
    data_grid("processes", columns, rows, label="Processes", empty=("None", ""))


def _process(name: str, pid: int, restarts: int | None, log: str) -> TableRow:
    return TableRow(name, {"name": name, "pid": str(pid), "restarts": restarts, "log": log})


def _settings(data: PageData) -> None:
    columns = [
        Column("name", "Setting", "mono", 300),
        Column("value", "Value", "mono"),
        Column("source", "Source", "badge", 96),
        Column("meaning", "Description", hide_below=900),
    ]
    rows = [
        TableRow(
            one.name,
            {
                "name": one.name,
                "value": one.value,
                "source": ("set", "busy") if one.is_set else ("default", "none"),
                "meaning": one.description,
            },
        )
        for one in effective_settings(data.services.settings)
    ]
    data_grid("settings", columns, rows, label="Settings", empty=("None", ""))


page_shell.render_page("Set-up", _setup)
