"""`python -m filemill.lab soak | notebooks | publish | compare`: the lab from the command line."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from filemill.config import logging
from filemill.entrypoints.cli.output import console, fail, print_table, say
from filemill.errors import InvalidHandler, InvalidRequest
from filemill.lab import chaos, notebook_outputs
from filemill.lab.results import RESULTS, Results, compare
from filemill.lab.soak import SoakParameters, SoakResult, job_options
from filemill.lab.soak import soak as run_soak

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def soak(
    minutes: Annotated[float, typer.Option(help="Minutes of load and faults.", min=0.5)] = 10.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same schedule.")] = 7,
    protocol: Annotated[str, typer.Option(help="The group's protocol.")] = "consumer",
    without: Annotated[list[str] | None, typer.Option(help="Skip this fault; may be repeated.")] = None,
    jobs: Annotated[int, typer.Option(help="Requests of a handler among the load.", min=0)] = 0,
    handler: Annotated[str, typer.Option(help="The handler of these requests: built in, or installed.")] = "pdf",
    parameters: Annotated[
        Path | None, typer.Option(help="Their parameters, as JSON; for pdf a short text by default.", dir_okay=False)
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Inject all faults by a seeded schedule under load. Exit code 1 for a violated invariant or too few faults."""
    given = SoakParameters(minutes=minutes, seed=seed, protocol=protocol, without=without or [])
    try:
        if jobs:
            given = msgspec.structs.replace(given, **job_options(jobs, handler, parameters))
        result = run_soak(given, results, say)
    except (RuntimeError, ValueError, InvalidHandler, InvalidRequest) as error:
        fail(str(error), 2)
    _print(result)
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def schedule(minutes: Annotated[float, typer.Option(min=0.5)] = 10.0, seed: Annotated[int, typer.Option()] = 7) -> None:
    """Show the faults that a soak test would inject, and when."""
    planned = chaos.schedule(seed, minutes)
    print_table(["at (s)", "fault", "pick"], [[one.at, one.name, one.pick] for one in planned])


@app.command()
def notebooks(
    source: Annotated[Path, typer.Argument(help="A notebook, or a folder of them.")] = Path("notebooks"),
    target: Annotated[Path, typer.Option(help="Folder of the executed ones.")] = RESULTS / "notebooks",
    full: Annotated[bool, typer.Option(help="Use the parameters of a full run: an hour or more.")] = False,
) -> None:
    """Run notebooks and save them with their outputs. Exit code 1 if one fails."""
    from nbclient.exceptions import CellExecutionError  # noqa: PLC0415 - only this command needs Jupyter

    from filemill.lab.notebooks import execute  # noqa: PLC0415

    paths = sorted(source.glob("*.ipynb")) if source.is_dir() else [source]
    failed = []
    for path in paths:
        say(f"{path.name} …")
        try:
            seconds = execute(path, target / path.name, short=not full)
            say(f"{path.name}: done in {seconds:.0f} s → {target / path.name}")
        except CellExecutionError as error:
            failed.append(path.name)
            say(f"{path.name} FAILED: {error}")
    if failed or not paths:
        fail(f"failed: {', '.join(failed) or f'no notebooks in {source}'}", 1)


@app.command()
def publish(
    source: Annotated[Path, typer.Argument(help="Folder of executed notebooks.")] = RESULTS / "notebooks",
    target: Annotated[Path, typer.Option(help="Folder of the notebooks that were run.")] = Path("notebooks"),
) -> None:
    """Copy the outputs of full runs into the notebooks, figures as pictures. Exit code 1 if an output is unsuitable."""
    paths = sorted(source.glob("*.ipynb"))
    failed = []
    for path in paths:
        try:
            notebook_outputs.publish(path, target / path.name)
            say(f"{target / path.name}: updated")
        except (ValueError, RuntimeError, OSError) as error:
            failed.append(path.name)
            say(f"{path.name}: {error}")
    if failed or not paths:
        fail(f"failed: {', '.join(failed) or f'no notebooks in {source}'}", 1)


@app.command(name="compare")
def compare_runs(baseline: Path, variant: Path) -> None:
    """Compare the numbers of two runs."""
    frame = compare(Results(baseline), Results(variant))
    print_table(list(frame.columns), frame.round(2).to_numpy().tolist())


def _print(result: SoakResult) -> None:
    print_table(["", "invariant", "result", "evidence"], [list(row.values()) for row in result.invariants.rows()])
    facts = msgspec.to_builtins(result)
    shown = [[name, facts[name]] for name in facts if name not in ("invariants", "in_flight", "jobs", "problems")]
    print_table(["", ""], shown)
    print_table(["fault", "records in flight"], [[name, counts] for name, counts in result.in_flight.items()])
    for problem in result.problems:
        say(f"Not proved: {problem}.")
    console.print("The soak test passed." if result.ok else "The soak test FAILED.")


if __name__ == "__main__":
    logging.configure_for_command()
    app()
