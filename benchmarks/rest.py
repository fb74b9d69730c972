"""Arms: the rates of REST without sign-in and with a personal token."""

from collections.abc import Callable

from benchmarks import backlog
from benchmarks.arm import ARMS, Arm
from benchmarks.growth import open_page
from benchmarks.meter import Measured
from benchmarks.proofs import require
from benchmarks.servers import WORK_SECONDS, IsolatedPipeline

# More than a page of the list.
ROWS = 1000
# A person's limits are for people; here they would be what is measured.
SIGNED_IN = {"auth": "accounts", "limit_writes_per_second": 1_000_000, "limit_writes_burst": 1_000_000}


def posts(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts `POST /api/files` of 16 clients, each of which waits for its answer. No worker runs."""
    measured = _requests(pipeline, "http-posts", files)
    require(pipeline.scalar("SELECT count(*) FROM files"), files, "rows in files")
    return measured


def lists(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts `GET /api/files` (50 of 1,000 files) of 16 clients, each of which waits for its answer."""
    backlog.insert_completed_rows(pipeline, ROWS)
    return _requests(pipeline, "http-lists", files)


def _requests(pipeline: IsolatedPipeline, task: str, count: int) -> Measured:
    with pipeline.processes() as processes:
        port = open_page(pipeline, processes)
        client = processes.start_task(task, count, port=port)
        client.wait_ready()
        with pipeline.meter(processes) as meter:
            client.start_work()
            found = client.wait_done(WORK_SECONDS)
        measured = meter.measured(count, p50_ms=found["p50_ms"], p99_ms=found["p99_ms"])
    require(found["accepted"], count, "requests with the expected answer")
    return measured


def _arms(name: str, count: int, run: Callable[[IsolatedPipeline, int], Measured]) -> list[Arm]:
    return [Arm(name, "rest", count, run), Arm(f"{name}, signed in", "rest", count, run, SIGNED_IN)]


for one in (*_arms("REST POST", 3_000, posts), *_arms("REST list", 1_500, lists)):
    ARMS[one.name] = one
