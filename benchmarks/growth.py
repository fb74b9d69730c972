"""Growth and long jobs: what more files, rows, partitions and workers change, and how much work one worker holds."""

import socket
import statistics
from collections.abc import Callable, Sequence

import httpx

from benchmarks import backlog, proofs
from benchmarks.arm import Arm
from benchmarks.crew import START_SECONDS, Crew
from benchmarks.limits import timed
from benchmarks.meter import Measured
from benchmarks.pipeline import UNFINISHED, passing_through, staff
from benchmarks.proofs import require
from benchmarks.rounds import Sample, interleave
from benchmarks.servers import WORK_SECONDS, World, wait_until
from benchmarks.summary import Finding, at_least, at_most

# Old rows for each file that is made: a million beside 10,000.
OLD_ROWS_PER_FILE = 100
IDLE_REQUESTS_PER_SECOND = 20.0
BUSY_REQUESTS_PER_SECOND = 200.0
BUSY_SHARE = 0.7
# The capacity is measured on so many files for each request of the latency's own load.
CAPACITY_FILES_PER_REQUEST = 2
PATIENT = {"server_timeout_seconds": 60}

BASE, MANY, OLD = "10,000 files", "100,000 files", "10,000 files beside a million rows"
LONG, IDLE, BUSY = "1,000 files × 20 s", "API, idle", "API, busy"
VERIFY_FEW, VERIFY_MANY = "verify 10,000", "verify 100,000"
VERIFY_SECONDS_MOST = 60.0
# How much more memory ten times the files may take, where memory is called flat.
FLAT = 1.25


def with_processors(count: int) -> Callable[[World, int], Measured]:
    """The whole way with so many processors."""

    def run(world: World, files: int) -> Measured:
        measured = passing_through(world, files, count)
        proofs.made(world, files)
        return measured

    run.__doc__ = f"Counts as `end to end` does, with {count} processor{'s' * (count > 1)}."
    return run


def beside_old_rows(world: World, files: int) -> Measured:
    """Counts as `end to end` does, in a table that has a hundred times as many rows of former files."""
    backlog.old_rows(world, files * OLD_ROWS_PER_FILE)
    measured = passing_through(world, files)
    proofs.made(world, files, since_id=files * OLD_ROWS_PER_FILE)
    return measured


def long_jobs(world: World, files: int) -> Measured:
    """Counts from the first request to the last row completed, one worker; `of_ideal` is 20 s ÷ that time."""
    measured = passing_through(world, files)
    proofs.made(world, files)
    share = world.settings.processing_seconds / measured.seconds
    return Measured(
        measured.files,
        measured.seconds,
        measured.worker_cpu_seconds,
        measured.server_cpu_seconds,
        measured.rss_bytes,
        {"of_ideal": share},
    )


def api_idle(world: World, files: int) -> Measured:
    """Counts `POST /api/files` at 20 a second, alone: milliseconds from the intended moment to the answer."""
    with world.crew() as crew:
        port = open_page(world, crew)
        client = crew.work("http-load", files, IDLE_REQUESTS_PER_SECOND, port=port)
        client.ready()
        with world.meter(crew) as meter:
            client.go()
            found = client.done(WORK_SECONDS)
        measured = meter.measured(files, **_latencies(found))
    require(found["accepted"], files, "requests that were answered 201")
    require(world.scalar("SELECT count(*) FROM files"), files, "rows in files")
    return measured


def api_busy(world: World, files: int) -> Measured:
    """Counts `POST /api/files` at 200 a second while the pipeline, with what comes beside, is at 70 % of its capacity.

    The capacity is measured first, in the same world, without the page. The page's relay may be the active one.
    """
    capacity = passing_through(world, files * CAPACITY_FILES_PER_REQUEST).rate
    before = world.scalar("SELECT count(*) FROM files")
    beside = max(0.0, BUSY_SHARE * capacity - BUSY_REQUESTS_PER_SECOND)
    others = round(beside * files / BUSY_REQUESTS_PER_SECOND)
    with world.crew() as crew:
        port = open_page(world, crew)
        client = crew.work("http-load", files, BUSY_REQUESTS_PER_SECOND, port=port)
        crowd = crew.work("submit-steadily", others, beside) if others else None
        staff(world, crew, 1)
        client.ready()
        if crowd is not None:
            crowd.ready()
        with world.meter(crew) as meter:
            if crowd is not None:
                crowd.go()
            client.go()
            found = client.done(WORK_SECONDS)
        measured = meter.measured(files + others, capacity=capacity, **_latencies(found))
        if crowd is not None:
            crowd.done(WORK_SECONDS)
        wait_until(lambda: world.scalar(UNFINISHED) == 0, "all files have ended")
    require(found["accepted"], files, "requests that were answered 201")
    proofs.made(world, before + files + others)
    return measured


def verify(world: World, files: int) -> Measured:
    """Counts all of `filemill verify` on files that the pipeline has made. Leaves out making them, and connecting."""
    passing_through(world, files)
    measured, found = timed(world, "verify", files)
    require(found, {"event": "done", "completed": files, "objects": files, "findings": 0}, "the report")
    return measured


def points() -> list[Arm]:
    """What is measured, in the order of the report."""
    one = with_processors(1)
    long = {"processing_seconds": 20, "concurrency": 10_000}
    return [
        Arm("1,000 files", "growth", 1_000, one),
        Arm(BASE, "growth", 10_000, one),
        Arm(MANY, "growth", 100_000, one),
        Arm(OLD, "growth", 10_000, beside_old_rows),
        *(Arm(f"partitions: {count}", "growth", 10_000, one, {"topic_partitions": count}) for count in (1, 2, 3, 6)),
        *(
            Arm(f"workers: {count}", "growth", 10_000, with_processors(count), {"topic_partitions": 6})
            for count in (1, 2, 3, 4)
        ),
        Arm(LONG, "growth", 1_000, long_jobs, long),
        Arm("10,000 files × 20 s", "growth", 10_000, long_jobs, long),
        Arm(IDLE, "growth", 600, api_idle),
        Arm(BUSY, "growth", 6_000, api_busy),
        Arm(VERIFY_FEW, "growth", 10_000, verify, PATIENT),
        Arm(VERIFY_MANY, "growth", 100_000, verify, PATIENT),
    ]


def measure(
    only: str | None,
    rounds: int,
    scale: float,
    say: Callable[[str], None],
    after_round: Callable[[Sequence[Sample]], None] = lambda _samples: None,
) -> list[Sample]:
    """Measure the points that have `only` in their name. Raises ValueError where none has; and as `interleave`."""
    wanted = [point for point in points() if only is None or only in point.name]
    if not wanted:
        names = ", ".join(point.name for point in points())
        raise ValueError(f"no point has {only!r} in its name; there are: {names}")
    return interleave(wanted, rounds, scale, say, after_round)


def findings(samples: Sequence[Sample]) -> list[Finding]:
    """The promises whose points were measured."""
    found = []
    base, many, old = (_median(samples, name, _rate) for name in (BASE, MANY, OLD))
    if base and many:
        found.append(at_least("rate at 100,000 files", "rate at 10,000", many / base, 0.9))
    if base and old:
        found.append(at_least("rate with a million rows in the table", "rate with none", old / base, 0.9))
    if share := _median(samples, LONG, lambda measured: measured.figures["of_ideal"]):
        found.append(at_least("1,000 files × 20 s on one worker: 20 s ÷ makespan", "ideal", share, 0.9))
    if p50 := _median(samples, IDLE, lambda measured: measured.figures["p50_ms"]):
        found.append(at_most("POST /api/files, idle, p50 in ms", "", p50, 5.0))
    if p99 := _median(samples, BUSY, lambda measured: measured.figures["p99_ms"]):
        found.append(at_most("POST /api/files, 200/s at 70 % of capacity, p99 in ms", "", p99, 50.0))
    return [*found, *_of_verify(samples)]


def _of_verify(samples: Sequence[Sample]) -> list[Finding]:
    found = []
    if seconds := _median(samples, VERIFY_MANY, lambda measured: measured.seconds):
        found.append(at_most("verify of 100,000 files, seconds", "", seconds, VERIFY_SECONDS_MOST))
    few, most = (_median(samples, name, lambda measured: measured.rss_bytes) for name in (VERIFY_FEW, VERIFY_MANY))
    if few and most:
        found.append(at_most("verify of 100,000 files, memory", "verify of 10,000", most / few, FLAT))
    return found


def _median(samples: Sequence[Sample], name: str, of: Callable[[Measured], float]) -> float | None:
    values = [of(sample.measured) for sample in samples if sample.arm == name]
    return statistics.median(values) if values else None


def _rate(measured: Measured) -> float:
    return measured.rate


def open_page(world: World, crew: Crew) -> int:
    """The page's process, once it answers; returns its port."""
    with socket.socket() as probe:
        probe.bind((world.settings.host, 0))
        port = int(probe.getsockname()[1])
    crew.role("dashboard", port=port)

    def answers() -> bool:
        try:
            return httpx.get(f"http://{world.settings.host}:{port}/readyz", timeout=5).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    wait_until(answers, "the page answers", START_SECONDS)
    return port


def _latencies(found: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in found.items() if name.endswith("_ms")}
