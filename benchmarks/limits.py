"""Arms: the raw limits of the parts. Each runs alone in a process of its own, with the other servers idle."""

from benchmarks import backlog, proofs, requests
from benchmarks.arm import arm
from benchmarks.meter import Measured
from benchmarks.proofs import require
from benchmarks.servers import WORK_SECONDS, IsolatedPipeline
from filemill.adapters.s3.admin import list_objects


def run_task(pipeline: IsolatedPipeline, task: str, files: int) -> tuple[Measured, dict[str, int]]:
    """Run one task; returns the measurement and the result of the task."""
    with pipeline.processes() as processes:
        worker = processes.start_task(task, files)
        worker.wait_ready()
        with pipeline.meter(processes) as meter:
            worker.start_work()
            found = worker.wait_done(WORK_SECONDS)
        return meter.measured(files), found


@arm("raw produce", "limit", 60_000)
def produce(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts from the first `produce` to the last acknowledgement: the records of `file.create`, acks=all, idempotent.

    Leaves out encoding them, and connecting.
    """
    measured, _ = run_task(pipeline, "raw-produce", files)
    require(proofs.count_records(pipeline, pipeline.settings.topic_create), files, "records on the topic")
    return measured


@arm("raw consume", "limit", 120_000)
def consume(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts from the assignment to the last record: all partitions of `file.create` by `consume(500)`, one consumer.

    Leaves out decoding, group membership and commits.
    """
    backlog.publish_requests(pipeline, requests.creates(files))
    measured, found = run_task(pipeline, "raw-consume", files)
    require(found["records"], files, "records read")
    require(found["bytes"] > files, True, "records with a value")
    return measured


@arm("raw put", "limit", 8_000)
def put(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts from the first PUT to the last answer: obstore, `store_concurrency` in flight, the pipeline's objects.

    Leaves out rendering and hashing; Kafka and PostgreSQL are idle.
    """
    measured, _ = run_task(pipeline, "raw-put", files)
    require(len(proofs.object_hashes(pipeline)), files, "objects in the bucket")
    return measured


@arm("raw get", "limit", 4_000)
def get(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts from the first GET to the last body: obstore, as many in flight as `verify` has, the pipeline's objects.

    Leaves out storing them; Kafka and PostgreSQL are idle.
    """
    measured, found = run_task(pipeline, "raw-get", files)
    stored = sum(entry.size for page in list_objects(pipeline.settings) for entry in page)
    require(found, {"event": "done", "objects": files, "bytes": stored}, "bytes read")
    return measured


@arm("raw insert (unnest)", "limit", 20_000)
def insert_unnest(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts from the first statement to the last commit: a file's row and its outbox row, 500 per transaction.

    Includes the cost of the table's indexes and triggers. Leaves out building the parameters.
    """
    measured, _ = run_task(pipeline, "raw-insert-unnest", files)
    _both_rows(pipeline, files)
    return measured


@arm("raw insert (copy)", "limit", 20_000)
def insert_copy(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts the same rows by COPY, with their ids drawn from the sequence first."""
    measured, _ = run_task(pipeline, "raw-insert-copy", files)
    _both_rows(pipeline, files)
    return measured


@arm("raw update (unnest)", "limit", 20_000)
def update(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts from the first statement to the last commit: all columns that the sync sets, `sync_batch` per transaction.

    Leaves out reading events, the rule by which one supersedes another, and positions.
    """
    return _updated(pipeline, files, "raw-update-unnest")


@arm("raw update (json)", "limit", 20_000)
def update_json(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts the same with one JSON parameter per batch, including its encoding, instead of an array per column."""
    return _updated(pipeline, files, "raw-update-json")


def _updated(pipeline: IsolatedPipeline, files: int, task: str) -> Measured:
    backlog.insert_pending_rows(pipeline, files)
    pipeline.vacuum("files")
    measured, _ = run_task(pipeline, task, files)
    done = "SELECT count(*) FROM files WHERE status = 'completed' AND s3_location IS NOT NULL AND sha256 IS NOT NULL"
    require(pipeline.scalar(done), files, "completed rows")
    return measured


@arm("raw claim", "limit", 20_000)
def claim(pipeline: IsolatedPipeline, files: int) -> Measured:
    """Counts `UPDATE … RETURNING` of the outbox with the columns of each message, then DELETE: `relay_batch` at a time.

    Leaves out producing, publish numbers without gaps, the lease and the record of publications.
    """
    backlog.insert_requests(pipeline, files)
    pipeline.vacuum("files", "outbox")
    measured, found = run_task(pipeline, "raw-claim", files)
    require(found["claimed"], files, "claimed rows")
    require(pipeline.scalar("SELECT count(*) FROM outbox"), 0, "rows left in the outbox")
    return measured


def _both_rows(pipeline: IsolatedPipeline, files: int) -> None:
    require(pipeline.scalar("SELECT count(*) FROM files"), files, "rows in files")
    joined = "SELECT count(*) FROM outbox JOIN files ON files.id = file_id AND publish_number IS NULL"
    require(pipeline.scalar(joined), files, "outbox rows with their file")
