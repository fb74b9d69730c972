"""Arm: end to end, with all servers and all workers, each worker in a process of its own."""

from benchmarks import proofs
from benchmarks.arm import arm
from benchmarks.groups import ROLES, wait_for_leases, wait_for_processors
from benchmarks.meter import Measured
from benchmarks.processes import WorkerProcesses
from benchmarks.proofs import require
from benchmarks.servers import WORK_SECONDS, IsolatedPipeline, wait_until
from filemill.domain.queues import DEFAULT_QUEUE

# The newest row first: this query runs often and must not read completed rows.
UNFINISHED = """
    SELECT count(*) FROM (
        (SELECT FROM files WHERE status = 'pending' ORDER BY id DESC LIMIT 1)
        UNION ALL (SELECT FROM files WHERE status = 'processing' ORDER BY id DESC LIMIT 1)
    ) AS newest
"""

# How often the query runs; each run costs CPU of the measured machine.
ENDS_SECONDS = 0.05


@arm("end to end", "end to end", 6_000)
def end_to_end(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts from the first submitted request to the last completed row: relay, one processor and sync.

    A fourth process submits 500 requests per transaction, as fast as possible; its CPU counts too. Leaves out starting
    the processes, joining the group, the page and the monitor. Logs are at `warning`, as in the lab.
    """
    measured = run_pipeline(pipeline, files)
    require(pipeline.scalar("SELECT count(*) FROM outbox"), 0, "rows left in the outbox")
    proofs.check_completed(pipeline, files)
    return measured


def run_pipeline(
    pipeline: IsolatedPipeline, files: int, processors: int = 1, task: str = "submit-many", queue: str = DEFAULT_QUEUE
) -> Measured:
    """Submit files to a queue and wait until all rows are terminal. Does not prove that the work was done."""
    with pipeline.processes() as processes:
        submitter = processes.start_task(task, files)
        start_workers(pipeline, processes, processors, queue)
        submitter.wait_ready()
        with pipeline.meter(processes) as meter:
            submitter.start_work()
            submitter.wait_done(WORK_SECONDS)
            wait_until(lambda: pipeline.scalar(UNFINISHED) == 0, "all files have ended", every=ENDS_SECONDS)
        return meter.measured(files)


def start_workers(
    pipeline: IsolatedPipeline, processes: WorkerProcesses, processors: int, queue: str = DEFAULT_QUEUE
) -> None:
    """Start relay, sync and processors, and wait until all are active, and the processors own the queue."""
    for role in ROLES:
        processes.start_role(role)
    members = [processes.start_role("processor") for _ in range(processors)]
    wait_for_leases(pipeline, processes)
    wait_for_processors(pipeline, members, queue)
