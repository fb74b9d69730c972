"""`filemill up | down | status | env | demo`: the embedded stack."""

import contextlib
import secrets
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from filemill.config.connection_environment import connection_environment
from filemill.config.exposure import check_identity, check_sign_in
from filemill.config.settings import Settings, default_home, load
from filemill.entrypoints import bootstrap
from filemill.entrypoints import demo as demonstration
from filemill.entrypoints.cli.arguments import Home
from filemill.entrypoints.cli.output import AsJson, console, errors, fail, print_json, print_table, say
from filemill.entrypoints.cli.processes import PROTOCOLS
from filemill.entrypoints.cli.rest_client import rest_client
from filemill.entrypoints.cli.rest_status import print_status
from filemill.errors import Unavailable
from filemill.runtime.stack_state import ProcessRef, StackState, read_state, running_stack

PAGE_SECONDS = 60.0
POLL_SECONDS = 0.1
DEFAULT_PORT = 8501
PORTS_TRIED = 100
NEEDS_EMBEDDED = "the embedded servers are not installed: pip install 'filemill[embedded]'"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command("env")(env)
    app.command()(demo)


def up(
    workers: Annotated[int, typer.Option(help="Number of file processors.", min=0, max=64)] = 2,
    processing_seconds: Annotated[
        float, typer.Option(help="Simulated processing time per file, in seconds.", min=0, max=86_400)
    ] = 60,
    concurrency: Annotated[
        int | None, typer.Option(help="Records that one processor processes at a time.", min=1)
    ] = None,
    ordering: Annotated[
        str | None,
        typer.Option(help="unordered, or partition: one record at a time per partition.", show_default="unordered"),
    ] = None,
    protocol: Annotated[str | None, typer.Option(help=f"{PROTOCOLS}.", show_default="consumer")] = None,
    host: Annotated[str, typer.Option(help="Address that the page listens on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port of the page.", min=0, max=65535, show_default="8501")] = None,
    auth: Annotated[
        str | None,
        typer.Option(
            help="local: no sign-in; token: the printed address signs in, and REST needs a bearer token; "
            "accounts: people of `filemill users` sign in; oidc, proxy: others sign people in (docs/security.md).",
            show_default="local",
        ),
    ] = None,
    reference_credentials: Annotated[
        bool,
        typer.Option(
            "--reference-credentials",
            help="Accept the published S3 keys (test, test) and database password (filepass) of the reference design. "
            "Insecure.",
        ),
    ] = False,
    home: Home = None,
) -> None:
    """Start everything: Kafka, PostgreSQL, S3, the workers and the page. Ctrl-C stops it."""
    behaviour = {
        "processing_seconds": processing_seconds,
        "concurrency": concurrency,
        "ordering": ordering,
        "group_protocol": protocol,
    }
    settings = load(**behaviour, auth=auth, host=host)  # invalid values are refused before anything starts
    check_sign_in(host, settings.auth, allow_insecure=settings.allow_insecure)
    check_identity(settings)
    token = secrets.token_urlsafe(32) if settings.auth == "token" else None
    with _embedded_errors():
        from filemill_infra.embedded.supervisor import Supervisor  # noqa: PLC0415 - only this command needs the servers

        page_port = _page_port(host, port)
        page = f"http://{_in_url(host)}:{page_port}"
        supervisor = Supervisor(
            home or default_home(),
            _specs(workers, behaviour, host, page_port, settings.auth, token),
            reference_credentials=reference_credentials,
            page=page,
            auth=settings.auth,
            token=token,
            prepare=_prepare,
            report=_report,
            progress=_Download(),
        )
        say("Starting Kafka, PostgreSQL and S3 …")
        supervisor.run(on_ready=lambda state: _announce(state, page))
    say("Stopped.")


def _specs(
    workers: int, behaviour: Mapping[str, object], host: str, port: int, auth: str = "local", token: str | None = None
) -> list[Any]:
    from filemill_infra.embedded.processes.workers import WorkerSpec  # noqa: PLC0415

    run = [sys.executable, "-m", "filemill", "run"]
    # For all processes: the monitor and the page read the processors' group too.
    env = {f"FILEMILL_{name.upper()}": str(value) for name, value in behaviour.items() if value is not None}
    sign_in = {"FILEMILL_AUTH": auth, "FILEMILL_LAUNCH_TOKEN": token or ""}
    dashboard = [*run, "dashboard", "--host", host, "--port", str(port)]
    return [
        WorkerSpec(role="dashboard", argv=dashboard, env=env | sign_in),
        WorkerSpec(role="processor", argv=[*run, "processor"], env=env, count=workers),
        WorkerSpec(role="sync", argv=[*run, "sync"], env=env),
        WorkerSpec(role="monitor", argv=[*run, "monitor"], env=env),
    ]


def _prepare(values: dict[str, str | int | float]) -> None:
    bootstrap.prepare(load(**values), timeout_seconds=20)


def _page_port(host: str, port: int | None) -> int:
    """A free port: the given one (0: any), or the first from 8501 on."""
    if port is not None:
        try:
            return _free(host, port)
        except OSError as error:
            fail(f"the page cannot listen on {host}:{port}: {error.strerror}; choose another --port", 2)
    for candidate in range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED):
        with contextlib.suppress(OSError):
            chosen = _free(host, candidate)
            if chosen != DEFAULT_PORT:
                say(f"Port {DEFAULT_PORT} is in use; the page uses {chosen}.")
            return chosen
    return fail(f"no free port for the page on {host}; choose one with --port", 2)


def _free(host: str, port: int) -> int:
    """The port, or for 0 any free one. Raises OSError if it is in use."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


def _in_url(host: str) -> str:
    """The host in a URL for a browser on this machine."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def wait_for_page(page: str, seconds: float = PAGE_SECONDS) -> None:
    """Wait until the page responds. Raises Unavailable."""
    deadline = time.monotonic() + seconds
    with httpx.Client(trust_env=False, timeout=2) as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if client.get(f"{page}/healthz").status_code == httpx.codes.OK:
                    return
            time.sleep(POLL_SECONDS)
    raise Unavailable(f"the page {page} did not respond within {seconds:.0f} s: see its log")


def _announce(state: StackState, page: str) -> None:
    logs = Path(state.home) / "logs"
    try:
        wait_for_page(page)
    except Unavailable as error:
        say(f"Warning: {error} ({logs / 'dashboard-1.log'})")
    table = Table.grid(padding=(0, 2))
    table.add_row("page", page)
    if state.auth == "local":
        table.add_row("sign-in", "none: every account of this machine can use the page (--auth token)")
    elif state.auth == "accounts":
        table.add_row("sign-in", "filemill users add NAME --role admin")
    table.add_row("REST", f"{page}/api/files")
    for server in state.servers:
        table.add_row(server.name, f"{server.address}  ({server.version})")
    table.add_row("workers", ", ".join(worker.id for worker in state.workers))
    table.add_row("data, logs", state.home)
    if state.token is not None:  # on a line of its own: a panel would cut it
        errors.print(Text(f"Sign in at {_sign_in_url(page, state.token)}"), soft_wrap=True)
    errors.print(Panel(table, title="filemill is up", subtitle="Ctrl-C stops it", expand=False, border_style="green"))


def _sign_in_url(page: str, token: str) -> str:
    return f"{page}/sign-in?token={token}"


def _report(event: Any) -> None:  # noqa: ANN401 - filemill_infra.embedded.processes.workers.Event, not imported where it is not installed
    say(event.text)
    if event.kind == "failing":
        for line in event.log:
            say(f"    {line}")


class _Download:
    """Prints the progress of Kafka's download in steps of ten per cent."""

    def __init__(self) -> None:
        self._said = -1

    def __call__(self, progress: Any) -> None:  # noqa: ANN401 - filemill_infra.embedded.servers.jars.Progress
        if progress.total:
            tenth = 10 * progress.done // progress.total
            if tenth != self._said:
                self._said = tenth
                say(f"Downloading Apache Kafka (once): {10 * tenth} %")


def down(home: Home = None) -> None:
    """Stop the stack of a home, or the processes that a crashed stack left."""
    with _embedded_errors():
        from filemill_infra.embedded.down import down as bring_down  # noqa: PLC0415

        result = bring_down(home or default_home())
    sentences = {
        "stopped": f"Stopped the stack of pid {result.supervisor}.",
        "killed": f"The stack of pid {result.supervisor} did not stop in time and was killed.",
        "cleared": f"The stack had crashed; {len(result.cleared)} processes that it left were stopped.",
        "nothing": "Nothing is running there.",
    }
    say(sentences[result.outcome])


def status(home: Home = None, *, as_json: AsJson = False) -> None:
    """Show servers and processes with their addresses. Exit code 1 if no stack is running.

    With FILEMILL_URL: who you are there, and the state of that deployment. Exit code 1 if a server is not ready.
    """
    client = rest_client(home)
    if client is not None:
        print_status(client, as_json=as_json)
        return
    folder = home or default_home()
    stack = running_stack(folder)
    if as_json:
        print_json(_document(folder, stack))
    elif stack is None:
        crashed = " The last one crashed: `filemill down` cleans up." if read_state(folder) else ""
        say(f"No stack is running under {folder}.{crashed} Start one with `filemill up`.")
    else:
        console.print(f"page  {stack.page}   pid {stack.supervisor.pid}   since {stack.started_at}   {stack.home}")
        print_table(["", "address", "state", "pid", "restarts", "log"], list(_rows(stack)))
        settings = _settings_of(stack)
        console.print(
            f"Kafka {settings.kafka_broker}   S3 {settings.s3_endpoint} bucket {settings.s3_bucket}   "
            f"{settings.database_url}   passwords and keys: filemill env"
        )
    if stack is None:
        raise typer.Exit(1)


def env(
    *,
    read_only: Annotated[bool, typer.Option("--read-only", help="Use the database role that can only read.")] = False,
    admin: Annotated[bool, typer.Option("--admin", help="Add the database roles of migrate and prepare.")] = False,
    ca_file: Annotated[
        Path | None, typer.Option(help="Path of the CA certificates on the machine that connects, if it is another.")
    ] = None,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Print `export` lines for other programs that connect to the same servers. They contain passwords.

    eval "$(filemill env)"
    """
    settings = load(home=home)
    if running_stack(settings.home) is None and "kafka_broker" not in settings.model_fields_set:
        fail(f"no stack is running under {settings.home}, and no servers are set; start one with `filemill up`", 1)
    try:
        variables = connection_environment(settings, read_only=read_only, admin=admin, ca_file=ca_file)
    except ValueError as error:
        fail(str(error), 1)
    if as_json:
        print_json(variables)
    else:
        sys.stdout.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def _document(home: Path, stack: StackState | None) -> dict[str, object]:
    """The document for --json, including the passwords and keys that a program needs to connect."""
    if stack is None:
        return {"running": False, "home": str(home)}
    return {
        "running": True,
        "home": stack.home,
        "page": stack.page,
        "auth": stack.auth,
        "token": stack.token,
        "sign_in": None if stack.token is None else _sign_in_url(stack.page or "", stack.token),
        "pid": stack.supervisor.pid,
        "started_at": stack.started_at,
        "servers": {
            server.name: {
                "address": server.address,
                "version": server.version,
                "pid": server.process.pid,
                "alive": _alive(server.process),
                "log": server.log,
            }
            for server in stack.servers
        },
        "processes": [
            {
                "role": worker.role,
                "id": worker.id,
                "pid": worker.process.pid,
                "alive": _alive(worker.process),
                "restarts": worker.restarts,
                "log": worker.log,
            }
            for worker in stack.workers
        ],
        "environment": connection_environment(_settings_of(stack)),
    }


def _settings_of(stack: StackState) -> Settings:
    """The stack's settings; variables of the environment do not replace its servers."""
    return load(home=Path(stack.home), **stack.settings)


def _rows(stack: StackState) -> Iterator[list[object]]:
    for server in stack.servers:
        yield [server.name, server.address, _state(server.process), server.process.pid, "", server.log]
    for worker in stack.workers:
        yield [worker.id, "", _state(worker.process), worker.process.pid, worker.restarts or "", worker.log]


def _alive(process: ProcessRef) -> bool:
    return process.process() is not None


def _state(process: ProcessRef) -> str:
    return "running" if _alive(process) else "down"


def demo(*, as_json: AsJson = False) -> None:
    """Try the whole system: start it in a temporary home, create 12 files over REST, verify, stop. About 15 s."""
    began = time.monotonic()
    with _embedded_errors(), tempfile.TemporaryDirectory(prefix="filemill-demo-") as scratch:
        from filemill_infra.embedded.home import remove_home  # noqa: PLC0415
        from filemill_infra.embedded.supervisor import Supervisor  # noqa: PLC0415

        home = Path(scratch) / "home"
        port = _page_port("127.0.0.1", 0)
        page = f"http://127.0.0.1:{port}"
        supervisor = Supervisor(
            home,
            _specs(2, {"processing_seconds": 0}, "127.0.0.1", port),
            default_ports=False,
            page=page,
            prepare=_prepare,
            report=_report,
            progress=_Download(),
        )
        result = demonstration.DemoResult()

        def go(state: StackState) -> None:
            nonlocal result
            try:
                settings: Settings = load(home=home, **state.settings)
                wait_for_page(page)
                demonstration.wait_for_group(settings, PAGE_SECONDS)
                start_seconds = time.monotonic() - began
                say(f"Everything is running after {start_seconds:.1f} s")
                result = demonstration.run_through(page, settings, say)
                result.start_seconds = round(start_seconds, 2)
            finally:
                supervisor.request_stop()

        try:
            supervisor.run(on_ready=go)
        finally:
            remove_home(home)
    if as_json:
        print_json(result)
    else:
        print_table(["", ""], [[name.replace("_", " "), getattr(result, name)] for name in result.__struct_fields__])
        say("The demo succeeded." if result.ok else "The demo failed.")
    if not result.ok:
        raise typer.Exit(1)


@contextlib.contextmanager
def _embedded_errors() -> Iterator[None]:
    try:
        from filemill_infra.embedded.errors import EmbeddedError  # noqa: PLC0415
    except ImportError as error:
        fail(f"{NEEDS_EMBEDDED} ({error})", 2)
    try:
        yield
    except ImportError as error:
        fail(f"{NEEDS_EMBEDDED} ({error})", 2)
    except EmbeddedError as error:
        fail(str(error), 130 if type(error).__name__ == "CancelledError" else 1)
