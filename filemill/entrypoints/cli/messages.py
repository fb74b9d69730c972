"""`filemill messages`: the records of a topic."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from filemill.adapters.kafka.admin import all_topics
from filemill.adapters.kafka.topic_browser import BrowsedRecord, BrowseQuery, BrowseResult, browse
from filemill.config.settings import load
from filemill.domain.positions import format_positions, parse_positions
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli.arguments import Home
from filemill.entrypoints.cli.output import AsJson, fail, print_json, print_table, say
from filemill_dashboard.views.plurals import counted

VALUE_CHARACTERS = 160
# A filter looks at the whole topic, unless it is interrupted (Ctrl-C).
SCAN_SECONDS = 86_400.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(messages)


def messages(
    topic: Annotated[str, typer.Argument(help="The topic, such as file.create.")],
    partition: Annotated[int | None, typer.Option(help="Only this partition.", min=0, show_default="all")] = None,
    offset: Annotated[
        int | None, typer.Option("--from-offset", help="From this offset of each partition on.", min=0)
    ] = None,
    moment: Annotated[
        str | None, typer.Option("--from-time", help="From this time (UTC) on, such as 2026-11-22T12:00.")
    ] = None,
    text: Annotated[
        str, typer.Option(help="Only records that contain this in key, value or headers, in any case.")
    ] = "",
    limit: Annotated[int, typer.Option(help="Maximum number of records.", min=1, max=1000)] = 20,
    after: Annotated[str, typer.Option(help="Position of the page: `next` of the previous one.")] = "",
    home: Home = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show records of a topic: the newest, or those from an offset or a time on. Partitions are merged by time."""
    if offset is not None and moment is not None:
        fail("give --from-offset or --from-time, not both", 2)
    start = offset if moment is None else _moment(moment)
    positions = parse_positions(after)
    if positions is None:
        fail(f"--after: {after!r} is not a position of a page, such as 0:120,1:98", 2)
    settings = load(home=home)
    partitions = bootstrap.kafka_admin(settings).offsets(None, topic)
    if not partitions:
        fail(f"there is no topic {topic!r}; filemill's are {', '.join(all_topics(settings))}", 1)
    if partition is not None and partition >= len(partitions):
        fail(f"{topic} has {counted(len(partitions), 'partition')}, up to {len(partitions) - 1}", 2)
    query = BrowseQuery(topic, partition, start, text, limit, positions)
    found = browse(settings, partitions, query, scan_seconds=SCAN_SECONDS)
    following = format_positions(found.positions) if found.more else None
    if as_json:
        print_json(
            {
                "topic": topic,
                "looked_at": found.looked_at,
                "total": found.total,
                "next": following,
                "records": [_document(record) for record in found.records],
            }
        )
    else:
        _print(found, following)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--from-time: {text!r} is not a time such as 2026-11-22T12:00", 2)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _print(found: BrowseResult, following: str | None) -> None:
    print_table(
        ["position", "time", "key", "value"],
        [
            [f"{record.partition}:{record.offset}", _time(record), record.key, _text(record.value)[:VALUE_CHARACTERS]]
            for record in found.records
        ],
    )
    more = f"; for more, add: --after {following}" if following else ""
    say(f"Shown: {len(found.records):,}. Looked at {found.looked_at:,} of {found.total:,}{more}")


def _time(record: BrowsedRecord) -> str:
    if record.timestamp_ms is None:
        return "?"
    return f"{datetime.fromtimestamp(record.timestamp_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def _text(value: bytes | None) -> str:
    return "(null)" if value is None else value.decode(errors="backslashreplace")


def _document(record: BrowsedRecord) -> dict[str, object]:
    return {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms if record.invalid_timestamp is None else record.invalid_timestamp,
        "key": record.key,
        "value": None if record.value is None else record.value.decode(errors="backslashreplace"),
        "headers": record.headers,
        "headers_error": record.headers_error,
    }
