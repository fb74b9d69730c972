"""`filemill retry | cancel | delete | workers`."""

import getpass
from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec
import sqlalchemy as sa
import typer

from filemill.adapters.postgres.tables import File
from filemill.config.settings import Settings, load
from filemill.domain.files import Status
from filemill.domain.worker_commands import WorkerCommandKind
from filemill.domain.worker_events import SKEW_WARNING_SECONDS
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli.arguments import file_id_argument
from filemill.entrypoints.cli.output import AsJson, fail, print_json, print_table, say
from filemill.queries import workers as postgres_reads_workers
from filemill.queries.group import group_state, lags
from filemill.queries.stalls import stalled_partitions
from filemill.services.operations import Operations, UnknownWorker
from filemill.domain.file_actions import Outcome

BATCH = 1000

Ids = Annotated[
    list[int] | None,
    typer.Argument(metavar="[ID]...", parser=file_id_argument, help="Which files.", show_default=False),
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


def actor() -> str:
    """Who asks, for the audit."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user without a name
        return "cli"


def operations(settings: Settings) -> Operations:
    """Operations on the servers that the settings name."""
    return Operations(settings, bootstrap.create_engine(settings, "operations"), bootstrap.s3_client(settings))


def retry(
    ids: Ids = None,
    every: All = None,
    *,
    lost: Annotated[
        bool, typer.Option("--lost", help="All unfinished files whose records are gone from Kafka.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Process failed or cancelled files again, each in a new run; also those whose requests are gone from Kafka."""
    settings = load()
    if lost:
        _retry_lost(operations(settings), named=bool(ids or every), as_json=as_json)
        return
    _apply(settings, ids, every, operations(settings).retry, "retried", as_json=as_json)


def _retry_lost(operations: Operations, *, named: bool, as_json: bool) -> None:
    if named:
        fail("name files by their ids or by --all, or all that are lost by --lost", 2)
    done: list[int] = []
    after = 0
    while ids := operations.gone(after=after, limit=BATCH):
        done += operations.resubmit(ids, actor())
        after = ids[-1]
    if as_json:
        print_json({"retried": done, "refused": []})
    else:
        say(f"{len(done)} retried")


def cancel(ids: Ids = None, every: All = None, *, as_json: AsJson = False) -> None:
    """Cancel files that wait or are in progress."""
    settings = load()
    _apply(settings, ids, every, operations(settings).cancel, "cancelled", as_json=as_json)


def delete(
    ids: Ids = None,
    every: All = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete files that have ended, and their objects."""
    if not yes and not typer.confirm(
        f"Delete {f'all {every} files' if every else f'{len(ids or [])} files'} for good?"
    ):
        raise typer.Exit(1)
    settings = load()
    _apply(settings, ids, every, operations(settings).delete, "deleted", as_json=as_json)


def _apply(
    settings: Settings,
    ids: Sequence[int] | None,
    every: Status | None,
    act: Callable[[Sequence[int], str], Outcome],
    verb: str,
    *,
    as_json: bool,
) -> None:
    if bool(ids) == (every is not None):
        fail("name files by their ids, or all of a status by --all", 2)
    wanted = list(ids or []) or _with_status(settings, every)
    done, refused = [], []
    for start in range(0, len(wanted), BATCH):
        outcome = act(wanted[start : start + BATCH], actor())
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


def _with_status(settings: Settings, status: Status | None) -> list[int]:
    engine = bootstrap.create_engine(settings, "operations")
    with engine.connect() as connection:
        return list(connection.execute(sa.select(File.id).where(File.status == status).order_by(File.id)).scalars())


def list_workers(*, as_json: AsJson = False) -> None:
    """What each worker is and does: busy, idle, stuck, dead or stopped."""
    settings = load()
    engine = bootstrap.create_engine(settings, "workers")
    with engine.connect() as connection:
        views = postgres_reads_workers.list_workers(connection)
        total = sum(postgres_reads_workers.count_workers(connection).values())
        stalled = stalled_partitions(
            connection,
            group_state(connection, settings.group_id),
            lags(connection, settings.group_id),
            group_id=settings.group_id,
            processing_seconds=settings.longest_job_seconds,
            session_seconds=settings.session_timeout_ms / 1000,
        )
    if as_json:
        print_json(
            [
                {**msgspec.structs.asdict(view), "stalled": [one for one in stalled if one.owner == view.id]}
                for view in views
            ]
        )
        return
    print_table(
        ["worker", "is", "heard", "starts", "partitions", "in flight", "files/s", "CPU s", "RSS MB", "clock"],
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
        say(f"… and {total - len(views):,} more, those that are gone last")
    for one in stalled:
        say(f"{one.sentence[0].upper()}{one.sentence[1:]}")


def clock(skew_seconds: float | None) -> str:
    """How far a worker's clock is from the database's, for people."""
    if skew_seconds is None:
        return "?"
    if abs(skew_seconds) < SKEW_WARNING_SECONDS:
        return "right"
    return f"{abs(skew_seconds):,.0f} s {'ahead' if skew_seconds > 0 else 'behind'}"


Who = Annotated[str | None, typer.Argument(metavar="[WORKER]", help="Which one; default: all.", show_default=False)]


def quiet(worker: Who = None) -> None:
    """Have workers take nothing new; what they hold they finish."""
    _tell(WorkerCommandKind.QUIET, worker)
    say(f"{worker or 'All workers'}: told to be quiet")


def resume(worker: Who = None) -> None:
    """Have quiet workers go on."""
    _tell(WorkerCommandKind.RESUME, worker)
    say(f"{worker or 'All workers'}: told to go on")


def _tell(order: WorkerCommandKind, worker: str | None) -> None:
    try:
        operations(load()).order(order, worker, actor())
    except UnknownWorker as error:
        fail(str(error), 1)
