"""Proves from outside, by the servers, that an arm did its work: no arm may be fast because it does nothing."""

import hashlib
import time
from collections.abc import Callable, Iterable
from datetime import datetime

import msgspec
import sqlalchemy as sa
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from benchmarks.servers import POLL_SECONDS, IsolatedPipeline
from filemill.adapters.kafka.topic_reader import KafkaTopicReader
from filemill.adapters.s3.admin import s3_client
from filemill.domain.content import render
from filemill.domain.files import object_key

ANSWER_SECONDS = 10.0
SILENT_SECONDS = 20.0
READ_RECORDS = 5000
READ_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 0.25

# A request: id, title, description, moment.
Request = tuple[int, str, str, datetime]
# The bytes of a request's object: title, description, moment.
Make = Callable[[str, str, datetime], bytes]


class WorkIncomplete(Exception):
    """An arm did not do all its work, or did it wrong. Its measurement is invalid."""


def require(found: object, wanted: object, what: str) -> None:
    """Raise WorkIncomplete unless the two are equal."""
    if found != wanted:
        raise WorkIncomplete(f"{what}: {found}, not {wanted}")


class TopicEnds:
    """Polls the number of records of a topic over one connection."""

    def __init__(self, pipeline: IsolatedPipeline, topic: str) -> None:
        self._client = AdminClient({"bootstrap.servers": pipeline.settings.kafka_broker})
        known = self._client.list_topics(topic, timeout=ANSWER_SECONDS).topics[topic].partitions
        newest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        self._asked = {TopicPartition(topic, number): newest for number in known}

    def records(self) -> int:
        """The sum of the end offsets."""
        answers = self._client.list_offsets(self._asked, request_timeout=ANSWER_SECONDS)
        return sum(int(future.result().offset) for future in answers.values())

    def wait_for(self, records: int, seconds: float) -> None:
        """Wait for this number of records; polls rarely while many are missing. Raises TimeoutError."""
        began = time.monotonic()
        while (found := self.records()) < records:
            spent = time.monotonic() - began
            if spent > seconds:
                raise TimeoutError(f"after {seconds:g} s still not {records} records, but {found}")
            left = spent * (records - found) / found if found else 0.0
            time.sleep(min(max(left / 2, POLL_SECONDS), LONGEST_PAUSE_SECONDS))


def count_records(pipeline: IsolatedPipeline, topic: str) -> int:
    """The number of records of a topic."""
    return TopicEnds(pipeline, topic).records()


def completed_ids(pipeline: IsolatedPipeline) -> set[int]:
    """The ids of the completed files on `file.created`."""
    topic = pipeline.settings.topic_created
    wanted = count_records(pipeline, topic)
    reader = KafkaTopicReader(pipeline.settings, [topic], "bench-proof")
    ids: set[int] = set()
    read, silent = 0, 0.0
    try:
        reader.refresh({})
        while read < wanted and silent < SILENT_SECONDS:
            found = reader.read(READ_RECORDS, READ_SECONDS)
            silent = 0.0 if found else silent + READ_SECONDS
            read += len(found)
            events = [msgspec.json.decode(record.value or b"{}") for record in found]
            ids.update(event["fileId"] for event in events if event["status"] == "completed")
    finally:
        reader.close()
    require(read, wanted, f"records of {topic} that were readable")
    return ids


def check_objects(pipeline: IsolatedPipeline, wanted: Iterable[Request], make: Make = render) -> None:
    """Check that exactly these files have objects, each with the bytes of `make`, by the MD5 of the listing."""
    expected = {object_key(row[0], row[3]): hashlib.md5(make(*row[1:])).hexdigest() for row in wanted}  # noqa: S324
    found = object_hashes(pipeline)
    require(len(found), len(expected), "objects in the bucket")
    differ = [key for key, etag in found.items() if expected.get(key) != etag]
    # Some services have other ETags than the MD5. Then compare the bytes.
    client = s3_client(pipeline.settings)
    bodies = {key: client.get_object(Bucket=pipeline.settings.s3_bucket, Key=key)["Body"].read() for key in differ}
    wrong = [key for key, body in bodies.items() if expected.get(key) != hashlib.md5(body).hexdigest()]  # noqa: S324
    require(wrong[:3], [], "objects that differ from the request")


def object_hashes(pipeline: IsolatedPipeline) -> dict[str, str]:
    """The ETag of each object in the listing, usually its MD5."""
    pages = s3_client(pipeline.settings).get_paginator("list_objects_v2").paginate(Bucket=pipeline.settings.s3_bucket)
    return {entry["Key"]: entry["ETag"].strip('"') for page in pages for entry in page.get("Contents", [])}


def check_completed(
    pipeline: IsolatedPipeline, files: int, table: str = "files", since_id: int = 0, make: Make = render
) -> None:
    """Check that all rows with ids beyond `since_id` are completed, and that their objects are in the bucket."""
    query = f"SELECT id, title, description, created_at, status, s3_location FROM {table} WHERE id > :since"  # noqa: S608
    with pipeline.engine.connect() as connection:
        rows = connection.execute(sa.text(query), {"since": since_id}).all()
    require(len(rows), files, f"rows in {table}")
    require(sum(row.status == "completed" for row in rows), files, f"completed rows in {table}")
    require([row.id for row in rows if row.s3_location != object_key(row.id, row.created_at)][:3], [], "wrong keys")
    check_objects(pipeline, ((row.id, row.title, row.description, row.created_at) for row in rows), make)
