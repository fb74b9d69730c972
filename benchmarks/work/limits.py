"""The raw limits: each task does the same as the pipeline with one client, as fast as possible, and nothing else.

Most of their memory is records and parameters that were built before the measurement.
"""

import asyncio
from collections.abc import Generator, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
import obstore
from confluent_kafka import Consumer, Producer, TopicPartition
from obstore.store import S3Store

from benchmarks import requests
from benchmarks.work import drivers
from filemill.adapters.s3.store import AT_ONCE_BYTES
from filemill.config.settings import Settings
from filemill.domain.content import CONTENT_TYPE, render, sha256_hex
from filemill.domain.files import object_key, truncate_to_milliseconds
from filemill.domain.messages import new_traceparent
from filemill.verification.rows import DOWNLOADS

Work = Generator[None, None, dict[str, int] | None]
FLUSH_SECONDS = 120.0
CONNECT_SECONDS = 10.0


def produce(settings: Settings, files: int) -> Work:
    """`Producer.produce` in round robin, and a flush."""
    producer = Producer(drivers.producer_properties(settings))
    records = list(requests.create_records(requests.creates(files)))
    producer.list_topics(settings.topic_create, timeout=CONNECT_SECONDS)
    yield
    for number, (value, headers) in enumerate(records):
        while True:
            try:
                producer.produce(
                    settings.topic_create, value, partition=number % settings.topic_partitions, headers=list(headers)
                )
                break
            except BufferError:
                producer.poll(0.01)
    left = producer.flush(FLUSH_SECONDS)
    assert not left, f"{left} records were not acknowledged"
    return None


def consume(settings: Settings, files: int) -> Work:
    """`Consumer.consume` of a full topic."""
    consumer = Consumer({**drivers.member_properties(settings, f"{settings.kafka_group}-raw")})
    parts = [TopicPartition(settings.topic_create, number, 0) for number in range(settings.topic_partitions)]
    consumer.list_topics(settings.topic_create, timeout=CONNECT_SECONDS)
    yield
    consumer.assign(parts)  # not earlier: assigned consumers fetch immediately
    records = size = 0
    while records < files:
        for message in consumer.consume(500, timeout=0.1):
            if message.error() is None:
                records += 1
                size += len(message.value() or b"")
    return {"records": records, "bytes": size}


def put(settings: Settings, files: int) -> Work:
    """`obstore.put_async`, with as many in flight as one processor."""
    store, objects = drivers.s3_by_obstore(settings), _objects(files)
    yield
    with drivers.uvloop_runner() as runner:
        runner.run(_put(store, objects, settings.store_concurrency))
    return None


def get(settings: Settings, files: int) -> Work:
    """`obstore.get_range_async` of stored objects, with as many in flight as `verify`."""
    store, objects = drivers.s3_by_obstore(settings), _objects(files)
    with drivers.uvloop_runner() as runner:
        runner.run(_put(store, objects, settings.store_concurrency))
        yield
        found = runner.run(_get(store, objects))
    return {"objects": files, "bytes": found}


def _objects(files: int) -> list[tuple[str, bytes, dict[str, str]]]:
    """Key, body and attributes of the pipeline's objects."""
    objects = []
    for message in requests.creates(files):
        body = render(message.title, message.description, message.timestamp)
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        attributes = {"Content-Type": CONTENT_TYPE, "processed-at": stamp, "sha256": sha256_hex(body)}
        objects.append((object_key(message.file_id, message.timestamp), body, attributes))
    return objects


async def _put(store: S3Store, objects: Iterable[tuple[str, bytes, dict[str, str]]], in_flight: int) -> None:
    waiting = iter(objects)

    async def uploader() -> None:
        for key, body, attributes in waiting:
            await obstore.put_async(store, key, body, attributes=attributes, use_multipart=False)

    await asyncio.gather(*(uploader() for _ in range(in_flight)))


async def _get(store: S3Store, objects: Iterable[tuple[str, bytes, dict[str, str]]]) -> int:
    waiting = iter(objects)

    async def downloader() -> int:
        received = 0
        for key, *_ in waiting:
            received += len(await obstore.get_range_async(store, key, start=0, length=AT_ONCE_BYTES))
        return received

    return sum(await asyncio.gather(*(downloader() for _ in range(DOWNLOADS))))


def insert_unnest(settings: Settings, files: int) -> Work:
    """A file's row and its outbox row by `INSERT … SELECT FROM unnest`, one batch per transaction."""
    connection = drivers.postgres(settings)
    batches = [
        ([file.title for file in batch], [file.description for file in batch], [new_traceparent() for _ in batch])
        for batch in requests.batched(requests.files(files))
    ]
    yield
    for titles, descriptions, traces in batches:
        with connection.transaction():
            now = truncate_to_milliseconds(datetime.now(UTC))
            rows = connection.execute(
                "INSERT INTO files (title, description, created_at) "
                "SELECT title, description, %s FROM unnest(%s::text[], %s::text[]) AS given (title, description) "
                "RETURNING id",
                (now, titles, descriptions),
            ).fetchall()
            connection.execute(
                "INSERT INTO outbox (file_id, run, traceparent) "
                "SELECT id, 1, trace FROM unnest(%s::bigint[], %s::text[]) AS given (id, trace)",
                ([row[0] for row in rows], traces),
            )
    return None


def insert_copy(settings: Settings, files: int) -> Work:
    """The same rows by COPY, with ids from the sequence, one batch per transaction."""
    connection = drivers.postgres(settings)
    batches = [
        [(file.title, file.description, new_traceparent()) for file in batch]
        for batch in requests.batched(requests.files(files))
    ]
    yield
    for batch in batches:
        with connection.transaction(), connection.cursor() as cursor:
            now = truncate_to_milliseconds(datetime.now(UTC))
            cursor.execute(
                "SELECT nextval(pg_get_serial_sequence('files', 'id')) FROM generate_series(1, %s)", (len(batch),)
            )
            ids = [row[0] for row in cursor.fetchall()]
            with cursor.copy("COPY files (id, title, description, created_at) FROM STDIN") as copy:
                for file_id, (title, description, _) in zip(ids, batch, strict=True):
                    copy.write_row((file_id, title, description, now))
            with cursor.copy("COPY outbox (file_id, run, traceparent) FROM STDIN") as copy:
                for file_id, (_, _, trace) in zip(ids, batch, strict=True):
                    copy.write_row((file_id, 1, trace))
    return None


def update(settings: Settings, files: int) -> Work:
    """Complete pending rows by `UPDATE … FROM unnest`, all columns of the sync, one batch per transaction."""
    connection = drivers.postgres(settings)
    changes = [requests.created(message, 0, message.file_id) for message in requests.creates(files)]
    batches: list[tuple[Any, ...]] = [
        (
            [change.file_id for change in batch],
            [change.s3_location for change in batch],
            [change.sha256 for change in batch],
            [change.size for change in batch],
            [change.offset for change in batch],
            [change.started_at for change in batch],
            [change.timestamp for change in batch],
        )
        for batch in requests.batched(changes, settings.sync_batch)
    ]
    yield
    for batch in batches:
        with connection.transaction():
            connection.execute(
                """
                UPDATE files SET status = 'completed', updated_at = now(), s3_location = location, sha256 = hash,
                    size = given.size, worker_id = 'bench', kafka_partition = 0, kafka_offset = place, attempt = 1,
                    started_at = began, finished_at = ended
                FROM unnest(%s::bigint[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::timestamptz[],
                            %s::timestamptz[]) AS given (id, location, hash, size, place, began, ended)
                WHERE files.id = given.id
                """,
                batch,
            )
    return None


def update_json(settings: Settings, files: int) -> Work:
    """The same by `UPDATE … FROM json_to_recordset`: one parameter per batch instead of one per column."""
    connection = drivers.postgres(settings)
    changes = [requests.created(message, 0, message.file_id) for message in requests.creates(files)]
    batches = list(requests.batched([change.status_update() for change in changes], settings.sync_batch))
    yield
    for batch in batches:
        with connection.transaction():
            connection.execute(
                """
                UPDATE files SET status = 'completed', updated_at = now(), s3_location = given.s3_location,
                    sha256 = given.sha256, size = given.size, worker_id = 'bench', kafka_partition = 0,
                    kafka_offset = given."offset", attempt = 1, started_at = given.started_at, finished_at = given.at
                FROM json_to_recordset(%s::json) AS given (file_id bigint, s3_location text, sha256 text, size bigint,
                     "offset" bigint, started_at timestamptz, at timestamptz)
                WHERE files.id = given.file_id
                """,
                (msgspec.json.encode(batch).decode(),),
            )
    return None


def claim_and_delete(settings: Settings, files: int) -> Work:
    """Claim outbox rows by `UPDATE … RETURNING`, then delete them: two transactions per batch."""
    connection = drivers.postgres(settings)
    yield
    claimed = 0
    while claimed < files:
        with connection.transaction():
            rows = connection.execute(
                """
                UPDATE outbox SET publish_number = outbox.id, partition = outbox.id %% %s FROM files
                WHERE files.id = outbox.file_id AND outbox.id IN (
                    SELECT id FROM outbox WHERE publish_number IS NULL ORDER BY id LIMIT %s FOR UPDATE SKIP LOCKED
                )
                RETURNING outbox.id, publish_number, partition, file_id, outbox.run, title, description, created_at,
                          traceparent
                """,
                (settings.topic_partitions, settings.relay_batch),
            ).fetchall()
        with connection.transaction():
            connection.execute("DELETE FROM outbox WHERE id = ANY(%s)", ([row[0] for row in rows],))
        claimed += len(rows)
    return {"claimed": claimed}
