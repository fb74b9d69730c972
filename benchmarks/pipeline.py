"""Arm: the whole way of a file, all servers and all workers running, each worker a process."""

from benchmarks import proofs
from benchmarks.arm import arm
from benchmarks.groups import ROLES, wait_for_leases, wait_for_processors
from benchmarks.meter import Measured
from benchmarks.processes import Crew
from benchmarks.proofs import require
from benchmarks.servers import WORK_SECONDS, World, wait_until

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
def end_to_end(world: World, files: int) -> Measured:
    """Counts from the first request submitted to the last row completed: relay, one processor and sync, a process each.

    Requests come from a fourth process, 500 a transaction, as fast as it can; its CPU counts too. Leaves out starting
    the processes, joining the group, the page and the monitor. Logs are at `warning`, as in the lab.
    """
    measured = passing_through(world, files)
    require(world.scalar("SELECT count(*) FROM outbox"), 0, "rows left in the outbox")
    proofs.made(world, files)
    return measured


def passing_through(world: World, files: int, processors: int = 1) -> Measured:
    """Submit so many files and wait until all rows are terminal; proves nothing yet."""
    with world.crew() as crew:
        submitter = crew.work("submit-many", files)
        staff(world, crew, processors)
        submitter.ready()
        with world.meter(crew) as meter:
            submitter.go()
            submitter.done(WORK_SECONDS)
            wait_until(lambda: world.scalar(UNFINISHED) == 0, "all files have ended", every=ENDS_SECONDS)
        return meter.measured(files)


def staff(world: World, crew: Crew, processors: int) -> None:
    """Relay, sync and so many processors, all at work."""
    for role in ROLES:
        crew.role(role)
    members = [crew.role("processor") for _ in range(processors)]
    wait_for_leases(world, crew)
    wait_for_processors(world, members)
