"""The output of a run: tables on the terminal, plots, and result files for comparison with later runs."""

import json
import shutil
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
from benchmarks.summary import ArmSummary, TargetResult, summarize
from filemill.lab.results import machine, versions

# Ignored by git. `publish` copies from here to the committed results.
RESULTS = Path("results/bench")
PUBLISHED = Path("benchmarks/results")
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
_SHORT = ("files/s", "spread", "CPU µs/file")
_WIDEST = 1000  # characters of a terminal; every table fits


def rates_table(found: Sequence[ArmSummary], headings: Sequence[str] = _HEADINGS) -> Table:
    """Rates with their cost, with all columns or the given ones."""
    table = Table(title="Files per second, medians")
    table.add_column("arm", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for line in _by_rate(found):
        arm, *cells = _cells(line)
        by_heading = dict(zip(_HEADINGS, cells, strict=True))
        table.add_row(arm, *(by_heading[heading] for heading in headings))
    return table


def figures_table(found: Sequence[ArmSummary]) -> Table:
    """Figures that only some arms measure."""
    table = Table("arm", "median of", title="Other figures")
    table.add_column("value", justify="right", no_wrap=True)
    for line in _by_rate(found):
        for name, value in line.figures.items():
            table.add_row(line.arm, name, f"{value:,.2f}")
    return table


def targets_table(targets: Sequence[TargetResult]) -> Table:
    """The targets, and whether each holds."""
    table = Table("measure", "against", title="Targets")
    for heading in ("value", "target", "holds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in targets:
        holds = "[green]yes[/]" if one.holds else "[red]no[/]"
        table.add_row(one.measure, one.against, f"{one.value:g}", f"{one.target:g}", holds)
    return table


def markdown(found: Sequence[ArmSummary], targets: Sequence[TargetResult]) -> str:
    """The same tables as Markdown."""
    more = any(line.figures for line in found)
    text = [
        f"| arm | {' | '.join(_HEADINGS)} |{' also |' * more}",
        f"| --- | {' | '.join(['---:'] * len(_HEADINGS))} |{' --- |' * more}",
    ]
    text += [f"| {' | '.join([*_cells(line), *([_also(line)] if more else [])])} |" for line in _by_rate(found)]
    if targets:
        text += ["", "| measure | against | value | target | holds |", "| --- | --- | ---: | ---: | --- |"]
        text += [
            f"| {one.measure} | {one.against} | {one.value:g} | {one.target:g} | {'yes' if one.holds else 'no'} |"
            for one in targets
        ]
    return "\n".join(text) + "\n"


def _by_rate(found: Sequence[ArmSummary]) -> list[ArmSummary]:
    return sorted(found, key=lambda line: -line.median)


def _cells(line: ArmSummary) -> list[str]:
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


def _also(line: ArmSummary) -> str:
    return ", ".join(f"{name} {value:,.2f}" for name, value in line.figures.items())


def show(console: Console, found: Sequence[ArmSummary], targets: Sequence[TargetResult]) -> None:
    """Print the tables. On a narrow terminal, the first table has only the most important columns."""
    rates = rates_table(found)
    needed = console.measure(rates, options=console.options.update(width=_WIDEST)).maximum
    shown = [rates if needed <= console.width else rates_table(found, _SHORT)]
    if any(line.figures for line in found):
        shown.append(figures_table(found))
    if targets:
        shown.append(targets_table(targets))
    for table in shown:
        console.print(table, soft_wrap=False)


def save(folder: Path, name: str, samples: Sequence[Sample], targets: Sequence[TargetResult]) -> None:
    """Write the samples with machine and versions, tables and plots, and the targets into `latest.json`.

    A target replaces an earlier one of the same name. Targets that this run did not measure stay.
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
    found = summarize(samples)
    (folder / f"{name}.md").write_text(markdown(found, targets))
    (folder / f"{name}.svg").write_text(rates_svg(found))
    figures.rates(found, samples).write_html(folder / f"{name}.html", include_plotlyjs="cdn")
    _merge_targets(folder / LATEST, targets)


def publish(source: Path, target: Path) -> list[str]:
    """Copy JSON, Markdown and SVG files of the results, and merge `latest.json`; returns the names of the files."""
    names = []
    for path in sorted(source.glob("*")):
        if path.name == LATEST:
            _merge_targets(target / LATEST, _read_targets(path))
        elif path.suffix in {".json", ".md", ".svg"}:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.name)
        else:
            continue
        names.append(path.name)
    return names


def _merge_targets(path: Path, targets: Sequence[TargetResult]) -> None:
    merged = {(one.measure, one.against): one for one in (*_read_targets(path), *targets)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(list(merged.values())), indent=2) + b"\n")


def _read_targets(path: Path) -> list[TargetResult]:
    return msgspec.json.decode(path.read_bytes(), type=list[TargetResult]) if path.exists() else []
