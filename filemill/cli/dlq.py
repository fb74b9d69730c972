"""`filemill dlq list | show | replay`."""

from collections.abc import Sequence
from typing import Annotated

import typer

from filemill import dead_letters, wiring
from filemill.adapters.kafka_admin import KafkaAdmin
from filemill.cli.operations import actor
from filemill.cli.output import AsJson, console, fail, plain, print_json, print_table, say
from filemill.dead_letters import DeadLetter
from filemill.settings import load

StillBroken = Annotated[bool, typer.Option("--still-broken", help="Only failures that nothing was tried for since.")]
Reason = Annotated[str | None, typer.Option(help="Only those whose reason contains this.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    dlq = typer.Typer(help="Dead letters: requests that could not be processed.", no_args_is_help=True)
    dlq.command("list")(list_letters)
    dlq.command("show")(show)
    dlq.command("replay")(replay)
    app.add_typer(dlq, name="dlq")


def _read(reason: str | None = None) -> list[DeadLetter]:
    settings = load()
    letters = dead_letters.read_dead_letters(settings, KafkaAdmin(settings), wiring.create_engine(settings, "dlq"))
    return [letter for letter in letters if reason is None or reason.lower() in letter.reason.lower()]


def list_letters(*, still_broken: StillBroken = False, reason: Reason = None, as_json: AsJson = False) -> None:
    """List dead letters, oldest first, and how often each reason comes."""
    letters = [letter for letter in _read(reason) if letter.still_broken or not still_broken]
    if as_json:
        print_json({"reasons": dead_letters.histogram(letters), "letters": [_document(letter) for letter in letters]})
        return
    print_table(
        ["place", "at", "file", "run", "attempts", "still broken", "reason"],
        [
            [
                letter.place,
                f"{letter.at:%Y-%m-%d %H:%M:%S}",
                letter.file_id,
                letter.run,
                letter.attempts,
                "yes" if letter.still_broken else "no",
                letter.reason,
            ]
            for letter in letters
        ],
    )
    for text, count in dead_letters.histogram(letters).items():
        say(f"{count:6}  {text}")


def show(place: Annotated[str, typer.Argument(help="partition:offset, as `list` prints it.")]) -> None:
    """Show one dead letter whole: why, where from, payload, trace."""
    letter = _one(_read(), place)
    for name in ("place", "at", "file_id", "run", "source", "attempts", "worker", "reason", "still_broken", "refusal"):
        console.print(f"{name.replace('_', ' '):13} {plain(getattr(letter, name))}", markup=False)
    console.print(plain((letter.value or b"(empty)").decode(errors="backslashreplace")), markup=False)
    if letter.trace:
        console.print("\n".join(plain(line) for line in letter.trace.splitlines()), markup=False)


def replay(
    places: Annotated[
        list[str] | None, typer.Argument(metavar="[PLACE]...", help="Which ones.", show_default=False)
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
    letters = _read(reason)
    chosen = (
        [letter for letter in letters if letter.still_broken] if every else [_one(letters, p) for p in places or []]
    )
    engine = wiring.create_engine(load(), "dlq")
    result = dead_letters.replay(engine, chosen, actor=actor(), rate=rate, dry_run=dry_run, max_runs=max_runs)
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


def _one(letters: Sequence[DeadLetter], place: str) -> DeadLetter:
    found = next((letter for letter in letters if letter.place == place), None)
    return found if found is not None else fail(f"there is no dead letter {place}", 1)


def _document(letter: DeadLetter) -> dict[str, object]:
    """For --json: the payload as text."""
    fields = {name: getattr(letter, name) for name in letter.__struct_fields__}
    return {**fields, "place": letter.place, "value": (letter.value or b"").decode(errors="backslashreplace")}
