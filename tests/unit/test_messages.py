"""Kafka messages: ours, those of clients of the reference design, and invalid ones."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemill.domain.files import FILE_ID_MAX, Status
from filemill.domain.messages import (
    RUN_HEADER,
    SEQUENCE_HEADER,
    TRACEPARENT_HEADER,
    FileCreate,
    FileCreated,
    FileProgress,
    create_headers,
    decode,
    decode_create,
    decode_created,
    encode,
    file_id_in,
    header,
    int_header,
    new_traceparent,
    valid_traceparent,
)
from filemill.domain.worker_commands import WorkerCommand, WorkerCommandKind, decode_command
from filemill.domain.worker_events import EventKind, WorkerEvent, decode_event
from filemill.errors import InvalidMessage

T0 = datetime(2026, 1, 4, 12, 0, tzinfo=UTC)
RUN_MAX = 2**31 - 1
DEEP = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def _json(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def _create(**fields: object) -> bytes:
    reference = {"fileId": 42, "title": "My File", "description": "Description", "timestamp": "2026-01-04T12:00:00Z"}
    return _json(**{**reference, **fields})


def _created(**fields: object) -> bytes:
    reference = {
        "fileId": 42,
        "s3Location": "file-42-1.txt",
        "status": "completed",
        "timestamp": "2026-01-04T12:01:00Z",
    }
    return _json(**{**reference, **fields})


def _without(value: bytes, name: str) -> bytes:
    document = json.loads(value)
    del document[name]
    return json.dumps(document).encode()


# --- round trips

_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_moments = st.integers(0, 200_000_000_000_000).map(
    lambda ms: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
)
_ids = st.integers(1, FILE_ID_MAX)
_runs = st.none() | st.integers(1, RUN_MAX)


@given(st.builds(FileCreate, _ids, _text, _text, _moments))
def test_a_request_survives_encoding_and_decoding(message: FileCreate) -> None:
    assert decode(encode(message), FileCreate) == message


@given(
    st.builds(
        FileCreated,
        file_id=_ids,
        s3_location=st.none() | _text,
        status=st.sampled_from(["completed", "failed"]),
        timestamp=_moments,
        run=_runs,
        sha256=st.none() | _text,
        size=st.none() | st.integers(0, 2**63 - 1),
        worker_id=st.none() | _text,
        partition=st.none() | st.integers(0, 2**31 - 1),
        offset=st.none() | st.integers(0, 2**63 - 1),
        attempt=st.none() | st.integers(0, 2**31 - 1),
        started_at=st.none() | _moments,
        error=st.none() | _text,
    )
)
def test_a_result_survives_encoding_and_decoding(message: FileCreated) -> None:
    assert decode(encode(message), FileCreated) == message


def test_progress_survives_encoding_and_decoding() -> None:
    message = FileProgress(
        file_id=1, run=2, worker_id="w", partition=0, offset=7, attempt=1, step=3, steps=6, timestamp=T0
    )
    assert decode(encode(message), FileProgress) == message
    change = message.status_update()
    assert (change.status, change.run, change.at, change.step) == (Status.PROCESSING, 2, T0, 3)


def test_a_request_has_the_form_of_the_reference_design() -> None:
    value = encode(FileCreate(42, "My File", "Description", T0))
    assert json.loads(value) == {
        "fileId": 42,
        "title": "My File",
        "description": "Description",
        "timestamp": "2026-01-04T12:00:00.000Z",
    }


def test_a_result_has_the_form_of_the_reference_design_and_more_fields() -> None:
    message = FileCreated(file_id=42, s3_location="k", status="completed", timestamp=T0, worker_id="w", started_at=T0)
    assert json.loads(encode(message)) == {
        "fileId": 42,
        "s3Location": "k",
        "status": "completed",
        "timestamp": "2026-01-04T12:00:00.000Z",
        "workerId": "w",
        "startedAt": "2026-01-04T12:00:00.000Z",
    }


def test_a_message_is_utf8_and_not_escaped() -> None:
    assert "文件 🎉".encode() in encode(FileCreate(1, "文件 🎉", "", T0))


def test_times_are_truncated_to_milliseconds() -> None:
    moment = T0.replace(microsecond=7_999).astimezone(timezone(timedelta(hours=2)))
    assert json.loads(encode(FileCreate(1, "t", "", moment)))["timestamp"] == "2026-01-04T12:00:00.007Z"


# --- a client of the reference design


def test_a_request_of_a_reference_client_is_read() -> None:
    assert decode_create(_create()) == FileCreate(42, "My File", "Description", T0)


def test_a_result_without_a_run_refers_to_the_current_run() -> None:
    message = decode_created(_created())
    change = message.status_update()
    assert (change.file_id, change.run, change.status) == (42, None, Status.COMPLETED)
    assert (change.s3_location, change.sha256, change.worker_id) == ("file-42-1.txt", None, None)
    assert change.at == T0 + timedelta(minutes=1)


@pytest.mark.parametrize("location", [None, "", "k"])
def test_a_failed_result_needs_no_location(location: str | None) -> None:
    assert decode_created(_created(status="failed", s3Location=location)).status_update().status is Status.FAILED
    assert decode_created(_without(_created(status="failed"), "s3Location")).status == "failed"


@pytest.mark.parametrize("extra", [{"priority": 1}, {"nested": {"a": [1, None]}}, {"file_id": 7}, {"": ""}])
def test_unknown_fields_are_ignored(extra: dict[str, object]) -> None:
    assert decode_create(_create(**extra)) == decode_create(_create())
    assert decode_created(_created(**extra)) == decode_created(_created())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2026-01-04T12:00:00.000Z", T0),
        ("2026-01-04T12:00:00+00:00", T0),
        ("2026-01-04T14:00:00+02:00", T0),
        ("2026-01-04 12:00:00Z", T0),
        ("2026-01-04T12:00:00", T0),
        ("2026-01-04T12:00:00.123456Z", T0.replace(microsecond=123_456)),
    ],
)
def test_times_are_read_in_the_forms_that_clients_write(written: str, meant: datetime) -> None:
    moment = decode_create(_create(timestamp=written)).timestamp
    assert moment == meant
    assert moment.utcoffset() == timedelta(0), "a time without a zone is UTC"


# --- what is neither

NEVER_READABLE: list[bytes | None] = [
    None,
    b"",
    b" ",
    b"{",
    b"not json",
    b"null",
    b"42",
    b"[]",
    b'"text"',
    b"{}",
    b"\xff\xfe{}",
    b"\xef\xbb\xbf{}",
    b"\x00",
    b'{"fileId":NaN}',
    DEEP,
]


@pytest.mark.parametrize("value", NEVER_READABLE)
@pytest.mark.parametrize(
    "read",
    [decode_create, decode_created, lambda value: decode(value, FileProgress), decode_event, decode_command],
    ids=["file.create", "file.created", "file.progress", "worker.events", "worker.commands"],
)
def test_other_values_raise_invalid_message_only(read: Callable[[bytes | None], object], value: bytes | None) -> None:
    with pytest.raises(InvalidMessage) as caught:
        read(value)
    assert str(caught.value).encode()
    assert len(str(caught.value)) < 500, "short enough for a dead letter and a log line"


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")))
def test_random_bytes_raise_invalid_message_only(value: bytes) -> None:
    for read in (decode_create, decode_created, decode_event, decode_command):
        with pytest.raises(InvalidMessage):
            read(value)
    file_id_in(value)


@pytest.mark.parametrize("name", ["fileId", "title", "description", "timestamp"])
def test_a_request_needs_all_four_fields_of_the_reference_design(name: str) -> None:
    with pytest.raises(InvalidMessage, match=name):
        decode_create(_without(_create(), name))


@pytest.mark.parametrize("name", ["fileId", "status", "timestamp"])
def test_a_result_needs_the_required_fields_of_the_reference_design(name: str) -> None:
    with pytest.raises(InvalidMessage, match=name):
        decode_created(_without(_created(), name))


BAD_IDS = [True, False, None, "42", 42.0, 1.5, 0, -1, FILE_ID_MAX + 1, 10**400, [42], {"id": 42}]


@pytest.mark.parametrize("file_id", BAD_IDS, ids=lambda value: repr(value)[:20])
def test_an_id_out_of_range_is_invalid(file_id: object) -> None:
    for value, read in ((_create(fileId=file_id), decode_create), (_created(fileId=file_id), decode_created)):
        with pytest.raises(InvalidMessage):
            read(value)
        assert file_id_in(value) is None


@pytest.mark.parametrize(
    "value",
    [
        _create(title=5),
        _create(title=None),
        _create(title=""),
        _create(title="a" * 256),
        _create(title="a\nb"),
        _create(title="a\x00b"),
        _create(description="a\x00b"),
        _create(description="a" * 65_537),
        _create(description=["a"]),
        _create(timestamp=1_767_528_000_000),
        _create(timestamp=True),
        _create(timestamp="yesterday"),
        _create(timestamp="2026-13-01T00:00:00Z"),
        _create(timestamp="2026-01-04"),
        _create(timestamp="0001-01-01T00:00:00+14:00"),
        _create(timestamp="9999-12-31T23:59:59-14:00"),
    ],
)
def test_the_file_id_of_a_request_beyond_the_limits_is_found(value: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode_create(value)
    assert file_id_in(value) == 42


@pytest.mark.parametrize("escape", [r"\ud800", r"\udc00", r"a\ud800b"])
def test_a_lone_surrogate_is_invalid(escape: str) -> None:
    for value in (_create(title="@"), _create(description="@")):
        with pytest.raises(InvalidMessage):
            decode_create(value.replace(b"@", escape.encode()))
    with pytest.raises(InvalidMessage):
        decode_created(_created(error="@").replace(b"@", escape.encode()))


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "done"},
        {"status": "pending"},
        {"status": True},
        {"s3Location": None},
        {"s3Location": ""},
        {"s3Location": "k" * 1025},
        {"s3Location": "a\x00b"},
        {"s3Location": 5},
        {"run": 0},
        {"run": -1},
        {"run": True},
        {"run": RUN_MAX + 1},
        {"partition": 2**31},
        {"partition": -1},
        {"offset": 2**63},
        {"attempt": 2**31},
        {"size": -1},
        {"size": 2**63},
        {"size": 1.5},
        {"workerId": "a\x00b"},
        {"error": "a\x00b"},
        {"sha256": 5},
        {"startedAt": "0001-01-01T00:00:00+14:00"},
        {"timestamp": "9999-12-31T23:59:59-14:00"},
    ],
    ids=repr,
)
def test_a_result_beyond_the_columns_ranges_is_invalid(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidMessage):
        decode_created(_created(**fields))


def test_progress_beyond_the_columns_ranges_is_invalid() -> None:
    fields = {
        "fileId": 1,
        "workerId": "w",
        "partition": 0,
        "offset": 0,
        "attempt": 1,
        "step": 0,
        "steps": 6,
        "timestamp": "2026-01-04T12:00:00Z",
    }
    assert decode(_json(**fields), FileProgress).steps == 6
    for name, value in (("step", 2**15), ("steps", 2**15), ("step", -1), ("offset", 2**63), ("workerId", None)):
        with pytest.raises(InvalidMessage):
            decode(_json(**{**fields, name: value}), FileProgress)


def test_a_long_error_is_truncated() -> None:
    change = decode_created(_created(status="failed", error="e" * 10_000)).status_update()
    assert change.error is not None
    assert len(change.error) == 2000


def test_the_file_id_of_an_invalid_request_is_found_if_it_is_readable() -> None:
    assert file_id_in(_json(fileId=7)) == 7
    assert file_id_in(_json(fileId=7, title=None, timestamp=[])) == 7
    for value in NEVER_READABLE:
        assert file_id_in(value) is None


def test_worker_events_are_read_and_invalid_times_are_rejected() -> None:
    said = {"kind": "heartbeat", "workerId": "w", "timestamp": "2026-01-04T12:00:00Z", "unknown": [1]}
    assert decode_event(_json(**said)) == WorkerEvent(kind=EventKind.HEARTBEAT, worker_id="w", timestamp=T0)
    for timestamp in ("2026-01-04T12:00:00", "0001-01-01T00:00:00+14:00", 5):
        with pytest.raises(InvalidMessage):
            decode_event(_json(**{**said, "timestamp": timestamp}))
    with pytest.raises(InvalidMessage):
        decode_event(_json(**{**said, "error": "a\x00b"}))


def test_worker_commands_are_read() -> None:
    told = _json(order="cancel", timestamp="2026-01-04T12:00:00Z", files=[[1, 1], [2, 3]])
    assert decode_command(told) == WorkerCommand(kind=WorkerCommandKind.CANCEL, timestamp=T0, files=[(1, 1), (2, 3)])
    for files in ([[1]], [[0, 1]], [[1, 0]], [["1", 1]], [[1, RUN_MAX + 1]]):
        with pytest.raises(InvalidMessage):
            decode_command(_json(order="cancel", timestamp="2026-01-04T12:00:00Z", files=files))


# --- headers


def test_the_headers_of_a_request_contain_sequence_run_and_trace() -> None:
    trace = new_traceparent()
    headers = create_headers(17, 2, trace)
    assert int_header(headers, SEQUENCE_HEADER) == 17
    assert int_header(headers, RUN_HEADER) == 2
    assert header(headers, TRACEPARENT_HEADER) == trace


def test_the_last_header_of_a_name_counts() -> None:
    assert header([("a", b"1"), ("b", b"x"), ("a", b"2"), ("a", None)], "a") == "2"
    assert header([("a", b"1")], "A") is None
    assert header(None, "a") is None


def test_a_header_that_is_not_utf8_is_still_text() -> None:
    assert header([("a", b"\xff")], "a") == "\ufffd"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"0",
        b"-1",
        b"+1",
        b" 1",
        b"1 ",
        b"1.0",
        b"1e3",
        b"0x1",
        b"one",
        "١".encode(),
        "²".encode(),
        b"\xff",
        b"1_000",
        b"9" * 19,
        b"1" * 20,
        b"1" * 5000,
        b"0" * 5000 + b"1",
    ],
)
def test_a_header_that_is_no_positive_number_in_range_is_ignored(raw: bytes) -> None:
    assert int_header([("n", raw)], "n") is None


def test_an_integer_header_has_the_range_of_its_column() -> None:
    assert int_header([("n", str(FILE_ID_MAX).encode())], "n") == FILE_ID_MAX
    assert int_header([("n", b"007")], "n") == 7
    assert int_header([(RUN_HEADER, str(RUN_MAX).encode())], RUN_HEADER) == RUN_MAX
    assert int_header([(RUN_HEADER, str(RUN_MAX + 1).encode())], RUN_HEADER) is None, "the sync would reject the result"


def test_new_trace_contexts_are_unique_and_valid() -> None:
    traces = {new_traceparent() for _ in range(100)}
    assert len(traces) == 100
    assert all(valid_traceparent(trace) == trace for trace in traces)


@pytest.mark.parametrize(
    "text", [None, "", "00-abc", f"01-{'a' * 32}-{'b' * 16}-01", f"00-{'A' * 32}-{'b' * 16}-01", "x\n"]
)
def test_a_foreign_trace_context_is_not_trusted(text: str | None) -> None:
    assert valid_traceparent(text) is None
