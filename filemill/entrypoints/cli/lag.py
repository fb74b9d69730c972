"""`filemill lag`: how far the processors' group is behind. The first question of any on-call engineer.

It asks Kafka itself, so it answers if PostgreSQL, the monitor and the page do not. Only this module is imported for
the command, so that it answers within a second.
"""

from typing import Annotated

import typer

from filemill.config.settings import load
from filemill.domain.queues import DEFAULT_QUEUE, check_queue
from filemill.entrypoints import kafka_only
from filemill.entrypoints.cli.arguments import Home
from filemill.entrypoints.cli.output import AsJson, fail, print_json, print_table, say
from filemill.errors import InvalidRequest
from filemill.queries.live_lag import LiveLag, live_lag
from filemill_dashboard.views.plurals import counted


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(lag)


def lag(
    queue: Annotated[str, typer.Option(help="The queue whose group is meant.")] = DEFAULT_QUEUE,
    home: Home = None,
    *,
    maximum: Annotated[
        int | None, typer.Option("--max", help="Exit with 1 if more records than this are not committed.", min=0)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how far the file processors are behind, by partition, as Kafka has it now."""
    settings = load(home=home)
    try:
        check_queue(queue, settings.all_queues)
    except InvalidRequest as error:
        fail(error.reason, 2)
    settings = settings.of_queue(queue)
    group = settings.offsets_group
    if group is None:
        fail("a share group has no committed offsets, so it has no lag: see `filemill files --status pending`", 2)
    found = live_lag(settings, kafka_only.kafka_admin(settings), group)
    if as_json:
        print_json(found)
    else:
        _print(found)
    if maximum is not None and (found.total is None or found.total > maximum):
        raise typer.Exit(1)


def _print(found: LiveLag) -> None:
    print_table(
        ["partition", "committed", "end", "lag", "waiting", "owner"],
        [
            [
                f"P{part.partition}",
                "-" if part.committed is None else part.committed,
                part.end,
                "?" if part.lag is None else part.lag,
                "" if not part.lag else _seconds(part.waiting_seconds),
                part.owner or "none",
            ]
            for part in found.partitions
        ],
    )
    if not found.partitions:
        say(f"Kafka has no topic {found.topic}: run `filemill topics create`")
    total = "unknown" if found.total is None else f"{found.total:,}"
    oldest = f", the oldest has waited {_seconds(found.waiting_seconds)}" if found.total else ""
    say(f"Group {found.group} is {found.state}, {counted(found.members, 'member')}. Lag: {total}{oldest}")


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
