"""Arms: the raw limits of the parts, each alone with the other servers idle, in a process of its own."""

from benchmarks import backlog, proofs, requests
from benchmarks.arm import arm
from benchmarks.meter import Measured
from benchmarks.proofs import require
from benchmarks.servers import WORK_SECONDS, IsolatedPipeline
from filemill.adapters.s3.admin import list_objects


def run_task(world: IsolatedPipeline, task: str, files: int) -> tuple[Measured, dict[str, int]]:
    """Run one task from its word to its end; what it found comes beside the measure."""
    with world.processes() as crew:
        worker = crew.start_task(task, files)
        worker.wait_ready()
        with world.meter(crew) as meter:
            worker.start_work()
            found = worker.wait_done(WORK_SECONDS)
        return meter.measured(files), found


@arm("raw produce", "limit", 60_000)
def produce(world: IsolatedPipeline, files: int) -> Measured:
    """Counts from the first `produce` to the last acknowledgement: the records of `file.create`, acks=all, idempotent.

    Leaves out encoding them, and connecting.
    """
    measured, _ = run_task(world, "raw-produce", files)
    require(proofs.records(world, world.settings.topic_create), files, "records on the topic")
    return measured


@arm("raw consume", "limit", 120_000)
def consume(world: IsolatedPipeline, files: int) -> Measured:
    """Counts from the assignment to the last record: all partitions of `file.create` by `consume(500)`, one consumer.

    Leaves out decoding, group membership and commits.
    """
    backlog.publish_requests(world, requests.creates(files))
    measured, found = run_task(world, "raw-consume", files)
    require(found["records"], files, "records that were read")
    require(found["bytes"] > files, True, "records had their values")
    return measured


@arm("raw put", "limit", 8_000)
def put(world: IsolatedPipeline, files: int) -> Measured:
    """Counts from the first PUT to the last answer: obstore, `store_concurrency` in flight, the pipeline's objects.

    Leaves out rendering and hashing; Kafka and PostgreSQL are idle.
    """
    measured, _ = run_task(world, "raw-put", files)
    require(len(proofs.etags(world)), files, "objects in the bucket")
    return measured


@arm("raw get", "limit", 4_000)
def get(world: IsolatedPipeline, files: int) -> Measured:
    """Counts from the first GET to the last body: obstore, as many in flight as `verify` has, the pipeline's objects.

    Leaves out putting them there; Kafka and PostgreSQL are idle.
    """
    measured, found = run_task(world, "raw-get", files)
    stored = sum(entry.size for page in list_objects(world.settings) for entry in page)
    require(found, {"event": "done", "objects": files, "bytes": stored}, "bytes that were read")
    return measured


@arm("raw insert (unnest)", "limit", 20_000)
def insert_unnest(world: IsolatedPipeline, files: int) -> Measured:
    """Counts from the first statement to the last commit: a file's row and its outbox row, 500 a transaction.

    Includes what the table's indexes and triggers cost. Leaves out making the parameters.
    """
    measured, _ = run_task(world, "raw-insert-unnest", files)
    _both_rows(world, files)
    return measured


@arm("raw insert (copy)", "limit", 20_000)
def insert_copy(world: IsolatedPipeline, files: int) -> Measured:
    """Counts the same rows by COPY, with their ids drawn from the sequence first."""
    measured, _ = run_task(world, "raw-insert-copy", files)
    _both_rows(world, files)
    return measured


@arm("raw update (unnest)", "limit", 20_000)
def update(world: IsolatedPipeline, files: int) -> Measured:
    """Counts from the first statement to the last commit: every column that the sync sets, `sync_batch` a transaction.

    Leaves out reading events, the rule by which one supersedes another, and positions.
    """
    return _updated(world, files, "raw-update-unnest")


@arm("raw update (json)", "limit", 20_000)
def update_json(world: IsolatedPipeline, files: int) -> Measured:
    """Counts the same with a batch as one JSON parameter, encoded on the way, instead of an array for each column."""
    return _updated(world, files, "raw-update-json")


def _updated(world: IsolatedPipeline, files: int, task: str) -> Measured:
    backlog.insert_pending_rows(world, files)
    world.vacuum("files")
    measured, _ = run_task(world, task, files)
    done = "SELECT count(*) FROM files WHERE status = 'completed' AND s3_location IS NOT NULL AND sha256 IS NOT NULL"
    require(world.scalar(done), files, "completed rows")
    return measured


@arm("raw claim", "limit", 20_000)
def claim(world: IsolatedPipeline, files: int) -> Measured:
    """Counts `UPDATE … RETURNING` of the outbox with what each message needs, then DELETE: `relay_batch` at a time.

    Leaves out producing, publish numbers without gaps, the lease and the record of publications.
    """
    backlog.insert_requests(world, files)
    world.vacuum("files", "outbox")
    measured, found = run_task(world, "raw-claim", files)
    require(found["claimed"], files, "rows that were claimed")
    require(world.scalar("SELECT count(*) FROM outbox"), 0, "rows left in the outbox")
    return measured


def _both_rows(world: IsolatedPipeline, files: int) -> None:
    require(world.scalar("SELECT count(*) FROM files"), files, "rows in files")
    joined = "SELECT count(*) FROM outbox JOIN files ON files.id = file_id AND publish_number IS NULL"
    require(world.scalar(joined), files, "outbox rows with their file")
