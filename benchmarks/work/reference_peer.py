"""The reference design in plain confluent-kafka: one file at a time, one commit per record, one UPDATE per event.

Written from its architecture document, at least once. The API inserts a row and produces. Each service takes one
message, stores the object, waits until the result is acknowledged, commits that offset, and takes the next. The API's
consumer updates one row per event and commits. In its favour, HTTP is left out, the simulated minute is zero, and the
API handles eight requests concurrently, as Node would.
"""

import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import msgspec
import obstore
import psycopg
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from benchmarks import requests
from benchmarks.work import drivers
from filemill.config.settings import Settings
from filemill.domain.content import CONTENT_TYPE, render
from filemill.domain.files import NewFile, iso_milliseconds, object_key, truncate_to_milliseconds
from filemill.domain.messages import FileCreate, decode, encode

USERS = 8
POLL_SECONDS = 0.5
SEND_SECONDS = 30.0

Store = Callable[[str, bytes], object]
Handler = Callable[[Message], None]


def api(settings: Settings, files: int) -> Generator[None, None, None]:
    """`POST /files` without HTTP: insert a row, produce a message, and wait for both."""
    producer = Producer(drivers.producer_properties(settings, linger_ms=0))
    producer.list_topics(settings.topic_create, timeout=SEND_SECONDS)
    asked = requests.files(files)
    own = threading.local()
    over = threading.Event()

    def connect() -> None:
        own.connection = drivers.postgres(settings)

    def accept(file: NewFile) -> None:
        connection: psycopg.Connection[tuple[Any, ...]] = own.connection
        now = truncate_to_milliseconds(datetime.now(UTC))
        with connection.transaction():
            row = connection.execute(
                "INSERT INTO reference_files (title, description, created_at) VALUES (%s, %s, %s) RETURNING id",
                (file.title, file.description, now),
            ).fetchone()
        assert row is not None
        sent: Future[None] = Future()

        def on_delivery(error: object, _message: Message) -> None:
            sent.set_result(None) if error is None else sent.set_exception(RuntimeError(str(error)))

        message = FileCreate(row[0], file.title, file.description, now)
        producer.produce(
            settings.topic_create,
            encode(message),
            partition=row[0] % settings.topic_partitions,  # records without a key go round robin
            on_delivery=on_delivery,
        )
        sent.result(SEND_SECONDS)

    def collect() -> None:
        while not over.is_set():
            producer.poll(0.1)

    poller = threading.Thread(target=collect, daemon=True)
    poller.start()
    with ThreadPoolExecutor(USERS, initializer=connect) as pool:
        list(pool.map(lambda _: None, range(USERS)))
        yield
        list(pool.map(accept, asked))
    over.set()
    poller.join()


def service_boto3(settings: Settings, _files: int) -> None:
    """A file service with boto3."""
    client = drivers.s3_by_boto3(settings)

    def put(key: str, body: bytes) -> object:
        return client.put_object(Bucket=settings.s3_bucket, Key=key, Body=body, ContentType=CONTENT_TYPE)

    _serve(settings, put)


def service_obstore(settings: Settings, _files: int) -> None:
    """A file service with obstore."""
    store = drivers.s3_by_obstore(settings)

    def put(key: str, body: bytes) -> object:
        return obstore.put(store, key, body, attributes={"Content-Type": CONTENT_TYPE}, use_multipart=False)

    _serve(settings, put)


def status(settings: Settings, _files: int) -> None:
    """The API's consumer: one UPDATE per event."""
    connection = drivers.postgres(settings)

    def handle(message: Message) -> None:
        event = msgspec.json.decode(message.value() or b"")
        with connection.transaction():
            connection.execute(
                "UPDATE reference_files SET status = %s, s3_location = %s, updated_at = now() WHERE id = %s",
                (event["status"], event["s3Location"], event["fileId"]),
            )

    _each_message(settings, f"{settings.kafka_group}-status", settings.topic_created, handle)


def _serve(settings: Settings, put: Store) -> None:
    producer = Producer(drivers.producer_properties(settings, linger_ms=0))

    def handle(message: Message) -> None:
        request = decode(message.value(), FileCreate)
        key = object_key(request.file_id, request.timestamp)
        put(key, render(request.title, request.description, request.timestamp))
        now = iso_milliseconds(datetime.now(UTC))
        event = {"fileId": request.file_id, "s3Location": key, "status": "completed", "timestamp": now}
        _send(producer, settings.topic_created, msgspec.json.encode(event))

    _each_message(settings, settings.kafka_group, settings.topic_create, handle)


def _send(producer: Producer, topic: str, value: bytes) -> None:
    """Produce one record and wait for the acknowledgement."""
    failed: list[object] = []
    producer.produce(topic, value, on_delivery=lambda error, _: failed.append(error) if error is not None else None)
    left = producer.flush(SEND_SECONDS)
    if left or failed:
        raise RuntimeError(f"Kafka did not take a record: {failed or 'no answer'}")


def _each_message(settings: Settings, group: str, topic: str, handle: Handler) -> None:
    """Take a message, handle it, commit it, and repeat."""
    consumer = Consumer(drivers.member_properties(settings, group))
    consumer.subscribe([topic], on_assign=drivers.print_assigned)
    while True:
        message = consumer.poll(POLL_SECONDS)
        if message is None:
            continue
        error = message.error()
        if error is not None:
            if error.fatal():
                raise KafkaException(error)
            continue
        handle(message)
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        consumer.commit(offsets=[TopicPartition(topic, partition, offset + 1)], asynchronous=False)
