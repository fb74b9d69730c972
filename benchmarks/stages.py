"""Arms: the stages of the pipeline, each alone."""

from benchmarks import backlog, proofs
from benchmarks.arm import arm
from benchmarks.groups import wait_for_processors
from benchmarks.limits import run_task
from benchmarks.meter import Measured
from benchmarks.pipeline import run_pipeline
from benchmarks.proofs import TopicEnds, require
from benchmarks.servers import WORK_SECONDS, IsolatedPipeline, wait_until
from filemill.domain.messages import FileCreate


@arm("submit one", "stage", 2_000)
def submit_one(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts requests accepted one per transaction, sequentially on one connection, to the last commit.

    Leaves out HTTP.
    """
    measured, _ = run_task(pipeline, "submit-one", files)
    _accepted(pipeline, files)
    return measured


@arm("submit many", "stage", 20_000)
def submit_many(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts requests accepted 500 per transaction, with trace contexts, to the last commit. Leaves out HTTP."""
    measured, _ = run_task(pipeline, "submit-many", files)
    _accepted(pipeline, files)
    return measured


@arm("relay", "stage", 30_000)
def relay(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts from taking the lease to an empty outbox: claimed, produced, acknowledged, deleted.

    Leaves out accepting the requests, and connecting to PostgreSQL.
    """
    backlog.insert_requests(pipeline, files)
    pipeline.vacuum("files", "outbox")
    last = "SELECT count(*) FROM (SELECT FROM outbox ORDER BY id DESC LIMIT 1) AS last"
    with pipeline.processes() as processes:
        worker = processes.start_task("relay")
        worker.wait_ready()
        with pipeline.meter(processes) as meter:
            worker.start_work()
            wait_until(lambda: pipeline.scalar(last) == 0, "the outbox is empty")
        measured = meter.measured(files)
    require(pipeline.scalar("SELECT count(DISTINCT file_id) FROM publications"), files, "publications")
    require(proofs.count_records(pipeline, pipeline.settings.topic_create), files, "records on the topic")
    return measured


@arm("processor (stub S3)", "stage", 10_000)
def processor_on_a_stub(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts as `processor (real S3)` does, with an object store in the memory of the process."""
    return processing(pipeline, files, "processor-stub")


@arm("processor (real S3)", "stage", 8_000)
def processor(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts from the first record on `file.create` to the last on `file.created`; one member owns all partitions.

    Includes the burst in which this program publishes the records. Leaves out joining the group, and the last commit.
    """
    started = backlog.insert_pending_rows(pipeline, files)
    measured = processing(pipeline, files, "processor", started)
    proofs.check_objects(pipeline, ((row.file_id, row.title, row.description, row.timestamp) for row in started))
    return measured


def processing(pipeline: IsolatedPipeline, files: int, task: str, started: list[FileCreate] | None = None) -> Measured:
    """Measure one processor on a backlog that is published after it owns the partitions."""
    messages = started or backlog.insert_pending_rows(pipeline, files)
    with pipeline.processes() as processes:
        wait_for_processors(pipeline, [processes.start_task(task)])
        ends = TopicEnds(pipeline, pipeline.settings.topic_created)
        with pipeline.meter(processes) as meter:
            backlog.publish_requests(pipeline, messages)
            ends.wait_for(files, WORK_SECONDS)
        measured = meter.measured(files)
    require(proofs.completed_ids(pipeline), {message.file_id for message in messages}, "completed files")
    return measured


@arm("sync", "stage", 30_000)
def sync(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts from taking the lease to the last completed row: results read, decoded, applied with their positions.

    Leaves out connecting to PostgreSQL; includes connecting to Kafka.
    """
    messages = backlog.insert_pending_rows(pipeline, files)
    backlog.publish_results(pipeline, messages)
    pipeline.vacuum("files")
    pending = "SELECT count(*) FROM (SELECT FROM files WHERE status = 'pending' ORDER BY id DESC LIMIT 1) AS newest"
    with pipeline.processes() as processes:
        worker = processes.start_task("sync")
        worker.wait_ready()
        with pipeline.meter(processes) as meter:
            worker.start_work()
            wait_until(lambda: pipeline.scalar(pending) == 0, "all rows are completed")
        measured = meter.measured(files)
    done = "SELECT count(*) FROM files WHERE status = 'completed' AND s3_location IS NOT NULL AND sha256 IS NOT NULL"
    require(pipeline.scalar(done), files, "completed rows")
    return measured


@arm("verify", "stage", 4_000)
def verify(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts `filemill verify` on files of the pipeline: topics read, every object downloaded.

    Leaves out creating them, and connecting to PostgreSQL.
    """
    run_pipeline(pipeline, files)
    measured, found = run_task(pipeline, "verify", files)
    require(found, {"event": "done", "completed": files, "objects": files, "findings": 0}, "the report")
    return measured


def _accepted(pipeline: IsolatedPipeline, files: int) -> None:
    require(pipeline.scalar("SELECT count(*) FROM files WHERE status = 'pending'"), files, "rows in files")
    require(pipeline.scalar("SELECT count(DISTINCT file_id) FROM outbox"), files, "rows in the outbox")
