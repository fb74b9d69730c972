"""Arms: the pipeline's own stages, each alone."""

from benchmarks import backlog, proofs
from benchmarks.arm import arm
from benchmarks.groups import wait_for_processors
from benchmarks.limits import run_task
from benchmarks.meter import Measured
from benchmarks.proofs import TopicEnds, require
from benchmarks.servers import WORK_SECONDS, IsolatedPipeline, wait_until
from filemill.domain.messages import FileCreate


@arm("submit one", "stage", 2_000)
def submit_one(world: IsolatedPipeline, files: int) -> Measured:
    """Counts requests accepted one a transaction, one after the other on one connection, to the last commit.

    Leaves out HTTP.
    """
    measured, _ = run_task(world, "submit-one", files)
    _accepted(world, files)
    return measured


@arm("submit many", "stage", 20_000)
def submit_many(world: IsolatedPipeline, files: int) -> Measured:
    """Counts requests accepted 500 a transaction, with their trace contexts, to the last commit. Leaves out HTTP."""
    measured, _ = run_task(world, "submit-many", files)
    _accepted(world, files)
    return measured


@arm("relay", "stage", 30_000)
def relay(world: IsolatedPipeline, files: int) -> Measured:
    """Counts from taking the lease to an empty outbox: claimed, produced, acknowledged, settled.

    Leaves out accepting the requests, and connecting to PostgreSQL.
    """
    backlog.insert_requests(world, files)
    world.vacuum("files", "outbox")
    last = "SELECT count(*) FROM (SELECT FROM outbox ORDER BY id DESC LIMIT 1) AS last"
    with world.processes() as crew:
        worker = crew.start_task("relay")
        worker.wait_ready()
        with world.meter(crew) as meter:
            worker.start_work()
            wait_until(lambda: world.scalar(last) == 0, "the outbox is empty")
        measured = meter.measured(files)
    require(world.scalar("SELECT count(DISTINCT file_id) FROM publications"), files, "publications")
    require(proofs.records(world, world.settings.topic_create), files, "records on the topic")
    return measured


@arm("processor (stub S3)", "stage", 10_000)
def processor_on_a_stub(world: IsolatedPipeline, files: int) -> Measured:
    """Counts as `processor (real S3)` does, with a store in the process's memory for S3."""
    return processing(world, files, "processor-stub")


@arm("processor (real S3)", "stage", 8_000)
def processor(world: IsolatedPipeline, files: int) -> Measured:
    """Counts from the first record on `file.create` to the last on `file.created`; one member owns all.

    Includes the burst in which this program publishes the records. Leaves out joining the group, and the last commit.
    """
    started = backlog.insert_pending_rows(world, files)
    measured = processing(world, files, "processor", started)
    proofs.check_objects(world, ((row.file_id, row.title, row.description, row.timestamp) for row in started))
    return measured


def processing(world: IsolatedPipeline, files: int, task: str, started: list[FileCreate] | None = None) -> Measured:
    """One processor's work on a backlog that comes once it owns the partitions."""
    messages = started or backlog.insert_pending_rows(world, files)
    with world.processes() as crew:
        wait_for_processors(world, [crew.start_task(task)])
        ends = TopicEnds(world, world.settings.topic_created)
        with world.meter(crew) as meter:
            backlog.publish_requests(world, messages)
            ends.wait_for(files, WORK_SECONDS)
        measured = meter.measured(files)
    require(proofs.completed_ids(world), {message.file_id for message in messages}, "completed files")
    return measured


@arm("sync", "stage", 30_000)
def sync(world: IsolatedPipeline, files: int) -> Measured:
    """Counts from taking the lease to the last row completed: results read, interpreted, applied with their positions.

    Leaves out connecting to PostgreSQL; includes connecting to Kafka.
    """
    messages = backlog.insert_pending_rows(world, files)
    backlog.publish_results(world, messages)
    world.vacuum("files")
    pending = "SELECT count(*) FROM (SELECT FROM files WHERE status = 'pending' ORDER BY id DESC LIMIT 1) AS newest"
    with world.processes() as crew:
        worker = crew.start_task("sync")
        worker.wait_ready()
        with world.meter(crew) as meter:
            worker.start_work()
            wait_until(lambda: world.scalar(pending) == 0, "all rows are completed")
        measured = meter.measured(files)
    done = "SELECT count(*) FROM files WHERE status = 'completed' AND s3_location IS NOT NULL AND sha256 IS NOT NULL"
    require(world.scalar(done), files, "completed rows")
    return measured


@arm("verify", "stage", 4_000)
def verify(world: IsolatedPipeline, files: int) -> Measured:
    """Counts all of `filemill verify` on files that the pipeline has made: topics read, every object downloaded.

    Leaves out making them, and connecting to PostgreSQL.
    """
    from benchmarks.pipeline import run_pipeline  # noqa: PLC0415 - it builds on this module's neighbours

    run_pipeline(world, files)
    measured, found = run_task(world, "verify", files)
    require(found, {"event": "done", "completed": files, "objects": files, "findings": 0}, "the report")
    return measured


def _accepted(world: IsolatedPipeline, files: int) -> None:
    require(world.scalar("SELECT count(*) FROM files WHERE status = 'pending'"), files, "rows in files")
    require(world.scalar("SELECT count(DISTINCT file_id) FROM outbox"), files, "rows in the outbox")
