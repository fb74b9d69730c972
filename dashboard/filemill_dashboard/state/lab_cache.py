"""Cached data of the Experiments page: the folders of the lab's runs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from filemill.runtime.journal import JournalEntry
from filemill_dashboard.state.cache import CachedValue, K, KeyedCache, T

if TYPE_CHECKING:
    from filemill.lab.runs import RecordedRun, RunSeries

RUNS_TTL_SECONDS = 5.0
# The series of a finished run does not change; that of a run in progress is read again now and then.
SERIES_TTL_SECONDS = 30.0
# Reading the data frames of a long run takes seconds.
SERIES_WAIT_SECONDS = 4.0


class CacheFactory(Protocol):
    """Creates a cache that reads in the process's own thread pool."""

    def __call__(self, read: Callable[[K], T], ttl_seconds: float, wait_seconds: float = ...) -> KeyedCache[K, T]:
        """A cache in front of `read`."""


class LabCache:
    """The runs below a folder. Any thread."""

    def __init__(self, folder: Path, cached: CacheFactory) -> None:
        self.folder = folder

        def read_runs(_key: str) -> "list[RecordedRun]":
            # Here and below: this imports pandas, which would delay the page's start by most of a second.
            from filemill.lab.runs import list_runs  # noqa: PLC0415

            return list_runs(folder)

        def read_run_series(run: str) -> "RunSeries":
            from filemill.lab.runs import read_series  # noqa: PLC0415

            return read_series(folder / run)

        def read_run_journal(run: str) -> list[JournalEntry]:
            from filemill.lab.runs import read_journal  # noqa: PLC0415

            return read_journal(folder / run)

        self._runs: KeyedCache[str, list[RecordedRun]] = cached(read_runs, RUNS_TTL_SECONDS)
        self._series: KeyedCache[str, RunSeries] = cached(read_run_series, SERIES_TTL_SECONDS, SERIES_WAIT_SECONDS)
        self._journals: KeyedCache[str, list[JournalEntry]] = cached(read_run_journal, RUNS_TTL_SECONDS)

    def runs(self) -> "CachedValue[list[RecordedRun]]":
        """All runs, newest first."""
        return self._runs.get("")

    def series(self, run: "RecordedRun") -> "CachedValue[RunSeries]":
        """The time series of a run."""
        return self._series.get(run.name)

    def journal(self, run: "RecordedRun") -> CachedValue[list[JournalEntry]]:
        """The operations and faults of a run."""
        return self._journals.get(run.name)
