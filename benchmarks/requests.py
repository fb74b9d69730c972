"""The requests of all arms: the same titles, descriptions, records and bytes."""

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from filemill.domain.content import render, sha256_hex
from filemill.domain.files import NewFile, new_file, object_key, truncate_to_milliseconds
from filemill.domain.messages import FileCreate, FileCreated, Headers, create_headers, encode, new_traceparent

DESCRIPTION = "Requested by a benchmark, with one line of text of a typical length."
# Requests per transaction.
BATCH = 500

T = TypeVar("T")


def files(count: int) -> list[NewFile]:
    """New requests."""
    return [new_file(f"Benchmark file {number}", DESCRIPTION) for number in range(count)]


def creates(count: int, first_id: int = 1) -> list[FileCreate]:
    """Messages of `file.create` with ids from `first_id`."""
    now = truncate_to_milliseconds(datetime.now(UTC))
    return [
        FileCreate(first_id + number, file.title, file.description, now) for number, file in enumerate(files(count))
    ]


def create_records(messages: list[FileCreate]) -> Iterator[tuple[bytes, Headers]]:
    """Value and headers of each message, as the relay builds them."""
    for number, message in enumerate(messages, start=1):
        yield encode(message), create_headers(number, 1, new_traceparent())


def created(message: FileCreate, partition: int, offset: int) -> FileCreated:
    """The result that a processor publishes for a completed file."""
    body = render(message.title, message.description, message.timestamp)
    now = truncate_to_milliseconds(datetime.now(UTC))
    return FileCreated(
        file_id=message.file_id,
        s3_location=object_key(message.file_id, message.timestamp),
        status="completed",
        timestamp=now,
        run=1,
        sha256=sha256_hex(body),
        size=len(body),
        worker_id="bench",
        partition=partition,
        offset=offset,
        attempt=1,
        started_at=now,
        upload_ms=1.0,
        stage_ms={"read": 0.1, "work": 0.0, "render": 0.1, "upload": 1.0},
    )


def batched(items: Sequence[T], size: int = BATCH) -> Iterator[list[T]]:
    """The items in batches."""
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
