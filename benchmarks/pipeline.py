"""Arm: the whole way of a file, all servers and all workers running, each worker a process."""

from benchmarks import proofs
from benchmarks.arm import arm
from benchmarks.groups import ROLES, wait_for_leases, wait_for_processors
from benchmarks.meter import Measured
from benchmarks.processes import WorkerProcesses
from benchmarks.proofs import require
from benchmarks.servers import WORK_SECONDS, IsolatedPipeline, wait_until

# The newest first: asked a hundred times a second, the question must not read what is done.
UNFINISHED = """
    SELECT count(*) FROM (
        (SELECT FROM files WHERE status = 'pending' ORDER BY id DESC LIMIT 1)
        UNION ALL (SELECT FROM files WHERE status = 'processing' ORDER BY id DESC LIMIT 1)
    ) AS newest
"""

# Files take seconds here, and the question its share of two cores.
ENDS_SECONDS = 0.05


@arm("end to end", "end to end", 6_000)
def end_to_end(world: IsolatedPipeline, files: int) -> Measured:
    """Counts from the first request submitted to the last row completed: relay, one processor and sync, a process each.

    Requests come from a fourth process, 500 a transaction, as fast as it can; its CPU counts too. Leaves out starting
    the processes, joining the group, the page and the monitor. Logs are at `warning`, as in the lab.
    """
    measured = run_pipeline(world, files)
    require(world.scalar("SELECT count(*) FROM outbox"), 0, "rows left in the outbox")
    proofs.check_completed(world, files)
    return measured


def run_pipeline(world: IsolatedPipeline, files: int, processors: int = 1) -> Measured:
    """Submit so many files and wait until all rows are terminal; proves nothing yet."""
    with world.processes() as crew:
        submitter = crew.start_task("submit-many", files)
        start_workers(world, crew, processors)
        submitter.wait_ready()
        with world.meter(crew) as meter:
            submitter.start_work()
            submitter.wait_done(WORK_SECONDS)
            wait_until(lambda: world.scalar(UNFINISHED) == 0, "all files have ended", every=ENDS_SECONDS)
        return meter.measured(files)


def start_workers(world: IsolatedPipeline, crew: WorkerProcesses, processors: int) -> None:
    """Relay, sync and so many processors, all at work."""
    for role in ROLES:
        crew.start_role(role)
    members = [crew.start_role("processor") for _ in range(processors)]
    wait_for_leases(world, crew)
    wait_for_processors(world, members)
