"""FastStream (confluent broker) as its documentation recommends for many messages, at least once.

Subscribers and publishers use `batch=True`, typed pydantic messages, and `AckPolicy.NACK_ON_ERROR` with a group, which
is its documented way to retry. Handlers return the messages to publish. A handler processes all files of its batch
concurrently: on threads with boto3, which blocks, and on the loop with obstore. The API inserts and publishes in
batches. The status consumer updates a batch of rows in one statement. FastStream's own partitioner is used, and its log
of each message is off.
"""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from datetime import UTC, datetime
from typing import Any, Literal

import obstore
import psycopg
from faststream import AckPolicy, FastStream
from faststream.confluent import KafkaBroker
from pydantic import BaseModel

from benchmarks import requests
from benchmarks.work import drivers
from filemill.config.settings import Settings
from filemill.domain.content import CONTENT_TYPE, render
from filemill.domain.files import object_key, truncate_to_milliseconds

Put = Callable[[str, bytes], Awaitable[object]]


class CreateRequest(BaseModel):
    """`file.create`."""

    fileId: int  # noqa: N815 - the field's name on the topic
    title: str
    description: str
    timestamp: datetime


class CreateResult(BaseModel):
    """`file.created`."""

    fileId: int  # noqa: N815
    s3Location: str  # noqa: N815
    status: Literal["completed", "failed"]
    timestamp: datetime


def api(settings: Settings, files: int) -> Generator[None, None, None]:
    """Accept requests in batches: rows in one statement, then their messages in one publication."""
    connection = drivers.postgres(settings)
    batches = list(requests.batched(requests.files(files)))
    broker = _broker(settings)
    publisher = broker.publisher(settings.topic_create, batch=True)

    async def accept_all() -> None:
        for batch in batches:
            now = truncate_to_milliseconds(datetime.now(UTC))
            with connection.transaction():
                rows = connection.execute(
                    "INSERT INTO reference_files (title, description, created_at) "
                    "SELECT title, description, %s FROM unnest(%s::text[], %s::text[]) AS given (title, description) "
                    "RETURNING id, title, description",
                    (now, [file.title for file in batch], [file.description for file in batch]),
                ).fetchall()
            await publisher.publish(
                *(CreateRequest(fileId=row[0], title=row[1], description=row[2], timestamp=now) for row in rows)
            )

    with drivers.uvloop_runner() as runner:
        runner.run(broker.start())
        yield
        runner.run(accept_all())


def service_boto3(settings: Settings, _files: int) -> None:
    """A file service with boto3, on asyncio's threads."""
    client = drivers.s3_by_boto3(settings)

    def put(key: str, body: bytes) -> object:
        return client.put_object(Bucket=settings.s3_bucket, Key=key, Body=body, ContentType=CONTENT_TYPE)

    _serve(settings, lambda key, body: asyncio.to_thread(put, key, body))


def service_obstore(settings: Settings, _files: int) -> None:
    """A file service with obstore, with as many uploads in flight as one processor."""
    store = drivers.s3_by_obstore(settings)
    room = asyncio.Semaphore(settings.store_concurrency)

    async def put(key: str, body: bytes) -> object:
        async with room:
            return await obstore.put_async(
                store, key, body, attributes={"Content-Type": CONTENT_TYPE}, use_multipart=False
            )

    _serve(settings, put)


def status(settings: Settings, _files: int) -> None:
    """The status consumer: one statement per batch of results."""
    broker = _broker(settings)
    parameters = drivers.postgres_parameters(settings)
    connections: list[psycopg.AsyncConnection[tuple[Any, ...]]] = []

    @broker.subscriber(
        settings.topic_created,
        group_id=f"{settings.kafka_group}-status",
        batch=True,
        max_records=requests.BATCH,
        ack_policy=AckPolicy.NACK_ON_ERROR,
        auto_offset_reset="earliest",
        on_assign=drivers.print_assigned,
    )
    async def record(events: list[CreateResult]) -> None:
        if not connections:
            connections.append(await psycopg.AsyncConnection.connect(**parameters))
        async with connections[0].transaction():
            await connections[0].execute(
                "UPDATE reference_files SET status = given.status, s3_location = location, updated_at = now() "
                "FROM unnest(%s::bigint[], %s::text[], %s::text[]) AS given (id, status, location) "
                "WHERE reference_files.id = given.id",
                (
                    [event.fileId for event in events],
                    [event.status for event in events],
                    [event.s3Location for event in events],
                ),
            )

    with drivers.uvloop_runner() as runner:
        runner.run(FastStream(broker, logger=None).run())


def _serve(settings: Settings, put: Put) -> None:
    broker = _broker(settings)

    async def one(request: CreateRequest) -> CreateResult:
        key = object_key(request.fileId, request.timestamp)
        await put(key, render(request.title, request.description, request.timestamp))
        return CreateResult(fileId=request.fileId, s3Location=key, status="completed", timestamp=datetime.now(UTC))

    @broker.publisher(settings.topic_created, batch=True)
    @broker.subscriber(
        settings.topic_create,
        group_id=settings.kafka_group,
        batch=True,
        max_records=requests.BATCH,
        ack_policy=AckPolicy.NACK_ON_ERROR,
        auto_offset_reset="earliest",
        on_assign=drivers.print_assigned,
    )
    async def make(wanted: list[CreateRequest]) -> tuple[CreateResult, ...]:
        return tuple(await asyncio.gather(*(one(request) for request in wanted)))

    with drivers.uvloop_runner() as runner:
        runner.run(FastStream(broker, logger=None).run())


def _broker(settings: Settings) -> KafkaBroker:
    return KafkaBroker(
        settings.kafka_broker, acks="all", enable_idempotence=True, allow_auto_create_topics=False, logger=None
    )
