"""Prepares the input of an arm before its time is measured: rows, requests on the topic, results."""

from collections.abc import Iterable
from datetime import UTC, datetime

from confluent_kafka import Producer

from benchmarks import requests
from benchmarks.servers import IsolatedPipeline
from benchmarks.work import drivers
from filemill.adapters.postgres.outbox import insert_many
from filemill.domain.files import truncate_to_milliseconds
from filemill.domain.messages import FileCreate, Headers, encode

FLUSH_SECONDS = 300.0
# The pool ends statements after 30 s.
ROWS_AT_ONCE = 20_000


def insert_requests(pipeline: IsolatedPipeline, files: int) -> None:
    """Insert rows with their outbox rows, as a submission does."""
    for batch in requests.batched(requests.files(files)):
        with pipeline.engine.begin() as connection:
            insert_many(connection, batch)


def insert_pending_rows(pipeline: IsolatedPipeline, files: int) -> list[FileCreate]:
    """Insert pending rows without outbox rows; returns their requests. The ids are 1 to `files`."""
    now = truncate_to_milliseconds(datetime.now(UTC))
    messages = requests.creates(files)
    for batch in requests.batched(messages, ROWS_AT_ONCE):
        pipeline.execute(
            "INSERT INTO files (title, description, created_at) "
            "SELECT title, :description, :now FROM unnest(CAST(:titles AS text[])) AS given (title)",
            description=requests.DESCRIPTION,
            now=now,
            titles=[message.title for message in batch],
        )
    return [FileCreate(message.file_id, message.title, message.description, now) for message in messages]


def insert_completed_rows(pipeline: IsolatedPipeline, count: int) -> None:
    """Insert rows of completed files, as in a table that has been in use."""
    for begin in range(0, count, ROWS_AT_ONCE):
        pipeline.execute(
            """
            INSERT INTO files (title, description, status, s3_location, created_at, worker_id, kafka_partition,
                               kafka_offset, attempt, started_at, finished_at, sha256, size)
            SELECT 'Former file ' || number, :description, 'completed', 'file-' || number || '-0.txt',
                   now() - interval '1 day', 'former', number % 3, number / 3, 1, now() - interval '1 day',
                   now() - interval '1 day', md5(number::text) || md5(number::text), 200
            FROM generate_series(CAST(:begin AS bigint), CAST(:last AS bigint)) AS number
            """,
            description=requests.DESCRIPTION,
            begin=begin + 1,
            last=min(begin + ROWS_AT_ONCE, count),
        )
    pipeline.vacuum("files")


def publish_requests(pipeline: IsolatedPipeline, messages: list[FileCreate]) -> None:
    """Publish requests on `file.create`, in round robin."""
    publish(pipeline, pipeline.settings.topic_create, requests.create_records(messages))


def publish_results(pipeline: IsolatedPipeline, messages: list[FileCreate]) -> None:
    """Publish a completed result of each request on `file.created`, as processors do."""
    count = pipeline.settings.topic_partitions
    events = (requests.created(message, number % count, number // count) for number, message in enumerate(messages))
    publish(pipeline, pipeline.settings.topic_created, ((encode(event), []) for event in events))


def publish(pipeline: IsolatedPipeline, topic: str, records: Iterable[tuple[bytes, Headers]]) -> None:
    """Produce records in round robin and flush. Raises RuntimeError if some are not acknowledged."""
    producer = Producer(drivers.producer_properties(pipeline.settings))
    for number, (value, headers) in enumerate(records):
        while True:
            try:
                partition = number % pipeline.settings.topic_partitions
                producer.produce(topic, value, partition=partition, headers=list(headers))
                break
            except BufferError:
                producer.poll(0.01)
    if left := producer.flush(FLUSH_SECONDS):
        raise RuntimeError(f"{left} records were not acknowledged")
