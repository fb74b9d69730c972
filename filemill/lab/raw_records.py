"""Produces records of arbitrary bytes through librdkafka, because its Python client only writes UTF-8 header names."""

import ctypes
import itertools
from collections.abc import Iterable, Sequence
from importlib.metadata import files
from typing import Any, NamedTuple

from filemill.config.settings import Settings

FLUSH_MILLISECONDS = 20_000
_PRODUCER = 0
_COPY = 0x2
# rd_kafka_vtype_t
_TOPIC, _PARTITION, _VALUE, _KEY, _OPAQUE, _FLAGS, _TIMESTAMP, _HEADERS = 1, 3, 4, 5, 6, 7, 8, 10

RawHeaders = Sequence[tuple[bytes, bytes | None]]


class RawRecord(NamedTuple):
    """A record. A `timestamp_ms` of 0 means now."""

    value: bytes | None
    key: bytes | None = None
    headers: RawHeaders = ()
    timestamp_ms: int = 0
    partition: int = 0


class _Bytes(ctypes.Structure):
    _fields_ = (("data", ctypes.c_char_p), ("size", ctypes.c_size_t))


class _Field(ctypes.Union):
    _fields_ = (
        ("text", ctypes.c_char_p),
        ("i32", ctypes.c_int32),
        ("i64", ctypes.c_int64),
        ("memory", _Bytes),
        ("pointer", ctypes.c_void_p),
        ("padding", ctypes.c_char * 64),
    )


class _Argument(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int), ("field", _Field))


class _Message(ctypes.Structure):
    _fields_ = (
        ("error", ctypes.c_int),
        ("topic", ctypes.c_void_p),
        ("partition", ctypes.c_int32),
        ("payload", ctypes.c_void_p),
        ("length", ctypes.c_size_t),
        ("key", ctypes.c_void_p),
        ("key_length", ctypes.c_size_t),
        ("offset", ctypes.c_int64),
        ("opaque", ctypes.c_void_p),
    )


_OnDelivery = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.POINTER(_Message), ctypes.c_void_p)


def _library() -> ctypes.CDLL:
    """The librdkafka in the wheel of confluent-kafka."""
    (path,) = (file for file in files("confluent-kafka") or [] if file.match("*.libs/librdkafka-*"))
    library = ctypes.CDLL(str(path.locate()))
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ssize_t
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (ctypes.c_int, [pointer, text, text, text, ctypes.c_size_t]),
        "rd_kafka_conf_set_dr_msg_cb": (None, [pointer, _OnDelivery]),
        "rd_kafka_new": (pointer, [ctypes.c_int, pointer, text, ctypes.c_size_t]),
        "rd_kafka_headers_new": (pointer, [ctypes.c_size_t]),
        "rd_kafka_header_add": (ctypes.c_int, [pointer, text, size, text, size]),
        "rd_kafka_produceva": (pointer, [pointer, pointer, ctypes.c_size_t]),
        "rd_kafka_error_string": (text, [pointer]),
        "rd_kafka_flush": (ctypes.c_int, [pointer, ctypes.c_int]),
        "rd_kafka_destroy": (None, [pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def publish_raw(settings: Settings, topic: str, records: Iterable[RawRecord]) -> list[int | None]:
    """Produce records, wait for the acknowledgements, and return the offsets; None for a rejected record."""
    library, message = _library(), ctypes.create_string_buffer(512)
    offsets: dict[int, int | None] = {}

    def note(_client: int, delivered: Any, _opaque: int) -> None:  # noqa: ANN401 - a pointer of ctypes
        message = delivered.contents
        offsets[message.opaque - 1] = None if message.error else message.offset

    on_delivery = _OnDelivery(note)  # referenced until the producer is destroyed
    config = library.rd_kafka_conf_new()
    given = {"bootstrap.servers": settings.kafka_broker, "message.max.bytes": "2097152", "message.timeout.ms": "15000"}
    for name, value in given.items():
        library.rd_kafka_conf_set(config, name.encode(), value.encode(), message, len(message))
    library.rd_kafka_conf_set_dr_msg_cb(config, on_delivery)
    producer = library.rd_kafka_new(_PRODUCER, config, message, len(message))
    assert producer, message.value
    try:
        count = 0
        for number, record in enumerate(records):
            count += 1
            _produce(library, producer, topic, record, number)
        left = library.rd_kafka_flush(producer, FLUSH_MILLISECONDS)
        assert left == 0, f"flushing ended with the error {left}"
        return [offsets[number] for number in range(count)]
    finally:
        library.rd_kafka_destroy(producer)


def _produce(library: ctypes.CDLL, producer: int, topic: str, record: RawRecord, number: int) -> None:
    headers = library.rd_kafka_headers_new(len(record.headers))
    for name, value in record.headers:
        library.rd_kafka_header_add(headers, name, len(name), value, len(value or b""))
    arguments = [
        _Argument(_TOPIC, _Field(text=topic.encode())),
        _Argument(_PARTITION, _Field(i32=record.partition)),
        _Argument(_FLAGS, _Field(i32=_COPY)),
        _Argument(_VALUE, _Field(memory=_Bytes(record.value, len(record.value or b"")))),
        _Argument(_KEY, _Field(memory=_Bytes(record.key, len(record.key or b"")))),
        _Argument(_HEADERS, _Field(pointer=headers)),
        _Argument(_OPAQUE, _Field(pointer=number + 1)),
        *itertools.repeat(_Argument(_TIMESTAMP, _Field(i64=record.timestamp_ms)), int(record.timestamp_ms != 0)),
    ]
    array = (_Argument * len(arguments))(*arguments)
    error = library.rd_kafka_produceva(producer, array, len(arguments))
    assert not error, library.rd_kafka_error_string(error)
