"""Reads results folders, also of runs that are in progress, were interrupted, or are damaged."""

import json
import math
import re
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from filemill.lab import measures
from filemill.lab.invariants import InvariantCheck
from filemill.lab.results import JOURNAL, RUN, SUMMARY, VERDICT
from filemill.runtime.journal import JournalEntry, read_entries

# The most runs to read; the newest come first.
RUNS_MAX = 300
# A larger JSON file was not written by a run.
FILE_MAX_BYTES = 32 * 2**20
# The most points of a series; more are aggregated.
POINTS_MAX = 1500
# `Results.create` names a folder NAME-YYYYMMDD-HHMMSS-PID.
_NAMED = re.compile(r".+-\d{8}-\d{6}-\d+$")
_PARTS = (RUN, VERDICT, JOURNAL, f"{SUMMARY}.parquet")


class RecordedInvariants(msgspec.Struct, frozen=True):
    """The checks of a saved report."""

    checks: list[InvariantCheck]

    @property
    def ok(self) -> bool:
        """Whether no invariant was violated."""
        return all(check.ok is not False for check in self.checks)


class RecordedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A results folder. `problems` lists missing or unreadable parts, which are None or empty."""

    name: str
    title: str
    began: datetime | None
    facts: dict[str, Any]
    invariants: RecordedInvariants | None
    measures: dict[str, float]
    frames: list[str]
    problems: list[str]

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the run."""
        found = self.facts.get("parameters")
        return found if isinstance(found, dict) else {}


class Series(msgspec.Struct, frozen=True):
    """A time series of a run: `values` at `seconds` after its beginning."""

    seconds: list[float]
    values: list[float]


class FaultWindow(msgspec.Struct, frozen=True):
    """A fault of a run, in seconds after its beginning."""

    began: float
    ended: float
    text: str


class RunSeries(msgspec.Struct, frozen=True):
    """The time series of a run by name, with its faults. Series without a saved frame are absent."""

    lines: dict[str, Series]
    faults: list[FaultWindow]
    seconds: float


def list_runs(root: Path) -> list[RecordedRun]:
    """The runs below a folder, newest first. Raises OSError if the folder exists but is unreadable."""
    if not root.exists():
        return []
    folders = [folder for folder in root.iterdir() if folder.is_dir() and _is_run(folder)]
    folders.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    runs = [_read(str(folder), _stamp(folder)) for folder in folders[:RUNS_MAX]]
    return sorted(runs, key=lambda run: run.began or datetime.min.replace(tzinfo=UTC), reverse=True)


def read_journal(folder: Path) -> list[JournalEntry]:
    """The journal of a run."""
    return read_entries(folder / JOURNAL)


def read_series(folder: Path) -> RunSeries:
    """The time series of a run. A missing or unreadable frame has no series."""
    executions, files, faults = (_frame(folder, name) for name in ("executions", "files", "faults"))
    known = ((files, "intended_at"), (executions, "at"))
    begins = [frame[column].min() for frame, column in known if frame is not None and _has(frame, column)]
    if not begins:
        return RunSeries({}, [], 0.0)
    began = min(begins)
    lines = {}
    if executions is not None and _has(executions, "at") and {"again", "worker"} <= set(executions):
        # Seconds without results are zeros, not gaps.
        found = measures.throughput(executions).set_index("at")["files_per_second"]
        rates = found.resample("1s").sum().reset_index()
        lines["Results per second"] = _line(rates["at"], rates["files_per_second"], began)
    if files is not None and _has(files, "intended_at") and {"updated_at", "status"} <= set(files):
        curve = measures.unfinished(files)
        lines["Unfinished requests"] = _line(curve["at"], curve["unfinished"], began)
    windows = []
    if faults is not None and _has(faults, "began") and {"fault", "target", "ended"} <= set(faults):
        windows = [
            FaultWindow(begin, begin if math.isnan(end) else end, " · ".join(part for part in (name, target) if part))
            for begin, end, name, target in zip(
                (faults["began"] - began).dt.total_seconds(),
                (faults["ended"] - began).dt.total_seconds(),
                faults["fault"].astype(str),
                faults["target"].astype(str),
                strict=True,
            )
        ]
    ends = [line.seconds[-1] for line in lines.values() if line.seconds]
    return RunSeries(lines, windows, max(ends, default=0.0))


def _is_run(folder: Path) -> bool:
    return bool(_NAMED.match(folder.name)) or any((folder / part).is_file() for part in _PARTS)


def _stamp(folder: Path) -> tuple[float, ...]:
    """Changes if any part of the folder changes."""
    return tuple(path.stat().st_mtime if (path := folder / part).exists() else 0.0 for part in (*_PARTS, "."))


@lru_cache(maxsize=2 * RUNS_MAX)
def _read(path: str, _stamp: tuple[float, ...]) -> RecordedRun:
    folder = Path(path)
    problems: list[str] = []
    facts: dict[str, Any] = {}
    text = _text(folder / RUN, problems)
    if text is not None:
        try:
            found = json.loads(text)
            facts = found if isinstance(found, dict) else {}
        except (ValueError, RecursionError):
            pass
        if not facts:
            problems.append(f"{RUN} cannot be read")
    invariants = None
    text = _text(folder / VERDICT, problems)
    if text is not None:
        try:
            invariants = msgspec.json.decode(text, type=RecordedInvariants)
        except (msgspec.DecodeError, RecursionError):
            problems.append(f"{VERDICT} cannot be read")
    return RecordedRun(
        name=folder.name,
        title=str(facts.get("name") or folder.name)[:200],
        began=_moment(facts.get("began")),
        facts=facts,
        invariants=invariants,
        measures=_measures(folder, problems),
        frames=sorted(one.stem for one in folder.glob("*.parquet") if one.stem != SUMMARY),
        problems=problems,
    )


def _text(path: Path, problems: list[str]) -> bytes | None:
    try:
        if path.stat().st_size > FILE_MAX_BYTES:
            problems.append(f"{path.name} is too large")
            return None
        return path.read_bytes()
    except FileNotFoundError:
        problems.append(f"{path.name} is missing")
    except OSError as error:
        problems.append(f"{path.name}: {error.strerror}")
    return None


def _measures(folder: Path, problems: list[str]) -> dict[str, float]:
    path = folder / f"{SUMMARY}.parquet"
    if not path.exists():
        problems.append("the summary is missing")
        return {}
    try:
        frame = pd.read_parquet(path)
        pairs = zip(frame["measure"].astype(str), frame["value"].astype(float), strict=True)
        return {name: value for name, value in pairs if math.isfinite(value)}
    except Exception:  # noqa: BLE001 - pyarrow raises many types
        problems.append("the summary cannot be read")
        return {}


def _frame(folder: Path, name: str) -> pd.DataFrame | None:
    try:
        return pd.read_parquet(folder / f"{name}.parquet")
    except Exception:  # noqa: BLE001 - missing or damaged
        return None


def _has(frame: pd.DataFrame, column: str) -> bool:
    """Whether the column has timestamps."""
    return column in frame and isinstance(frame[column].dtype, pd.DatetimeTZDtype) and bool(frame[column].count())


def _line(at: "pd.Series[pd.Timestamp]", values: "pd.Series[float]", began: pd.Timestamp) -> Series:
    """A series with at most POINTS_MAX points. Each point is the maximum of its bin, so that peaks stay visible."""
    seconds = (at - began).dt.total_seconds()
    size = -(-len(seconds) // POINTS_MAX) or 1
    bins = pd.Series(range(len(seconds))) // size
    first = seconds.reset_index(drop=True).groupby(bins).first()
    most = values.reset_index(drop=True).astype(float).groupby(bins).max()
    return Series([round(value, 3) for value in first], [round(value, 3) for value in most])


def _moment(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
