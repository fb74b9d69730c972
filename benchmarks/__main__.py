"""`python -m benchmarks ratios | growth | list`: how fast this is, beside the raw limits of its parts and its peers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import growth as growing
from benchmarks.arm import select_arms
from benchmarks.processes import ProcessFailed
from benchmarks.proofs import WorkIncomplete
from benchmarks.report import RESULTS, save, show
from benchmarks.rounds import Sample, interleave
from benchmarks.summary import TargetResult, check_targets, summarize
from filemill.config import logging
from filemill.entrypoints.cli.output import console, fail, say

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measure the pipeline, the raw limits of its parts, and its peers, on one embedded stack of their own.\n\n"
    "Any FILEMILL_ setting of the environment counts for the pipeline, so that one can be tried: "
    "FILEMILL_STORE_CONCURRENCY=256 python -m benchmarks ratios --only processor",
)

Only = Annotated[str | None, typer.Option(help="Only what has this in its name (or, for ratios, is of this kind).")]
Scale = Annotated[float, typer.Option(help="Multiplies how many files are made; 0.01 tries a benchmark out.", min=0)]
Folder = Annotated[Path, typer.Option(help="Folder of the results.")]


@app.command()
def ratios(
    only: Only = None,
    rounds: Annotated[int, typer.Option(help="How often each arm runs.", min=1)] = 5,
    scale: Scale = 1.0,
    results: Folder = RESULTS,
) -> None:
    """All arms in interleaved rounds; exit code 1 where a promise does not hold, 2 where an arm did not do its work."""
    try:
        samples = interleave(
            select_arms(only), rounds, scale, say, lambda so_far: save(results, "ratios", so_far, _of_ratios(so_far))
        )
    except ValueError as error:
        fail(str(error), 2)
    except (WorkIncomplete, ProcessFailed, TimeoutError) as error:
        fail("\n".join([str(error), *getattr(error, "__notes__", [])]), 2)
    _end("ratios", samples, _of_ratios(samples), results)


@app.command()
def growth(
    only: Only = None,
    rounds: Annotated[int, typer.Option(help="How often each point is measured.", min=1)] = 3,
    scale: Scale = 1.0,
    results: Folder = RESULTS,
) -> None:
    """More files, more rows, more partitions, more workers, long jobs, latency, verify; exit codes as for ratios."""
    try:
        samples = growing.measure(
            only, rounds, scale, say, lambda so_far: save(results, "growth", so_far, growing.check_targets(so_far))
        )
    except ValueError as error:
        fail(str(error), 2)
    except (WorkIncomplete, ProcessFailed, TimeoutError) as error:
        fail("\n".join([str(error), *getattr(error, "__notes__", [])]), 2)
    _end("growth", samples, growing.check_targets(samples), results)


@app.command("list")
def list_arms() -> None:
    """What each arm counts, and what it leaves out."""
    for one in [*select_arms(), *growing.points()]:
        console.print(f"[bold]{one.name}[/] ({one.kind}, {one.files:,} files)")
        console.print(one.counts + "\n", markup=False)


def _of_ratios(samples: Sequence[Sample]) -> list[TargetResult]:
    return check_targets(summarize(samples))


def _end(name: str, samples: Sequence[Sample], promises: Sequence[TargetResult], folder: Path) -> None:
    show(console, summarize(samples), promises)
    save(folder, name, samples, promises)
    say(f"Kept in {folder}: {name}.json, {name}.html, {name}.md, {name}.svg, latest.json")
    if not all(one.holds for one in promises):
        raise typer.Exit(1)


if __name__ == "__main__":
    logging.configure_for_command()
    app()
