"""The folders that runs left, read again: also those of runs that go on still, were cut off, or were damaged since."""

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

# Of a folder with more runs the newest are read.
RUNS_MAX = 300
# What a run writes into one of its JSON files is far below this.
FILE_MAX_BYTES = 32 * 2**20
# Points of a line: more are thinned out.
POINTS_MAX = 1500
# `Results.create` names a folder NAME-YYYYMMDD-HHMMSS-PID.
_NAMED = re.compile(r".+-\d{8}-\d{6}-\d+$")
_PARTS = (RUN, VERDICT, JOURNAL, f"{SUMMARY}.parquet")


class RecordedInvariants(msgspec.Struct, frozen=True):
    """A verdict as far as it is shown: its checks."""

    checks: list[InvariantCheck]

    @property
    def ok(self) -> bool:
        """Whether no promise was seen broken."""
        return all(check.ok is not False for check in self.checks)


class RecordedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run's folder. `troubles` says what is missing of it, or cannot be read; what is not there is None or empty."""

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
        """What it varied."""
        found = self.facts.get("parameters")
        return found if isinstance(found, dict) else {}


class Series(msgspec.Struct, frozen=True):
    """A series of a run: `values` at `seconds` from its beginning."""

    seconds: list[float]
    values: list[float]


class FaultWindow(msgspec.Struct, frozen=True):
    """A fault of a run, in seconds from the run's beginning."""

    began: float
    ended: float
    text: str


class RunSeries(msgspec.Struct, frozen=True):
    """How a run went over time. `lines` by the name of the series; one whose frame is missing is absent."""

    lines: dict[str, Series]
    faults: list[FaultWindow]
    seconds: float


def list_runs(root: Path) -> list[RecordedRun]:
    """The runs below a folder, newest first. Raises OSError where the folder is there and cannot be read."""
    if not root.exists():
        return []
    folders = [folder for folder in root.iterdir() if folder.is_dir() and _is_run(folder)]
    folders.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    runs = [_read(str(folder), _stamp(folder)) for folder in folders[:RUNS_MAX]]
    return sorted(runs, key=lambda run: run.began or datetime.min.replace(tzinfo=UTC), reverse=True)


def read_journal(folder: Path) -> list[JournalEntry]:
    """What was done in a run."""
    return read_entries(folder / JOURNAL)


def read_series(folder: Path) -> RunSeries:
    """Its frames as lines over time. A frame that is missing or cannot be read leaves its line out."""
    executions, files, faults = (_frame(folder, name) for name in ("executions", "files", "faults"))
    known = ((files, "intended_at"), (executions, "at"))
    begins = [frame[column].min() for frame, column in known if frame is not None and _has(frame, column)]
    if not begins:
        return RunSeries({}, [], 0.0)
    began = min(begins)
    lines = {}
    if executions is not None and _has(executions, "at") and {"again", "worker"} <= set(executions):
        # Seconds without a result are zeros, and no line across them.
        found = measures.throughput(executions).set_index("at")["files_per_second"]
        rates = found.resample("1s").sum().reset_index()
        lines["Results per second"] = _line(rates["at"], rates["files_per_second"], began)
    if files is not None and _has(files, "intended_at") and {"updated_at", "status"} <= set(files):
        curve = measures.unfinished(files)
        lines["Not seen to have ended"] = _line(curve["at"], curve["unseen"], began)
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
    """Changes with any of its parts."""
    return tuple(path.stat().st_mtime if (path := folder / part).exists() else 0.0 for part in (*_PARTS, "."))


@lru_cache(maxsize=2 * RUNS_MAX)
def _read(path: str, _stamp: tuple[float, ...]) -> RecordedRun:
    folder = Path(path)
    troubles: list[str] = []
    facts: dict[str, Any] = {}
    text = _text(folder / RUN, troubles)
    if text is not None:
        try:
            found = json.loads(text)
            facts = found if isinstance(found, dict) else {}
        except (ValueError, RecursionError):
            pass
        if not facts:
            troubles.append(f"{RUN} cannot be read")
    verdict = None
    text = _text(folder / VERDICT, troubles)
    if text is not None:
        try:
            verdict = msgspec.json.decode(text, type=RecordedInvariants)
        except (msgspec.DecodeError, RecursionError):
            troubles.append(f"{VERDICT} cannot be read")
    return RecordedRun(
        name=folder.name,
        title=str(facts.get("name") or folder.name)[:200],
        began=_moment(facts.get("began")),
        facts=facts,
        invariants=verdict,
        measures=_measures(folder, troubles),
        frames=sorted(one.stem for one in folder.glob("*.parquet") if one.stem != SUMMARY),
        problems=troubles,
    )


def _text(path: Path, troubles: list[str]) -> bytes | None:
    try:
        if path.stat().st_size > FILE_MAX_BYTES:
            troubles.append(f"{path.name} is too large to be a run's")
            return None
        return path.read_bytes()
    except FileNotFoundError:
        troubles.append(f"{path.name} is missing")
    except OSError as error:
        troubles.append(f"{path.name}: {error.strerror}")
    return None


def _measures(folder: Path, troubles: list[str]) -> dict[str, float]:
    path = folder / f"{SUMMARY}.parquet"
    if not path.exists():
        troubles.append("the summary is missing")
        return {}
    try:
        frame = pd.read_parquet(path)
        pairs = zip(frame["measure"].astype(str), frame["value"].astype(float), strict=True)
        return {name: value for name, value in pairs if math.isfinite(value)}
    except Exception:  # noqa: BLE001 - pyarrow has a dozen kinds for a damaged file
        troubles.append("the summary cannot be read")
        return {}


def _frame(folder: Path, name: str) -> pd.DataFrame | None:
    try:
        return pd.read_parquet(folder / f"{name}.parquet")
    except Exception:  # noqa: BLE001 - missing, or damaged in one of a dozen ways
        return None


def _has(frame: pd.DataFrame, column: str) -> bool:
    """Whether it has moments in that column."""
    return column in frame and isinstance(frame[column].dtype, pd.DatetimeTZDtype) and bool(frame[column].count())


def _line(at: "pd.Series[pd.Timestamp]", values: "pd.Series[float]", began: pd.Timestamp) -> Series:
    """Thinned out by taking the greatest of each bin: that must not hide a peak."""
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
