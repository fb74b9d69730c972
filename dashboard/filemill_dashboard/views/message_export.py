"""Kafka records as JSON lines: JSON values as JSON, other values as text. Pure."""

import json
from collections.abc import Sequence

import msgspec

from filemill.adapters.kafka.topic_browser import BrowsedRecord


def as_json_lines(records: Sequence[BrowsedRecord]) -> bytes:
    """One JSON document per record, in the given order."""
    return b"".join(_line(record) for record in records)


def _line(record: BrowsedRecord) -> bytes:
    value: object = None
    if record.value is not None:
        try:
            value = json.loads(record.value)
        except (ValueError, RecursionError):
            value = record.value.decode(errors="backslashreplace")
    document = {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        "key": record.key,
        "headers": record.headers,
        "value": value,
    }
    if record.headers_error is not None:
        document["headersError"] = record.headers_error
    if record.invalid_timestamp is not None:
        document["timestamp"] = record.invalid_timestamp
    try:
        return msgspec.json.encode(document) + b"\n"
    except (ValueError, TypeError, OverflowError):  # a lone surrogate, a number beyond 64 bits
        return json.dumps(document).encode() + b"\n"
