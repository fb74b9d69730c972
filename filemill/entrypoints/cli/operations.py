"""`filemill retry | cancel | delete | workers`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from filemill.config.settings import Settings, load
from filemill.domain.file_actions import ActionResult
from filemill.domain.files import Status
from filemill.domain.permissions import Principal
from filemill.domain.worker_commands import WorkerCommandKind
from filemill.domain.worker_events import SKEW_WARNING_SECONDS
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli.arguments import Home, file_id_argument, principal
from filemill.entrypoints.cli.output import AsJson, fail, print_json, print_table, say
from filemill.queries import workers as worker_queries
from filemill.queries.files import ids_with_status
from filemill.queries.stalls import current_stalls
from filemill.services.operations import Operations, UnknownWorker

BATCH = 1000

Ids = Annotated[
    list[int] | None,
    typer.Argument(metavar="[ID]...", parser=file_id_argument, help="Ids of files.", show_default=False),
]
All = Annotated[Status | None, typer.Option("--all", metavar="STATUS", help="All files that have this status.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(retry)
    app.command()(cancel)
    app.command()(delete)
    workers = typer.Typer(help="The file processors.", no_args_is_help=True)
    workers.command("list")(list_workers)
    workers.command("quiet")(quiet)
    workers.command("resume")(resume)
    app.add_typer(workers, name="workers")


def _operations(settings: Settings) -> Operations:
    return bootstrap.operations(settings, bootstrap.create_engine(settings, "operations"))


def retry(
    ids: Ids = None,
    every: All = None,
    home: Home = None,
    *,
    lost: Annotated[
        bool, typer.Option("--lost", help="All unfinished files whose records are gone from Kafka.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Process failed or cancelled files again, each in a new run; also files whose records are gone from Kafka."""
    settings = load(home=home)
    if lost:
        _retry_lost(_operations(settings), named=bool(ids or every), as_json=as_json)
        return
    _apply(settings, ids, every, _operations(settings).retry, "retried", as_json=as_json)


def _retry_lost(operations: Operations, *, named: bool, as_json: bool) -> None:
    if named:
        fail("give ids, or --all STATUS, or --lost", 2)
    done: list[int] = []
    after = 0
    while ids := operations.gone_requests(after=after, limit=BATCH):
        done += operations.resubmit(ids, principal())
        after = ids[-1]
    if as_json:
        print_json({"retried": done, "refused": []})
    else:
        say(f"{len(done)} retried")


def cancel(ids: Ids = None, every: All = None, home: Home = None, *, as_json: AsJson = False) -> None:
    """Cancel files that are pending or processing."""
    settings = load(home=home)
    _apply(settings, ids, every, _operations(settings).cancel, "cancelled", as_json=as_json)


def delete(
    ids: Ids = None,
    every: All = None,
    home: Home = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete files that are completed, failed or cancelled, and their objects."""
    if not yes and not typer.confirm(
        f"Delete {f'all {every} files' if every else f'{len(ids or [])} files'} for good?"
    ):
        raise typer.Exit(1)
    settings = load(home=home)
    _apply(settings, ids, every, _operations(settings).delete, "deleted", as_json=as_json)


def _apply(
    settings: Settings,
    ids: Sequence[int] | None,
    every: Status | None,
    act: Callable[[Sequence[int], Principal], ActionResult],
    verb: str,
    *,
    as_json: bool,
) -> None:
    if bool(ids) == (every is not None):
        fail("give either ids or --all STATUS", 2)
    wanted = list(ids or []) if every is None else _with_status(settings, every)
    done, refused = [], []
    for start in range(0, len(wanted), BATCH):
        outcome = act(wanted[start : start + BATCH], principal())
        done += outcome.done
        refused += outcome.refused
    if as_json:
        print_json({verb: done, "refused": refused})
    else:
        say(f"{len(done)} {verb}")
        for one in refused[:20]:
            say(f"file {one.file_id} not {verb}: {one.reason}")
        if len(refused) > 20:
            say(f"… and {len(refused) - 20} more")
    if refused:
        raise typer.Exit(1)


def _with_status(settings: Settings, status: Status) -> list[int]:
    engine = bootstrap.create_engine(settings, "operations")
    with engine.connect() as connection:
        return ids_with_status(connection, status)


def list_workers(home: Home = None, *, as_json: AsJson = False) -> None:
    """List workers and their state: busy, idle, stuck, dead or stopped."""
    settings = load(home=home)
    engine = bootstrap.create_engine(settings, "workers")
    with engine.connect() as connection:
        views = worker_queries.list_workers(connection)
        total = sum(worker_queries.count_workers(connection).values())
        stalled = current_stalls(connection, settings)
    if as_json:
        print_json(
            [
                {**msgspec.structs.asdict(view), "stalled": [one for one in stalled if one.owner == view.id]}
                for view in views
            ]
        )
        return
    print_table(
        ["worker", "state", "last event", "starts", "partitions", "in flight", "files/s", "CPU s", "RSS MB", "clock"],
        [
            [
                view.id,
                view.condition,
                f"{view.heard_seconds_ago:.1f} s ago",
                view.starts,
                ", ".join(map(str, view.owned)),
                *(
                    [
                        view.vitals.in_flight,
                        f"{view.vitals.finished_per_second:.0f}",
                        f"{view.vitals.cpu_seconds:.1f}",
                        f"{view.vitals.rss_bytes / 1e6:.0f}",
                    ]
                    if view.vitals
                    else ["?"] * 4
                ),
                clock(view.skew_seconds),
            ]
            for view in views
        ],
    )
    if total > len(views):
        say(f"… and {total - len(views):,} more; dead and stopped workers come last")
    for one in stalled:
        say(f"{one.sentence[0].upper()}{one.sentence[1:]}")


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
    try:
        _operations(load(home=home)).command_workers(kind, worker, principal())
    except UnknownWorker as error:
        fail(str(error), 1)
