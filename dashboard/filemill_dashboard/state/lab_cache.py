"""What the page Experiments reads: the folders of the lab's runs, shared by all viewers as every other reading is."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from filemill.runtime.journal import JournalEntry
from filemill_dashboard.state.cache import Cached, CachedValue, K, T

if TYPE_CHECKING:
    from filemill.lab.runs import RunSeries, RecordedRun

RUNS_TTL_SECONDS = 5.0
# A run that has ended does not change; one that goes on is looked at again now and then.
COURSE_TTL_SECONDS = 30.0
# Frames of a long run take their time.
COURSE_PATIENCE_SECONDS = 4.0


class CacheFactory(Protocol):
    """Makes a shared reading in the process's own pool."""

    def __call__(self, read: Callable[[K], T], ttl_seconds: float, patience_seconds: float = ...) -> Cached[K, T]:
        """The reading; `read` runs in the pool."""


class LabCache:
    """The runs below a folder. Any thread may ask."""

    def __init__(self, folder: Path, shared: CacheFactory) -> None:
        self.folder = folder

        def list_them(_key: str) -> "list[RecordedRun]":
            # Here and below: it comes with pandas, whose import would hold up the page's start by most of a second.
            from filemill.lab.runs import list_runs  # noqa: PLC0415

            return list_runs(folder)

        def course_of(run: str) -> "RunSeries":
            from filemill.lab.runs import read_series  # noqa: PLC0415

            return read_series(folder / run)

        def journal_of(run: str) -> list[JournalEntry]:
            from filemill.lab.runs import read_journal  # noqa: PLC0415

            return read_journal(folder / run)

        self._runs: Cached[str, list[RecordedRun]] = shared(list_them, RUNS_TTL_SECONDS)
        self._courses: Cached[str, RunSeries] = shared(course_of, COURSE_TTL_SECONDS, COURSE_PATIENCE_SECONDS)
        self._journals: Cached[str, list[JournalEntry]] = shared(journal_of, RUNS_TTL_SECONDS)

    def runs(self) -> "CachedValue[list[RecordedRun]]":
        """All of them, newest first."""
        return self._runs.get("")

    def course(self, run: "RecordedRun") -> "CachedValue[RunSeries]":
        """How one of them went over time."""
        return self._courses.get(run.name)

    def journal(self, run: "RecordedRun") -> CachedValue[list[JournalEntry]]:
        """What was done in one of them."""
        return self._journals.get(run.name)
