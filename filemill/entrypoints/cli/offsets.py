"""`filemill offsets preview | reset`."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from filemill.config.settings import load
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli.arguments import Home, principal
from filemill.entrypoints.cli.output import AsJson, fail, print_json, print_table, say
from filemill.errors import InvalidRequest
from filemill.services.offset_reset import (
    CannotReset,
    InvalidTarget,
    OffsetReset,
    ResetPlan,
    ResetTarget,
    UnfinishedPolicy,
)

To = Annotated[
    str | None, typer.Option(help="earliest, latest, or a time (UTC) such as 2026-11-22T12:00.", show_default=False)
]
By = Annotated[
    int | None,
    typer.Option("--by", help="Shift by this many records; negative: backwards.", show_default=False),
]

QueueOption = Annotated[str, typer.Option(help="The queue whose group's offsets are meant.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    offsets = typer.Typer(help="Committed offsets of the processors' group.", no_args_is_help=True)
    offsets.command("preview")(preview)
    offsets.command("reset")(reset)
    app.add_typer(offsets, name="offsets")


def preview(
    to: To = None, by: By = None, queue: QueueOption = DEFAULT_QUEUE, home: Home = None, *, as_json: AsJson = False
) -> None:
    """Show what a reset would skip and reprocess. Changes nothing."""
    plan = _plan(_offset_reset(home, queue), _target(to, by))
    if as_json:
        print_json(plan)
    else:
        _print(plan)


def reset(
    to: To = None,
    by: By = None,
    queue: QueueOption = DEFAULT_QUEUE,
    home: Home = None,
    *,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Cancel the unfinished requests that are skipped; default: resubmit them.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Reset the group's committed offsets. The group must have no members: stop the processors first."""
    target = _target(to, by)
    offset_reset = _offset_reset(home, queue)
    plan = _plan(offset_reset, target)
    if not as_json:
        _print(plan)
    if plan.why_not is not None:
        fail(plan.why_not, 1)
    then: UnfinishedPolicy = "cancel" if cancel else "resubmit"
    question = f"Move {_partitions(len(plan.offsets))} and {then} {len(plan.skipped)} unfinished requests?"
    if not yes and not typer.confirm(question):
        raise typer.Exit(1)
    try:
        result = offset_reset.apply(plan, target, then, principal())
    except CannotReset as error:
        fail(str(error), 1)
    if as_json:
        print_json(result)
    else:
        files = f"{len(result.cancelled)} requests cancelled, {len(result.resubmitted)} of them resubmitted"
        say(f"{_partitions(len(result.offsets))} moved; {files}")


def _offset_reset(home: Path | None, queue: str) -> OffsetReset:
    settings = load(home=home)
    try:
        return bootstrap.offset_reset(settings, bootstrap.create_engine(settings, "offsets"), queue=queue)
    except InvalidRequest as error:
        fail(str(error), 2)


def _plan(offset_reset: OffsetReset, target: ResetTarget) -> ResetPlan:
    try:
        return offset_reset.plan(target)
    except InvalidTarget as error:
        fail(str(error), 2)


def _target(to: str | None, by: int | None) -> ResetTarget:
    if (to is None) == (by is None):
        fail("give one of --to earliest, --to latest, --to TIME and --by RECORDS", 2)
    if by is not None:
        return ResetTarget("shift", by=by)
    if to == "earliest":
        return ResetTarget("earliest")
    if to == "latest":
        return ResetTarget("latest")
    try:
        moment = datetime.fromisoformat(to or "")
    except ValueError:
        fail(f"{to!r} is neither earliest, latest nor a time such as 2026-11-22T12:00", 2)
    return ResetTarget("time", at=moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _partitions(count: int) -> str:
    return "1 partition" if count == 1 else f"{count} partitions"


def _print(plan: ResetPlan) -> None:
    print_table(
        ["partition", "current", "new", "difference", "skipped, unfinished", "reprocessed"],
        [
            [move.partition, move.current, move.new, f"{move.difference:+d}", len(move.skipped), move.repeated]
            for move in plan.moves
        ],
    )
