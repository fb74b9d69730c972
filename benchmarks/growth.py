"""Growth and long jobs: the effect of more files, rows, partitions and workers, and how much one worker holds."""

import socket
import statistics
from collections.abc import Callable, Iterable, Sequence

import httpx
import msgspec

from benchmarks import backlog, handlers, proofs
from benchmarks.arm import Arm, matches
from benchmarks.limits import run_task
from benchmarks.meter import MEGABYTE, Measured
from benchmarks.pipeline import UNFINISHED, run_pipeline, start_workers
from benchmarks.processes import START_SECONDS, WorkerProcesses
from benchmarks.proofs import require
from benchmarks.rounds import Sample, interleave
from benchmarks.servers import WORK_SECONDS, IsolatedPipeline, wait_until
from benchmarks.summary import TargetResult, at_least, at_most

# Existing rows per new file: a million for 10,000.
OLD_ROWS_PER_FILE = 100
IDLE_REQUESTS_PER_SECOND = 20.0
BUSY_REQUESTS_PER_SECOND = 200.0
BUSY_SHARE = 0.7
# Files in the measurement of the capacity, per request of the latency measurement.
CAPACITY_FILES_PER_REQUEST = 2
SLOW_SERVERS = {"server_timeout_seconds": 60}

BASE, MANY, OLD = "10,000 files", "100,000 files", "10,000 files beside a million rows"
LONG, IDLE, BUSY = "1,000 files × 20 s", "API, idle", "API, busy"
VERIFY_SECONDS_MOST = 60.0
NEIGHBOURS_MOST = 1.1
STREAM_RSS_MB_MOST = 200.0
# The greatest ratio of memory for ten times the files that counts as constant.
FLAT = 1.25


def end_to_end_with(count: int) -> Callable[[IsolatedPipeline, int], Measured]:
    """End to end with this number of processors."""

    def run(pipeline: IsolatedPipeline, files: int) -> Measured:
        measured = run_pipeline(pipeline, files, count)
        proofs.check_completed(pipeline, files)
        return measured

    run.__doc__ = f"Counts as `end to end` does, with {count} processor{'s' * (count > 1)}."
    return run


def end_to_end_and_verify(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts as `end to end` does; then `verify_seconds` of `filemill verify` on the same files.

    `verify_rss_mb` is the memory of its process. Leaves out connecting to PostgreSQL.
    """
    made = run_pipeline(pipeline, files)
    proofs.check_completed(pipeline, files)
    checked, found = run_task(pipeline, "verify", files)
    require(found, {"event": "done", "completed": files, "objects": files, "findings": 0}, "the report")
    figures = {"verify_seconds": checked.seconds, "verify_rss_mb": checked.rss_bytes / MEGABYTE}
    return msgspec.structs.replace(made, figures=figures)


def beside_completed_rows(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts as `end to end` does, in a table with a hundred times as many completed rows."""
    backlog.insert_completed_rows(pipeline, files * OLD_ROWS_PER_FILE)
    measured = run_pipeline(pipeline, files)
    proofs.check_completed(pipeline, files, since_id=files * OLD_ROWS_PER_FILE)
    return measured


def long_jobs(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts from the first request to the last completed row, one worker; `of_ideal` is 20 s ÷ that time."""
    measured = run_pipeline(pipeline, files)
    proofs.check_completed(pipeline, files)
    return msgspec.structs.replace(
        measured, figures={"of_ideal": pipeline.settings.processing_seconds / measured.seconds}
    )


def api_idle(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts `POST /api/files` at 20 per second without other load: milliseconds from intended moment to answer."""
    with pipeline.processes() as processes:
        port = open_page(pipeline, processes)
        client = processes.start_task("http-load", files, IDLE_REQUESTS_PER_SECOND, port=port)
        client.wait_ready()
        with pipeline.meter(processes) as meter:
            client.start_work()
            found = client.wait_done(WORK_SECONDS)
        measured = meter.measured(files, **_latencies(found))
    require(found["accepted"], files, "requests with the answer 201")
    require(pipeline.scalar("SELECT count(*) FROM files"), files, "rows in files")
    return measured


def api_busy(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts `POST /api/files` at 200 per second while the pipeline runs at 70 % of its capacity.

    The capacity is measured first, in the same pipeline, without the page. The page's relay may hold the lease.
    """
    capacity = run_pipeline(pipeline, files * CAPACITY_FILES_PER_REQUEST).rate
    before = pipeline.scalar("SELECT count(*) FROM files")
    beside = max(0.0, BUSY_SHARE * capacity - BUSY_REQUESTS_PER_SECOND)
    others = round(beside * files / BUSY_REQUESTS_PER_SECOND)
    with pipeline.processes() as processes:
        port = open_page(pipeline, processes)
        client = processes.start_task("http-load", files, BUSY_REQUESTS_PER_SECOND, port=port)
        background = processes.start_task("submit-steadily", others, beside) if others else None
        start_workers(pipeline, processes, 1)
        client.wait_ready()
        if background is not None:
            background.wait_ready()
        with pipeline.meter(processes) as meter:
            if background is not None:
                background.start_work()
            client.start_work()
            found = client.wait_done(WORK_SECONDS)
        measured = meter.measured(files + others, capacity=capacity, **_latencies(found))
        if background is not None:
            background.wait_done(WORK_SECONDS)
        wait_until(lambda: pipeline.scalar(UNFINISHED) == 0, "all files have ended")
    require(found["accepted"], files, "requests with the answer 201")
    proofs.check_completed(pipeline, before + files + others)
    return measured


def points() -> list[Arm]:
    """The points, in the order of the report."""
    one = end_to_end_with(1)
    long = {"processing_seconds": 20, "concurrency": 10_000}
    return [
        Arm("1,000 files", "growth", 1_000, one),
        Arm(BASE, "growth", 10_000, end_to_end_and_verify, SLOW_SERVERS),
        Arm(MANY, "growth", 100_000, end_to_end_and_verify, SLOW_SERVERS),
        Arm(OLD, "growth", 10_000, beside_completed_rows, SLOW_SERVERS),
        *(Arm(f"partitions: {count}", "growth", 10_000, one, {"topic_partitions": count}) for count in (1, 2, 3, 6)),
        *(
            Arm(f"workers: {count}", "growth", 10_000, end_to_end_with(count), {"topic_partitions": 6})
            for count in (1, 2, 3, 4)
        ),
        Arm(LONG, "growth", 1_000, long_jobs, long),
        Arm("10,000 files × 20 s", "growth", 10_000, long_jobs, long),
        Arm(IDLE, "growth", 600, api_idle),
        Arm(BUSY, "growth", 6_000, api_busy),
        *handlers.points(),
    ]


def measure(
    only: str | None,
    rounds: int,
    scale: float,
    say: Callable[[str], None],
    after_round: Callable[[Sequence[Sample]], None] = lambda _samples: None,
) -> list[Sample]:
    """Measure the points whose name matches `only`. Raises ValueError if none does, and what `interleave` raises."""
    wanted = [point for point in points() if matches(only, point.name)]
    if not wanted:
        names = ", ".join(point.name for point in points())
        raise ValueError(f"no point has {only!r} in its name; the points are: {names}")
    return interleave(wanted, rounds, scale, say, after_round)


def check_targets(samples: Sequence[Sample]) -> list[TargetResult]:
    """The targets whose points were measured."""
    found = []
    rates = {arm: _median(sample.measured.rate for sample in samples if sample.arm == arm) for arm in (BASE, MANY, OLD)}
    if (base := rates[BASE]) and (many := rates[MANY]):
        found.append(at_least("rate at 100,000 files", "rate at 10,000", many / base, 0.9))
    if base and (old := rates[OLD]):
        found.append(at_least("rate with a million rows in the table", "rate with none", old / base, 0.9))
    if share := _figure(samples, LONG, "of_ideal"):
        found.append(at_least("1,000 files × 20 s on one worker: 20 s ÷ makespan", "ideal", share, 0.9))
    if p50 := _figure(samples, IDLE, "p50_ms"):
        found.append(at_most("POST /api/files, idle, p50 in ms", "", p50, 5.0))
    if p99 := _figure(samples, BUSY, "p99_ms"):
        found.append(at_most("POST /api/files, 200/s at 70 % of capacity, p99 in ms", "", p99, 50.0))
    if seconds := _figure(samples, MANY, "verify_seconds"):
        found.append(at_most("verify of 100,000 files, seconds", "", seconds, VERIFY_SECONDS_MOST))
    few, most = (_figure(samples, arm, "verify_rss_mb") for arm in (BASE, MANY))
    if few and most:
        found.append(at_most("verify of 100,000 files, memory", "verify of 10,000", most / few, FLAT))
    return found + _handler_targets(samples)


def _handler_targets(samples: Sequence[Sample]) -> list[TargetResult]:
    found = [
        at_most(f"p95 of jobs {name}", "p95 alone", change, NEIGHBOURS_MOST)
        for name in (handlers.HANGS, handlers.LOOPS)
        if (change := _figure(samples, name, handlers.P95_CHANGE))
    ]
    if rss := _figure(samples, handlers.STREAM, handlers.RSS_MB):
        found.append(at_most("memory of a processor that streams 5 GiB, MB", "", rss, STREAM_RSS_MB_MOST))
    return found


def _figure(samples: Sequence[Sample], arm: str, name: str) -> float | None:
    """The median of a figure of an arm; None if it was not measured."""
    own = (sample.measured.figures for sample in samples if sample.arm == arm)
    return _median(figures[name] for figures in own if name in figures)


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return statistics.median(known) if known else None


def open_page(pipeline: IsolatedPipeline, processes: WorkerProcesses) -> int:
    """Start the page's process and wait until it answers; returns its port."""
    with socket.socket() as probe:
        probe.bind((pipeline.settings.host, 0))
        port = int(probe.getsockname()[1])
    processes.start_role("dashboard", port=port)

    def answers() -> bool:
        try:
            return (
                httpx.get(f"http://{pipeline.settings.host}:{port}/readyz", timeout=5, trust_env=False).status_code
                == httpx.codes.OK
            )
        except httpx.TransportError:
            return False

    wait_until(answers, "the page answers", START_SECONDS)
    return port


def _latencies(found: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in found.items() if name.endswith("_ms")}
