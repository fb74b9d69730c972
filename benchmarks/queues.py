"""Arm: how long an urgent request waits while another queue occupies every place of the processor."""

import time

from benchmarks import proofs
from benchmarks.arm import ARMS, Arm
from benchmarks.meter import Measured
from benchmarks.pipeline import start_workers
from benchmarks.proofs import require
from benchmarks.servers import WORK_SECONDS, IsolatedPipeline, wait_until
from filemill.adapters.postgres.outbox import insert_many
from filemill.domain.files import NewFile
from filemill.domain.queues import BULK_QUEUE, URGENT_QUEUE

PLACES = 50
# So long that places of bulk become free rarely, compared with the target of one second.
BULK_SECONDS = 2.0
URGENT_EVERY_SECONDS = 0.1
# Bulk requests per urgent one: more than the processor finishes while the urgent ones arrive.
BULK_PER_URGENT = 4

_WAITS = """
    SELECT 1000 * percentile_cont(:part) WITHIN GROUP (ORDER BY extract(epoch FROM started_at - created_at))
    FROM files WHERE queue = 'urgent'
"""
_STARTED = "SELECT count(*) FROM files WHERE queue = 'urgent' AND started_at IS NOT NULL"
_BULK_WAITS = "SELECT count(*) FROM files WHERE queue = 'bulk' AND status = 'pending'"
_BULK_RUNS = "SELECT count(*) FROM files WHERE queue = 'bulk' AND status = 'processing'"
_UNFINISHED = "SELECT count(*) FROM files WHERE status IN ('pending', 'processing')"


def urgent_under_bulk(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts urgent requests that arrive every 100 ms, from the first to the start of the last.

    Bulk occupies all 50 places with jobs of 2 s for the whole time. `urgent start, p99, ms` is the time from acceptance
    to the start in the worker. Relay, processor and sync run in processes of their own. Leaves out HTTP.
    """
    with pipeline.processes() as processes:
        start_workers(pipeline, processes, 1)
        bulk = max(4 * PLACES, files * BULK_PER_URGENT)
        _submit(pipeline, BULK_QUEUE, bulk)
        wait_until(lambda: pipeline.scalar(_BULK_RUNS) >= PLACES, "bulk has every place")
        with pipeline.meter(processes) as meter:
            due = time.monotonic()
            for _ in range(files):
                _submit(pipeline, URGENT_QUEUE, 1)
                due += URGENT_EVERY_SECONDS
                time.sleep(max(0.0, due - time.monotonic()))
            wait_until(lambda: pipeline.scalar(_STARTED) == files, "all urgent requests have started")
            left = pipeline.scalar(_BULK_WAITS)
        measured = meter.measured(files)
        if not left:
            raise proofs.WorkIncomplete("bulk ended before the urgent requests: it did not occupy the places")
        wait_until(lambda: pipeline.scalar(_UNFINISHED) == 0, "all files have ended", seconds=WORK_SECONDS)
    require(pipeline.scalar("SELECT count(*) FROM files WHERE status = 'completed'"), files + bulk, "completed files")
    figures = {
        f"urgent start, p{round(100 * part)}, ms": float(pipeline.scalar(_WAITS, part=part)) for part in (0.5, 0.99)
    }
    return Measured(
        files=measured.files,
        seconds=measured.seconds,
        worker_cpu_seconds=measured.worker_cpu_seconds,
        server_cpu_seconds=measured.server_cpu_seconds,
        rss_bytes=measured.rss_bytes,
        figures=figures,
    )


def _submit(pipeline: IsolatedPipeline, queue: str, count: int) -> None:
    with pipeline.engine.begin() as connection:
        insert_many(connection, [NewFile(f"For {queue}", queue=queue) for _ in range(count)])


# The settings are those of its pipeline, so it is registered without the decorator.
ARMS["urgent under bulk"] = Arm(
    "urgent under bulk",
    "stage",
    60,
    urgent_under_bulk,
    {"concurrency": PLACES, "processing_seconds": BULK_SECONDS, "processing_steps": 1},
)
