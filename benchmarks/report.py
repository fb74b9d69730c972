"""What a run leaves: a table on the terminal, a page of plots, and files that the next run can be held against."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks import figures
from benchmarks.drawing import rates_svg
from benchmarks.meter import MEGABYTE
from benchmarks.rounds import Sample
from benchmarks.summary import Finding, Line, lines
from filemill.lab.results import machine, versions

RESULTS = Path("benchmarks/results")
LATEST = "latest.json"


_HEADINGS = (
    "files/s",
    "least",
    "greatest",
    "spread",
    "rounds",
    "files",
    "seconds",
    "CPU µs/file",
    "Kafka",
    "PostgreSQL",
    "S3",
    "RSS",
)


def tables(found: Sequence[Line], promises: Sequence[Finding]) -> list[Table]:
    """Rates with their cost, and what is promised of them."""
    rates = Table("arm", title="Files per second, medians")
    for heading in _HEADINGS:
        rates.add_column(heading, justify="right")
    if more := any(line.figures for line in found):
        rates.add_column("also")
    for line in found:
        rates.add_row(*_cells(line), *([_also(line)] if more else []))
    if not promises:
        return [rates]
    held = Table("measure", "against", title="What is promised")
    for heading in ("value", "target", "holds"):
        held.add_column(heading, justify="right")
    for one in promises:
        verdict = "[green]yes[/]" if one.holds else "[red]no[/]"
        held.add_row(one.measure, one.against, f"{one.value:g}", f"{one.target:g}", verdict)
    return [rates, held]


def markdown(found: Sequence[Line], promises: Sequence[Finding]) -> str:
    """The same tables, for a document."""
    more = any(line.figures for line in found)
    text = [
        f"| arm | {' | '.join(_HEADINGS)} |{' also |' * more}",
        f"| --- | {' | '.join(['---:'] * len(_HEADINGS))} |{' --- |' * more}",
    ]
    by_rate = sorted(found, key=lambda line: -line.median)
    text += [f"| {' | '.join([*_cells(line), *([_also(line)] if more else [])])} |" for line in by_rate]
    if promises:
        text += ["", "| measure | against | value | target | holds |", "| --- | --- | ---: | ---: | --- |"]
        text += [
            f"| {one.measure} | {one.against} | {one.value:g} | {one.target:g} | {'yes' if one.holds else 'no'} |"
            for one in promises
        ]
    return "\n".join(text) + "\n"


def _cells(line: Line) -> list[str]:
    return [
        line.arm,
        f"{line.median:,.0f}",
        f"{line.least:,.0f}",
        f"{line.greatest:,.0f}",
        f"{line.spread:.0%}",
        str(line.rounds),
        f"{line.files:,}",
        f"{line.seconds:,.2f}",
        f"{line.worker_cpu_us:,.0f}",
        *(f"{line.cpu_us_by_server.get(name, 0.0):,.0f}" for name in ("kafka", "postgres", "s3")),
        f"{line.rss_bytes / MEGABYTE:,.0f} MB",
    ]


def _also(line: Line) -> str:
    return ", ".join(f"{name} {value:,.2f}" for name, value in line.figures.items())


def show(console: Console, found: Sequence[Line], promises: Sequence[Finding]) -> None:
    """Print the tables."""
    for table in tables(found, promises):
        console.print(table)


def keep(folder: Path, name: str, samples: Sequence[Sample], promises: Sequence[Finding]) -> None:
    """Write the samples with machine and versions, tables and plots, and the promises into `latest.json`.

    There, a promise replaces an earlier one of the same name; those that this run did not measure stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "name": name,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "samples": msgspec.to_builtins(list(samples)),
    }
    (folder / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")
    found = lines(samples)
    (folder / f"{name}.md").write_text(markdown(found, promises))
    (folder / f"{name}.svg").write_text(rates_svg(found))
    figures.rates(found, samples).write_html(folder / f"{name}.html", include_plotlyjs="cdn")
    latest = folder / LATEST
    known = msgspec.json.decode(latest.read_bytes(), type=list[Finding]) if latest.exists() else []
    merged = {(one.measure, one.against): one for one in (*known, *promises)}
    latest.write_bytes(msgspec.json.format(msgspec.json.encode(list(merged.values())), indent=2) + b"\n")
