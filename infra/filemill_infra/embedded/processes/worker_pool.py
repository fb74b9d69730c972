"""The worker processes of a stack: start, restart, scale and stop them."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from filemill.runtime.stack_state import WorkerState
from filemill_infra.embedded import logs
from filemill_infra.embedded.processes.watchdog_client import Watchdog
from filemill_infra.embedded.processes.workers import ProcessEvent, WorkerProcess, WorkerSpec

GRACE_SECONDS = 5.8  # a processor may drain for 5 s


class WorkerPool:
    """The workers by id. Safe to use from several threads; it never waits while it holds the lock."""

    def __init__(
        self, specs: Sequence[WorkerSpec], log_folder: Path, watchdog: Watchdog, report: Callable[[ProcessEvent], None]
    ) -> None:
        self._specs = {spec.role: spec for spec in specs}
        self._log_folder = log_folder
        self._watchdog = watchdog
        self._report = report
        self._lock = threading.RLock()
        self._workers: dict[str, WorkerProcess] = {}
        self._used_ids: set[str] = set()  # all ids so far
        self._environment: Mapping[str, str] = {}
        self._closed = False

    def start(self, environment: Mapping[str, str]) -> None:
        """Start the workers of each role, `count` of them as in its spec."""
        self._environment = environment
        for spec in self._specs.values():
            self.scale(spec.role, spec.count)

    def states(self) -> list[WorkerState]:
        """The workers for the state file."""
        with self._lock:
            return [state for worker in self._workers.values() if (state := worker.state) is not None]

    def tick(self) -> None:
        """Detect workers that have died, and restart those that are due. Called several times a second."""
        with self._lock:
            for worker in list(self._workers.values()):
                if worker.wanted:
                    self._restart_when_due(worker)
                elif worker.pid is None:
                    self._forget(worker)

    def scale(self, role: str, count: int, seconds: float = GRACE_SECONDS) -> list[str]:
        """Run `count` workers of `role`; returns their ids. The newest are stopped, and killed after `seconds`.

        Raises ValueError.
        """
        if role not in self._specs:
            raise ValueError(f"There is no role {role!r}; the roles are {', '.join(self._specs)}")
        if count < 0:
            raise ValueError(f"The number of workers must not be negative: {count}")
        with self._lock:
            self._specs[role] = replace(self._specs[role], count=count)
            present = [worker for worker in self._workers.values() if worker.wanted and worker.spec.role == role]
            surplus = present[count:]
            present.extend(self._add_worker(self._specs[role]) for _ in range(count - len(present)))
        self._end(surplus, seconds)
        return [worker.id for worker in present[:count]]

    def stop_worker(self, worker_id: str, seconds: float = GRACE_SECONDS) -> None:
        """Stop one worker for good. Raises KeyError."""
        self._end([self._find(worker_id)], seconds)

    def kill_worker(self, worker_id: str, number: int = signal.SIGKILL, *, restart: bool = True) -> None:
        """Send a worker a signal. If it dies, it is restarted, unless `restart` is False. Raises KeyError."""
        with self._lock:
            worker = self._find(worker_id)
            worker.wanted = restart
            worker.send(number)

    def stop(self, seconds: float = GRACE_SECONDS) -> None:
        """Stop all workers at once, and start no more."""
        with self._lock:
            self._closed = True
            workers = list(self._workers.values())
        self._end(workers, seconds)

    def trim_logs(self) -> None:
        """Rotate the logs of running workers that are too long."""
        with self._lock:
            paths = [worker.log for worker in self._workers.values()]
        for path in paths:
            logs.trim(path)

    def _find(self, worker_id: str) -> WorkerProcess:
        with self._lock:
            if worker_id not in self._workers:
                raise KeyError(f"There is no worker {worker_id!r}; there are {', '.join(self._workers) or 'none'}")
            return self._workers[worker_id]

    def _add_worker(self, spec: WorkerSpec) -> WorkerProcess:
        taken = self._used_ids if spec.unique_ids else self._workers.keys()
        number = next(number for number in range(1, 100_000) if f"{spec.role}-{number}" not in taken)
        worker = WorkerProcess(spec, f"{spec.role}-{number}", self._log_folder / f"{spec.role}-{number}.log")
        self._used_ids.add(worker.id)
        self._workers[worker.id] = worker
        self._spawn(worker)
        return worker

    def _spawn(self, worker: WorkerProcess) -> None:
        if self._closed:
            return
        try:
            self._watchdog.watch(worker.spawn(self._environment), worker.spec.stop_signal)
        except OSError as error:
            worker.schedule_retry()
            self._report(
                ProcessEvent(kind="failing", name=worker.id, text=f"{worker.id} could not be started: {error}")
            )

    def _restart_when_due(self, worker: WorkerProcess) -> None:
        event = worker.check_exit()
        if event is not None:
            self._release(worker)
            self._report(event)
        if worker.retry_at is not None and time.monotonic() >= worker.retry_at:
            worker.restarts += 1
            self._spawn(worker)
            self._report(ProcessEvent(kind="restarted", name=worker.id, text=f"{worker.id} was restarted"))

    def _end(self, workers: Iterable[WorkerProcess], seconds: float) -> None:
        ending = list(workers)
        with self._lock:
            for worker in ending:
                worker.end()
        deadline = time.monotonic() + seconds
        for worker in ending:
            worker.reap(deadline - time.monotonic())
        with self._lock:
            for worker in ending:
                self._forget(worker)

    def _forget(self, worker: WorkerProcess) -> None:
        self._release(worker)
        if self._workers.get(worker.id) is worker:
            del self._workers[worker.id]

    def _release(self, worker: WorkerProcess) -> None:
        state = worker.state
        if state is not None:
            self._watchdog.release(state.process.pid)
