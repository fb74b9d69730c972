"""`filemill workers list | quiet | resume | scale | stop | kill | forget`."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from filemill.config.settings import Settings, load
from filemill.domain.stalls import StalledPartition
from filemill.domain.worker_commands import WorkerCommandKind
from filemill.domain.worker_events import SKEW_WARNING_SECONDS
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli import rest_lists
from filemill.entrypoints.cli.arguments import Home, principal
from filemill.entrypoints.cli.output import AsJson, exit_if_refused, fail, print_json, print_table, say
from filemill.entrypoints.cli.rest_client import rest_client
from filemill.entrypoints.cli.rest_lists import ListedWorkers
from filemill.errors import Unavailable
from filemill.queries import workers as worker_queries
from filemill.queries.group import leases
from filemill.queries.stalls import current_stalls
from filemill.queries.workers import WorkerView
from filemill.runtime.stack_state import running_stack
from filemill.runtime.supervisor_client import CommandRejected, SupervisorCommand
from filemill.services.stack_workers import PROCESSORS_MAX, processors, send_supervisor_command
from filemill_dashboard.views.plurals import counted
from filemill_dashboard.views.visibility import ShownState, Visibility, local_processes

Processor = Annotated[str, typer.Argument(metavar="WORKER", help="A file processor of the stack, such as processor-1.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    workers = typer.Typer(help="The file processors.", no_args_is_help=True)
    workers.command("list")(list_workers)
    workers.command("quiet")(quiet)
    workers.command("resume")(resume)
    workers.command("scale")(scale)
    workers.command("stop")(stop)
    workers.command("kill")(kill)
    workers.command("forget")(forget)
    app.add_typer(workers, name="workers")


def list_workers(home: Home = None, *, as_json: AsJson = False) -> None:
    """List workers and their state: busy, idle, stuck, dead or stopped; and whether they are quiet.

    While Kafka is unreachable, the state of a worker is unknown, unless it is a process of this machine's stack that
    has ended.
    """
    client = rest_client(home)
    found = _listed(load(home=home)) if client is None else rest_lists.workers(client)
    views, shown, known = found.views, found.shown, found.obstacle is None
    if as_json:
        print_json([_document(view, shown[view.id], found.stalled if known else None) for view in views])
        return
    print_table(
        ["worker", "state", "last event", "starts", "partitions", "in flight", "files/s", "CPU s", "RSS MB", "clock"],
        [_row(view, shown[view.id], known=known) for view in views],
    )
    if found.total > len(views):
        say(f"… and {found.total - len(views):,} more; dead and stopped workers come last")
    if not known:
        say(f"{found.obstacle}, so what the workers do is unknown.")
    for one in found.stalled if known else []:
        say(f"{one.sentence[0].upper()}{one.sentence[1:]}")


def _listed(settings: Settings) -> ListedWorkers:
    engine = bootstrap.create_engine(settings, "workers")
    with ThreadPoolExecutor(1, "kafka") as pool, engine.connect() as connection:
        asked = pool.submit(_unreachable, settings)
        views = worker_queries.list_workers(connection)
        total = sum(worker_queries.count_workers(connection).values())
        stalled = current_stalls(connection, settings)
        sync = leases(connection).get("sync")
        heard = sync is not None and sync.held and worker_queries.silence_known(connection)
        visibility = Visibility(asked.result(), events_seconds=float("inf") if heard else 0.0)
    processes = local_processes(running_stack(settings.home))
    shown = {view.id: visibility.worker_state(view, processes.get(view.id)) for view in views}
    return ListedWorkers(views, shown, total, stalled, None if visibility.events_known else visibility.obstacle)


def _unreachable(settings: Settings) -> frozenset[str]:
    try:
        bootstrap.kafka_admin(settings).topic_partitions()
    except Unavailable:
        return frozenset({"kafka"})
    return frozenset()


def _document(view: WorkerView, shown: ShownState, stalled: list[StalledPartition] | None) -> dict[str, object]:
    """A worker for programs. `stalled` is null while it is unknown."""
    of_worker = None if stalled is None else [one for one in stalled if one.owner == view.id]
    return {**msgspec.structs.asdict(view), "condition": shown, "stalled": of_worker}


def _row(view: WorkerView, shown: ShownState, *, known: bool) -> list[object]:
    vitals = view.vitals if known else None
    figures: list[object] = ["?"] * 4
    if vitals is not None:
        figures = [
            vitals.in_flight,
            f"{vitals.finished_per_second:.0f}",
            f"{vitals.cpu_seconds:.1f}",
            f"{vitals.rss_bytes / 1e6:.0f}",
        ]
    owned = ", ".join(f"P{partition}" for partition in view.owned) if known else "?"
    heard = f"{view.heard_seconds_ago:.1f} s ago"
    return [view.id, state(view, shown), heard, view.starts, owned, *figures, clock(view.skew_seconds)]


_QUIET_SHOWN = {ShownState.BUSY, ShownState.IDLE, ShownState.STUCK}


def state(view: WorkerView, shown: ShownState) -> str:
    """The state, with a note if the worker starts no records, for people."""
    return f"{shown}, quiet" if view.vitals is not None and view.vitals.quiet and shown in _QUIET_SHOWN else shown


def clock(skew_seconds: float | None) -> str:
    """How far a worker's clock differs from the database's, for people."""
    if skew_seconds is None:
        return "?"
    if abs(skew_seconds) < SKEW_WARNING_SECONDS:
        return "in sync"
    return f"{abs(skew_seconds):,.0f} s {'ahead' if skew_seconds > 0 else 'behind'}"


WorkerName = Annotated[
    str | None, typer.Argument(metavar="[WORKER]", help="The worker's name; default: all.", show_default=False)
]


def quiet(worker: WorkerName = None, home: Home = None) -> None:
    """Stop workers from starting new records. They finish those in progress."""
    _command(WorkerCommandKind.QUIET, worker, home)
    say(f"{worker or 'All workers'}: quiet command sent")


def resume(worker: WorkerName = None, home: Home = None) -> None:
    """Resume quiet workers."""
    _command(WorkerCommandKind.RESUME, worker, home)
    say(f"{worker or 'All workers'}: resume command sent")


def _command(kind: WorkerCommandKind, worker: str | None, home: Path | None) -> None:
    settings = load(home=home)
    operations = bootstrap.operations(settings, bootstrap.create_engine(settings, "workers"))
    with exit_if_refused():
        operations.command_workers(kind, worker, principal())


def scale(
    count: Annotated[int, typer.Argument(help="Number of file processors.", min=0, max=PROCESSORS_MAX)],
    home: Home = None,
) -> None:
    """Start or stop file processors of the embedded stack, so that there are COUNT."""
    before, after = _supervise(SupervisorCommand("scale", role="processor", count=count), home)
    say(f"File processors: {len(before)} → {count}" + (f" ({', '.join(after)})" if after else ""))


def stop(worker: Processor, home: Home = None) -> None:
    """Stop a file processor of the embedded stack for good. It gives its records back first."""
    _supervise(SupervisorCommand("stop", worker=worker), home)
    say(f"{worker} was stopped")


def kill(worker: Processor, home: Home = None) -> None:
    """Kill a file processor of the embedded stack (SIGKILL). It is restarted."""
    _supervise(SupervisorCommand("kill", worker=worker), home)
    say(f"{worker} was killed and will be restarted")


def forget(
    workers: Annotated[
        list[str] | None, typer.Argument(metavar="[WORKER]...", help="Names of workers.", show_default=False)
    ] = None,
    home: Home = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All workers that have stopped.")] = False,
) -> None:
    """Remove workers that have stopped from the list: those that said so, or were silent for ten minutes.

    Their events are kept.
    """
    if bool(workers) == every:
        fail("give either names of workers, or --all", 2)
    settings = load(home=home)
    operations = bootstrap.operations(settings, bootstrap.create_engine(settings, "workers"))
    with exit_if_refused():
        forgotten = operations.forget_workers(None if every else workers, principal())
    say(f"{counted(len(forgotten), 'worker')} forgotten" + (f": {', '.join(forgotten)}" if forgotten else ""))
    left = [name for name in workers or [] if name not in forgotten]
    if left:
        fail(f"not forgotten, because they run or are unknown: {', '.join(left)}", 1)


def _supervise(command: SupervisorCommand, home: Path | None) -> tuple[list[str], list[str]]:
    """Send a command to the supervisor; returns the file processors before it, and those of its response."""
    settings = load(home=home)
    engine = bootstrap.create_engine(settings, "workers")
    stack = running_stack(settings.home)
    if stack is None:
        fail(
            f"no stack is running under {settings.home}: start one with `filemill up`, or give --home. In containers, "
            "`docker compose up --scale processor=N` scales",
            1,
        )
    try:
        response = send_supervisor_command(engine, stack, command, principal())
    except CommandRejected as error:
        names = ", ".join(processors(stack)) or "none"
        fail(f"{error}. File processors of the stack: {names}", 1)
    return processors(stack), response.workers
