"""`filemill dlq list | show | replay`."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.config.settings import load
from filemill.entrypoints import bootstrap
from filemill.entrypoints.cli.arguments import place_argument
from filemill.entrypoints.cli.operations import actor
from filemill.entrypoints.cli.output import AsJson, console, fail, plain, print_json, print_json_list, print_table, say
from filemill.queries.dead_letters import KEPT_RECORDS, DeadLetterIndex, chunks
from filemill.services import dead_letters
from filemill.services.dead_letters import DeadLetter, LetterFacts

StillBroken = Annotated[bool, typer.Option("--still-broken", help="Only failures that nothing was tried for since.")]
Reason = Annotated[str | None, typer.Option(help="Only those whose reason contains this.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    dlq = typer.Typer(help="Dead letters: requests that could not be processed.", no_args_is_help=True)
    dlq.command("list")(list_letters)
    dlq.command("show")(show)
    dlq.command("replay")(replay)
    app.add_typer(dlq, name="dlq")


class _Topic:
    """The topic of dead letters, as this command reads it."""

    def __init__(self) -> None:
        self.settings = load()
        self.admin = KafkaAdmin(self.settings)
        self.engine = bootstrap.create_engine(self.settings, "dlq")
        self.index = DeadLetterIndex(self.settings, self.engine)

    def matching(self, reason: str | None, *, still_broken: bool) -> list[DeadLetter]:
        """The dead letters whose reason contains this, oldest first."""
        found = self.index.read(self.admin)
        if found.truncated:
            say(f"Only the newest {KEPT_RECORDS:,} records of the topic are looked at.")
        return [
            letter
            for letter in found.items
            if (reason is None or reason.lower() in letter.reason.lower()) and (letter.still_broken or not still_broken)
        ]

    def at(self, places: Sequence[str]) -> list[DeadLetter]:
        """The dead letters at these places; ends the command where there is none."""
        found = self.index.find(self.admin, places)
        missing = next((place for place in places if place not in found), None)
        if missing is not None:
            fail(f"there is no dead letter {missing}", 1)
        return list({letter.key: letter for letter in found.values()}.values())


def list_letters(*, still_broken: StillBroken = False, reason: Reason = None, as_json: AsJson = False) -> None:
    """List dead letters, oldest first, and how often each reason comes."""
    topic = _Topic()
    letters = topic.matching(reason, still_broken=still_broken)
    if as_json:
        print_json_list({"reasons": dead_letters.histogram(letters)}, "letters", _documents(topic, letters))
        return
    print_table(
        ["place", "at", "times", "file", "run", "attempts", "still broken", "reason"],
        [
            [
                letter.place,
                "?" if letter.at is None else f"{letter.at:%Y-%m-%d %H:%M:%S}",
                letter.count,
                letter.file_id,
                letter.run,
                letter.attempts,
                "yes" if letter.still_broken else "no",
                letter.reason if letter.problem is None else f"{letter.reason} ({letter.problem})",
            ]
            for letter in letters
        ],
    )
    for text, count in dead_letters.histogram(letters).items():
        say(f"{count:6}  {text}")


SHOWN = (
    *("place", "at", "count", "first_at", "file_id", "run", "source", "attempts", "worker", "reason", "problem"),
    *("still_broken", "refusal"),
)


def show(
    place: Annotated[str, typer.Argument(parser=place_argument, help="partition:offset, as `list` prints it.")],
) -> None:
    """Show one dead letter whole: why, where from, payload, trace."""
    topic = _Topic()
    letters = topic.at([place])
    (content,) = topic.index.contents(topic.admin, letters)
    for name in SHOWN:
        console.print(f"{name.replace('_', ' '):13} {plain(getattr(letters[0], name))}", markup=False)
    if content is None:
        fail(f"the record of {place} is gone: retention removed it", 1)
    value = b"(null)" if content.value is None else content.value or b"(empty)"
    console.print(plain(value.decode(errors="backslashreplace")), markup=False)
    if content.trace:
        console.print("\n".join(plain(line) for line in content.trace.splitlines()), markup=False)


def replay(
    places: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PLACE]...", parser=place_argument, help="Which ones.", show_default=False),
    ] = None,
    reason: Reason = None,
    rate: Annotated[float, typer.Option(help="Files a second, at most.", min=0.1)] = 50,
    max_runs: Annotated[int, typer.Option(help="Refuse files that have failed this many runs.", min=1)] = (
        dead_letters.MAX_RUNS
    ),
    *,
    every: Annotated[bool, typer.Option("--all", help="All that are still broken.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send dead letters through once more, each as a new run of its file. Interrupted, it can be run again."""
    if bool(places) == every:
        fail("name dead letters by their places, or all that are still broken by --all", 2)
    topic = _Topic()
    chosen = topic.matching(reason, still_broken=True) if every else topic.at(places or [])
    result = dead_letters.replay(topic.engine, chosen, actor=actor(), rate=rate, dry_run=dry_run, max_runs=max_runs)
    if as_json:
        print_json(result)
    else:
        for text, count in result.reasons.items():
            say(f"{count:6}  {text}")
        say(f"{len(result.files)} files {'would be' if dry_run else 'were'} sent through again")
        for where, why in result.refused.items():
            say(f"{where} refused: {why}")
    if result.refused and places:
        raise typer.Exit(1)


def _documents(topic: _Topic, letters: Sequence[DeadLetter]) -> Iterator[dict[str, object]]:
    """For --json: with the payload as text, and what else the index leaves out; a few at a time in memory."""
    for chunk in chunks(letters):
        for letter, content in zip(chunk, topic.index.contents(topic.admin, chunk), strict=True):
            fields = {name: getattr(letter, name) for name in (*LetterFacts.__struct_fields__, "partition", "offset")}
            value = None if content is None else (content.value or b"").decode(errors="backslashreplace")
            headers, trace = ([], None) if content is None else (content.headers, content.trace)
            yield {**fields, "place": letter.place, "value": value, "headers": headers, "trace": trace}
