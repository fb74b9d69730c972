"""Measures time, CPU and memory of a piece of work."""

import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import msgspec
import psutil

SAMPLE_SECONDS = 0.1
MEGABYTE = 2**20


class Measured(msgspec.Struct, frozen=True):
    """The measurement of one arm in one round. Only some arms have `figures`; their names include the unit."""

    files: int
    seconds: float
    worker_cpu_seconds: float = 0.0  # of the arm's own processes
    server_cpu_seconds: dict[str, float] = {}  # of Kafka, PostgreSQL and S3, by name
    rss_bytes: int = 0  # of the largest process of the arm
    figures: dict[str, float] = {}

    @property
    def rate(self) -> float:
        """Files per second."""
        return self.files / self.seconds

    @property
    def worker_cpu_us(self) -> float:
        """CPU microseconds per file of the arm's own processes."""
        return self.worker_cpu_seconds / self.files * 1e6

    @property
    def server_cpu_us(self) -> float:
        """CPU microseconds per file of the three servers together."""
        return sum(self.server_cpu_seconds.values()) / self.files * 1e6


class Meter:
    """Measures from entering to leaving the context. The system counts CPU in hundredths of a second."""

    def __init__(self, workers: Sequence[psutil.Process], servers: Mapping[str, psutil.Process]) -> None:
        self._workers = workers
        self._servers = servers
        self._rss = 0
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="meter", daemon=True)
        self.seconds = 0.0
        self._own_cpu = 0.0
        self._server_cpu: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._own_cpu, self._server_cpu = self._spent()
        self._began = time.perf_counter()
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._began
        own, servers = self._spent()
        self._own_cpu = own - self._own_cpu
        self._server_cpu = {name: servers[name] - before for name, before in self._server_cpu.items()}
        self._over.set()
        self._sampler.join()
        self._look()

    def measured(self, files: int, **figures: float) -> Measured:
        """The measurement, for this number of files."""
        return Measured(files, self.seconds, self._own_cpu, self._server_cpu, self._rss, figures)

    def _spent(self) -> tuple[float, dict[str, float]]:
        servers = {name: cpu_seconds([process]) for name, process in self._servers.items()}
        return cpu_seconds(self._workers), servers

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        for process in self._workers:
            try:
                self._rss = max(self._rss, process.memory_info().rss)
            except psutil.Error:
                continue  # it has ended


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    """The CPU seconds of these processes and their descendants so far.

    An ended child counts with its parent, which waited for it, so the sum never decreases.
    """
    total = 0.0
    for root in processes:
        try:
            family = [root, *root.children(recursive=True)]
        except psutil.Error:
            continue
        for process in family:
            try:
                spent = process.cpu_times()
            except psutil.Error:
                continue
            total += spent.user + spent.system
            total += float(getattr(spent, "children_user", 0.0)) + float(getattr(spent, "children_system", 0.0))
    return total
