"""`filemill offsets preview | reset`."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.config.settings import load
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli.operations import actor, operations
from filemill.entrypoints.cli.output import AsJson, fail, print_json, print_table, say
from filemill.services.offset_reset import CannotReset, InvalidTarget, OffsetReset, Plan, Target, Unfinished

To = Annotated[
    str | None, typer.Option(help="earliest, latest, or a time (UTC) as 2026-11-22T12:00.", show_default=False)
]
By = Annotated[int | None, typer.Option("--by", help="Or so many records on; negative: back.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    offsets = typer.Typer(help="Where the processors' group reads on.", no_args_is_help=True)
    offsets.command("preview")(preview)
    offsets.command("reset")(reset)
    app.add_typer(offsets, name="offsets")


def preview(to: To = None, by: By = None, *, as_json: AsJson = False) -> None:
    """What a reset would skip and have done again. Changes nothing."""
    plan = _plan(_reset(), _target(to, by))
    if as_json:
        print_json(plan)
    else:
        _print(plan)


def reset(
    to: To = None,
    by: By = None,
    *,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Cancel the unfinished requests that it skips; else: resubmit them.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have the group read from elsewhere. It must have no members: stop the processors first."""
    target = _target(to, by)
    mover = _reset()
    plan = _plan(mover, target)
    if not as_json:
        _print(plan)
    if plan.why_not is not None:
        fail(plan.why_not, 1)
    then: Unfinished = "cancel" if cancel else "resubmit"
    asked = f"Move {_partitions(len(plan.offsets))} and {then} {len(plan.skipped)} unfinished requests?"
    if not yes and not typer.confirm(asked):
        raise typer.Exit(1)
    try:
        done = mover.apply(plan, target, then, actor())
    except CannotReset as error:
        fail(str(error), 1)
    if as_json:
        print_json(done)
    else:
        said = f"{len(done.cancelled)} cancelled, of which {len(done.resubmitted)} were resubmitted"
        say(f"{_partitions(len(done.offsets))} moved; {said}")


def _reset() -> OffsetReset:
    settings = load()
    return OffsetReset(
        settings, bootstrap.create_engine(settings, "offsets"), KafkaAdmin(settings), operations(settings)
    )


def _plan(mover: OffsetReset, target: Target) -> Plan:
    try:
        return mover.plan(target)
    except InvalidTarget as error:
        fail(str(error), 2)


def _target(to: str | None, by: int | None) -> Target:
    if (to is None) == (by is None):
        fail("say where to: --to earliest, --to latest, --to TIME, or --by RECORDS", 2)
    if by is not None:
        return Target("shift", by=by)
    if to == "earliest":
        return Target("earliest")
    if to == "latest":
        return Target("latest")
    try:
        moment = datetime.fromisoformat(to or "")
    except ValueError:
        fail(f"{to!r} is neither earliest, latest nor a time such as 2026-11-22T12:00", 2)
    return Target("time", at=moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _partitions(count: int) -> str:
    return "1 partition" if count == 1 else f"{count} partitions"


def _print(plan: Plan) -> None:
    print_table(
        ["partition", "current", "new", "difference", "unfinished, skipped", "read again"],
        [
            [move.partition, move.current, move.new, f"{move.difference:+d}", len(move.skipped), move.repeated]
            for move in plan.moves
        ],
    )
