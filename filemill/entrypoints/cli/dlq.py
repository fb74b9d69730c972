"""`filemill dlq list | show | replay | dismiss | restore`."""

from typing import Annotated

import typer

from filemill.domain.dead_letters import reason_counts
from filemill.entrypoints.cli.arguments import Home, place_argument, principal
from filemill.entrypoints.cli.dead_letter_source import DirectDeadLetters, dead_letter_source, documents
from filemill.entrypoints.cli.output import AsJson, console, fail, plain, print_json, print_json_list, print_table, say
from filemill.services import dead_letters
from filemill_dashboard.views.plurals import counted, inflect

StillBroken = Annotated[
    bool,
    typer.Option(
        "--still-broken",
        help="Only dead letters that need an action: of files that failed and have not been retried, or without a file "
        "id, and not dismissed.",
    ),
]
Reason = Annotated[str | None, typer.Option(help="Only dead letters whose reason contains this.")]
QueueName = Annotated[
    str, typer.Option("--queue", help="Only dead letters of requests of this queue.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    dlq = typer.Typer(help="Dead letters: requests that could not be processed.", no_args_is_help=True)
    dlq.command("list")(list_dead_letters)
    dlq.command("show")(show)
    dlq.command("replay")(replay)
    dlq.command("dismiss")(dismiss)
    dlq.command("restore")(restore)
    app.add_typer(dlq, name="dlq")


def list_dead_letters(
    home: Home = None,
    *,
    still_broken: StillBroken = False,
    reason: Reason = None,
    queue: QueueName = "",
    as_json: AsJson = False,
) -> None:
    """List dead letters, oldest first, and count their reasons."""
    source = dead_letter_source(home)
    letters = source.matching(reason, queue, still_broken=still_broken)
    if as_json:
        print_json_list({"reasons": reason_counts(letters)}, "letters", documents(source, letters))
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
                "dismissed" if letter.dismissed else "yes" if letter.still_broken else "no",
                letter.reason if letter.problem is None else f"{letter.reason} ({letter.problem})",
            ]
            for letter in letters
        ],
    )
    for text, count in reason_counts(letters).items():
        say(f"{count:6}  {text}")


SHOWN = (
    *("place", "at", "count", "first_at", "file_id", "run", "source", "attempts", "worker", "reason", "problem"),
    *("still_broken", "dismissed", "refusal"),
)


def show(
    place: Annotated[str, typer.Argument(parser=place_argument, help="partition:offset, as `list` prints it.")],
    home: Home = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: reason, source, payload, stack trace."""
    source = dead_letter_source(home)
    letters = source.at([place])
    if as_json:
        print_json(next(documents(source, letters)))
        return
    (content,) = source.contents(letters)
    for name in SHOWN:
        console.print(f"{name.replace('_', ' '):13} {plain(getattr(letters[0], name))}", markup=False)
    if content is None:
        fail(f"the record {place} no longer exists: retention removed it", 1)
    value = b"(null)" if content.value is None else content.value or b"(empty)"
    console.print(plain(value.decode(errors="backslashreplace")), markup=False)
    if content.trace:
        console.print("\n".join(plain(line) for line in content.trace.splitlines()), markup=False)


def replay(
    places: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PLACE]...",
            parser=place_argument,
            help="Dead letters to replay, as partition:offset.",
            show_default=False,
        ),
    ] = None,
    reason: Reason = None,
    queue: QueueName = "",
    rate: Annotated[float, typer.Option(help="Maximum files per second.", min=0.1)] = 50,
    max_runs: Annotated[int, typer.Option(help="Skip files that have had this many runs.", min=1)] = (
        dead_letters.MAX_RUNS
    ),
    home: Home = None,
    *,
    every: Annotated[
        bool, typer.Option("--all", help="All dead letters of files that failed and have not been retried.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be done.")] = False,
    as_json: AsJson = False,
) -> None:
    """Replay dead letters, each as a new run of its file. After an interruption, run the command again."""
    if bool(places) == every:
        fail("give either positions or --all", 2)
    source = dead_letter_source(home)
    chosen = source.matching(reason, queue, still_broken=True) if every else source.at(places or [])
    result = source.replay(chosen, rate=rate, dry_run=dry_run, max_runs=max_runs)
    if as_json:
        print_json(result)
    else:
        for text, count in result.reasons.items():
            say(f"{count:6}  {text}")
        say(f"{counted(len(result.files), 'file')} {_auxiliary(len(result.files), dry_run=dry_run)} replayed")
        for where, why in result.refused.items():
            say(f"{where} refused: {why}")
    if result.refused and places:
        raise typer.Exit(1)


Places = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PLACE]...", parser=place_argument, help="Dead letters, as partition:offset.", show_default=False
    ),
]


def dismiss(
    places: Places = None,
    reason: Reason = None,
    queue: QueueName = "",
    home: Home = None,
    *,
    every: Annotated[
        bool,
        typer.Option("--all", help="All unresolved dead letters; with --reason or --queue, those that match."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Mark dead letters as needing no action. `restore` takes it back; the records stay on their topic."""
    if bool(places) == every:
        fail("give either positions or --all", 2)
    topic = DirectDeadLetters(home)
    chosen = topic.matching(reason, queue, still_broken=True) if every else topic.at(places or [])
    done = dead_letters.dismiss(topic.engine, chosen, principal=principal())
    _print_dismissal({"dismissed": done}, as_json=as_json)


def restore(
    places: Annotated[
        list[str],
        typer.Argument(metavar="PLACE...", parser=place_argument, help="Dead letters, as partition:offset."),
    ],
    home: Home = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Take the dismissal of dead letters back."""
    topic = DirectDeadLetters(home)
    done = dead_letters.restore(topic.engine, topic.at(places), principal=principal())
    _print_dismissal({"restored": done}, as_json=as_json)


def _print_dismissal(result: dict[str, list[str]], *, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    for verb, places in result.items():
        say(f"{counted(len(places), 'dead letter')} {verb}")


def _auxiliary(count: int, *, dry_run: bool) -> str:
    return "would be" if dry_run else inflect(count, "was", "were")
