"""`python -m benchmarks ratios | growth | list | publish`: the speed of the pipeline, its raw limits and its peers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import growth as growth_points
from benchmarks.catalog import select_arms
from benchmarks.processes import ProcessFailed
from benchmarks.proofs import WorkIncomplete
from benchmarks.report import PUBLISHED, RESULTS, publish, save, show
from benchmarks.rounds import Sample, interleave
from benchmarks.summary import TargetResult, check_targets, describe_targets, summarize
from filemill.config import logging
from filemill.entrypoints.cli.output import console, fail, say

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measure the pipeline, the raw limits of its parts, and its peers, on embedded servers.\n\n"
    "FILEMILL_ settings of the environment apply to the pipeline, for example: "
    "FILEMILL_STORE_CONCURRENCY=256 python -m benchmarks ratios --only processor",
)

Only = Annotated[
    str | None, typer.Option(help="Only arms with this in their name, or (ratios) of this kind; ';' separates several.")
]
Scale = Annotated[float, typer.Option(help="Factor for the number of files; 0.01 tries a benchmark out.", min=0)]
Folder = Annotated[Path, typer.Option(help="Folder of the results.")]


@app.command()
def ratios(
    only: Only = None,
    rounds: Annotated[int, typer.Option(help="How often each arm runs.", min=1)] = 5,
    scale: Scale = 1.0,
    results: Folder = RESULTS,
) -> None:
    """Run all arms in interleaved rounds. Exit code 0 also if targets are missed; 2 if an arm did not do its work."""

    def measure(after_round: Callable[[Sequence[Sample]], None]) -> list[Sample]:
        return interleave(select_arms(only), rounds, scale, say, after_round)

    _run("ratios", measure, lambda samples: check_targets(summarize(samples)), results)


@app.command()
def growth(
    only: Only = None,
    rounds: Annotated[int, typer.Option(help="How often each point is measured.", min=1)] = 3,
    scale: Scale = 1.0,
    results: Folder = RESULTS,
) -> None:
    """Measure more files, rows, partitions and workers, long jobs, latency, verify. Exit codes as for ratios."""

    def measure(after_round: Callable[[Sequence[Sample]], None]) -> list[Sample]:
        return growth_points.measure(only, rounds, scale, say, after_round)

    _run("growth", measure, growth_points.check_targets, results)


@app.command("list")
def list_arms() -> None:
    """Show what each arm counts, and what it leaves out."""
    for one in [*select_arms(), *growth_points.points()]:
        console.print(f"[bold]{one.name}[/] ({one.kind}, {one.files:,} files)")
        console.print(one.counts + "\n", markup=False)


@app.command("publish")
def publish_results(
    source: Annotated[Path, typer.Option(help="Folder of the measured results.")] = RESULTS,
    target: Annotated[Path, typer.Option(help="Folder of the committed results.")] = PUBLISHED,
) -> None:
    """Copy results into the committed folder, which documents show. Exit code 2 if there are none."""
    names = publish(source, target)
    if not names:
        fail(f"no results in {source}; run `make bench` first", 2)
    say(f"Published in {target}: {', '.join(names)}")


def _run(
    name: str,
    measure: Callable[[Callable[[Sequence[Sample]], None]], list[Sample]],
    check: Callable[[Sequence[Sample]], list[TargetResult]],
    folder: Path,
) -> None:
    """Measure, print and save. After each round the results so far are saved."""
    try:
        samples = measure(lambda so_far: save(folder, name, so_far, check(so_far)))
    except ValueError as error:
        fail(str(error), 2)
    except (WorkIncomplete, ProcessFailed, TimeoutError) as error:
        fail("\n".join([str(error), *getattr(error, "__notes__", [])]), 2)
    targets = check(samples)
    show(console, summarize(samples), targets)
    save(folder, name, samples, targets)
    say(f"Saved in {folder}: {name}.json, {name}.html, {name}.md, {name}.svg, latest.json")
    say(describe_targets(targets))


if __name__ == "__main__":
    logging.configure_for_command()
    app()
