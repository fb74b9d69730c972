"""`filemill status` with FILEMILL_URL: who the dashboard takes the user for, and the state of the servers behind it."""

import msgspec
import typer

from filemill import __version__
from filemill.domain.permissions import Role
from filemill.entrypoints.cli.output import console, plain, print_json, print_table, say
from filemill.entrypoints.cli.rest_client import MissingEndpoint, RestClient
from filemill.queries.files import OutboxState, StatusCounts
from filemill.queries.group import GroupState, Lags


class _Me(msgspec.Struct, frozen=True):
    name: str
    role: Role | None
    authentication: str


class _Server(msgspec.Struct, frozen=True):
    ok: bool


class _Ready(msgspec.Struct, frozen=True):
    status: str
    version: str
    servers: dict[str, _Server]


class _Pipeline(msgspec.Struct, frozen=True):
    counts: StatusCounts
    outbox: OutboxState
    group: GroupState | None
    lags: Lags | None


def print_status(client: RestClient, *, as_json: bool) -> None:
    """Print it. Exit code 1 if a server is not ready."""
    me, ready = _me(client), client.state("/readyz", _Ready)
    down = [name for name, server in ready.servers.items() if not server.ok]
    # Without PostgreSQL there is nothing to show; the servers are shown all the same.
    pipeline = None if "postgres" in down else client.get("/api/pipeline", _Pipeline)
    if as_json:
        print_json(_document(client.url, me, ready, pipeline))
    else:
        _print(client.url, me, ready, pipeline)
    if down:
        raise typer.Exit(1)


def _me(client: RestClient) -> _Me | None:
    try:
        return client.get("/api/me", _Me)
    except MissingEndpoint:
        return None


def _document(url: str, me: _Me | None, ready: _Ready, pipeline: _Pipeline | None) -> dict[str, object]:
    """For --json. `user` is null if the dashboard is too old to say it, `pipeline` while PostgreSQL is unreachable."""
    return {
        "url": url,
        "version": ready.version,
        "status": ready.status,
        "servers": {name: server.ok for name, server in ready.servers.items()},
        "user": me,
        "pipeline": None
        if pipeline is None
        else {
            "files": pipeline.counts.by_status,
            "not_on_kafka": pipeline.outbox.depth,
            "members": None if pipeline.group is None else len(pipeline.group.members),
            "lag": None if pipeline.lags is None else pipeline.lags.total,
        },
    }


def _print(url: str, me: _Me | None, ready: _Ready, pipeline: _Pipeline | None) -> None:
    console.print(plain(f"dashboard  {url}   filemill {ready.version}"), markup=False)
    if me is not None:
        by = f"   by {me.authentication}" if me.authentication else ""
        console.print(plain(f"you are    {me.name}   {me.role or 'no role'}{by}"), markup=False)
    print_table(
        ["server", "state"], [[name, "ready" if one.ok else "not ready"] for name, one in ready.servers.items()]
    )
    if pipeline is not None:
        print_table(["files", "count"], [[status, count] for status, count in pipeline.counts.by_status.items()])
        members = "unknown" if pipeline.group is None else len(pipeline.group.members)
        lag = "unknown" if pipeline.lags is None or pipeline.lags.total is None else f"{pipeline.lags.total:,}"
        say(f"Lag: {lag}. Members of the group: {members}. Not on Kafka yet: {pipeline.outbox.depth:,}")
    if me is None:
        say(f"The dashboard is older than this filemill {__version__}: it does not say who you are.")
