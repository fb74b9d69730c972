"""Kafka messages: JSON with the camelCase names of the reference design, and record headers.

Required fields are validated strictly and unknown fields are ignored, so clients of the reference design interoperate.
A message that cannot be read raises InvalidMessage, whose reason is used in the dead letter.
"""

import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, TypeVar, get_args

import msgspec

from filemill.domain.files import FILE_ID_MAX, FileId, Status, StatusUpdate, check_limits, iso_milliseconds
from filemill.domain.handlers import PARAMETERS_MAX_BYTES, TEXT_HANDLER, HandlerName, check_inputs
from filemill.errors import InvalidMessage, InvalidRequest

SEQUENCE_HEADER = "filemill-publish-number"
RUN_HEADER = "filemill-run"
TRACEPARENT_HEADER = "traceparent"  # W3C Trace Context

# In the order of the record; a name may occur several times. None is a null value, which differs from an empty one.
Headers = list[tuple[str, bytes | None]]

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_ERROR_MAX_CHARACTERS = 2000
# No processing takes longer. If an event says so, the clock of its producer is wrong.
_LONGEST_PROCESSING = timedelta(days=30)
_HEADER_MAXIMUM = {RUN_HEADER: 2**31 - 1}


# The ranges of the database columns: a number beyond them would make the database refuse the whole batch.
Int16 = Annotated[int, msgspec.Meta(ge=0, le=2**15 - 1)]
Int32 = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Int64 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Run = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
# Names are indexed, and an index entry has a limit (2,704 bytes): a longer one would also fail the batch.
WorkerId = Annotated[str, msgspec.Meta(max_length=200)]


NO_PARAMETERS = msgspec.Raw(b"{}")


class FileCreate(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A record of a queue's topic: a request for a file. `timestamp` is the time of the request.

    The reference design has the first four fields. `parameters` is a JSON object as text, for the handler. `inputs` has
    the keys of objects in the bucket, by the names that the handler knows them by. Defaults are left out of the record.
    """

    file_id: FileId
    title: str
    description: str
    timestamp: datetime
    handler: HandlerName = TEXT_HANDLER
    parameters: msgspec.Raw = NO_PARAMETERS
    inputs: dict[str, str] = {}

    @property
    def plain(self) -> bool:
        """Whether a service of the reference design can process it."""
        return self.handler == TEXT_HANDLER and not self.inputs


# The duration of each stage of an attempt in milliseconds: read, work, render, upload, announce.
StageTimes = Annotated[
    dict[Annotated[str, msgspec.Meta(max_length=20)], Annotated[float, msgspec.Meta(ge=0, le=1e12)]],
    msgspec.Meta(max_length=10),
]


class FileCreated(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A record of `file.created`: the result of a run. The reference design has the first four fields."""

    file_id: FileId
    s3_location: str | None = None
    status: Literal["completed", "failed"]
    timestamp: datetime
    run: Run | None = None
    sha256: str | None = None
    size: Int64 | None = None
    worker_id: WorkerId | None = None
    partition: Int32 | None = None
    offset: Int64 | None = None
    attempt: Int32 | None = None
    started_at: datetime | None = None
    upload_ms: Annotated[float, msgspec.Meta(ge=0, le=1e12)] | None = None
    stage_ms: StageTimes = {}
    error: str | None = None
    content_type: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    # The queue that the request was read from, so that partition and offset name a record.
    queue: Annotated[str, msgspec.Meta(max_length=40)] = "default"

    def status_update(self, at: datetime | None = None) -> StatusUpdate:
        """The event as a status update at the time `at` of the store's clock (None: the event's timestamp)."""
        at = at or self.timestamp
        return StatusUpdate(
            file_id=self.file_id,
            run=self.run,
            status=Status(self.status),
            at=at,
            s3_location=self.s3_location,
            sha256=self.sha256,
            size=self.size,
            worker_id=self.worker_id,
            partition=self.partition,
            offset=self.offset,
            attempt=self.attempt,
            started_at=_start_time(at, self.started_at, self.timestamp),
            stated_start=self.started_at,
            error=self.error[:_ERROR_MAX_CHARACTERS] if self.error else None,
            content_type=self.content_type,
        )


class FileProgress(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A record of `file.progress`: step `step` of `steps` is done (0: processing has begun).

    `started_at` is the same in all events of one delivery to a worker, so that it identifies the delivery. Workers of
    older versions do not send it; then the event of step 0 is the start.
    """

    file_id: FileId
    run: Run | None = None
    worker_id: WorkerId
    partition: Int32
    offset: Int64
    attempt: Int32
    step: Int16
    steps: Int16
    timestamp: datetime
    # What the handler reports: the part that is done, from 0 to 1, and a text.
    fraction: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    message: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    started_at: datetime | None = None

    def status_update(self, at: datetime | None = None) -> StatusUpdate:
        """The event as a status update at the time `at` of the store's clock (None: the event's timestamp)."""
        at = at or self.timestamp
        started_at = _start_time(at, self.started_at, self.timestamp)
        if started_at is None and self.step == 0:
            started_at = at
        return StatusUpdate(
            file_id=self.file_id,
            run=self.run,
            status=Status.PROCESSING,
            at=at,
            worker_id=self.worker_id,
            partition=self.partition,
            offset=self.offset,
            attempt=self.attempt,
            step=self.step,
            steps=self.steps,
            started_at=started_at,
            stated_start=None if started_at is None else self.started_at or self.timestamp,
            fraction=self.fraction,
            message=self.message,
        )


def _start_time(ended: datetime, stated_start: datetime | None, stated_end: datetime) -> datetime | None:
    """The start of an interval that ended at `ended`. Only the interval's length is taken from the producer's clock."""
    if stated_start is None:
        return None
    return ended - min(max(stated_end - stated_start, timedelta(0)), _LONGEST_PROCESSING)


_T = TypeVar("_T", FileCreate, FileCreated, FileProgress)
_encoder = msgspec.json.Encoder(enc_hook=str)
_decoders: dict[type, msgspec.json.Decoder[FileCreate | FileCreated | FileProgress]] = {
    kind: msgspec.json.Decoder(kind) for kind in (FileCreate, FileCreated, FileProgress)
}

# The fields that are times.
_TIMES = {
    kind: [field.name for field in msgspec.structs.fields(kind) if datetime in (field.type, *get_args(field.type))]
    for kind in _decoders
}


def encode(message: FileCreate | FileCreated | FileProgress) -> bytes:
    """The message as JSON. Times are truncated to milliseconds, as clients of the reference design expect them."""
    document = msgspec.to_builtins(message, builtin_types=(datetime, msgspec.Raw))
    for name, value in document.items():
        if isinstance(value, datetime):
            document[name] = iso_milliseconds(value)
    return _encoder.encode(document)


def decode(value: bytes | None, kind: type[_T]) -> _T:
    """Decode a record's value. Raises InvalidMessage with the reason."""
    if not value:
        raise InvalidMessage("the value is empty")
    try:
        message = _decoders[kind].decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # RecursionError: nested too deeply
        raise InvalidMessage(f"not a {kind.__name__}: {error}") from None
    assert isinstance(message, kind)
    if b"\\u" in value:  # JSON can only contain them as escapes
        _reject_unstorable(message)
    return _in_utc(message)


def decode_create(value: bytes | None) -> FileCreate:
    """Decode a request and check its limits. Raises InvalidMessage."""
    message = decode(value, FileCreate)
    try:
        check_limits(message.title, message.description)
        if message.inputs:
            check_inputs(message.inputs)
    except InvalidRequest as error:
        raise InvalidMessage(str(error)) from None
    if message.parameters is not NO_PARAMETERS:
        _check_parameters(bytes(message.parameters))
    return message


def _check_parameters(parameters: bytes) -> None:
    if not parameters.lstrip().startswith(b"{"):
        raise InvalidMessage("parameters must be a JSON object")
    if len(parameters) > PARAMETERS_MAX_BYTES:
        raise InvalidMessage(f"parameters must have at most {PARAMETERS_MAX_BYTES} bytes, not {len(parameters)}")


def decode_created(value: bytes | None) -> FileCreated:
    """Decode a `file.created`. Raises InvalidMessage."""
    message = decode(value, FileCreated)
    if message.status == "completed" and not message.s3_location:
        raise InvalidMessage("s3Location is missing, though the status is completed")
    if message.s3_location and len(message.s3_location) > 1024:
        raise InvalidMessage("s3Location is longer than S3's 1,024 characters")
    return message


def file_id_in(value: bytes | None) -> int | None:
    """The fileId of a message that may be invalid otherwise, so that its file can fail; None if there is none."""
    try:
        document = msgspec.json.decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    file_id = document.get("fileId") if isinstance(document, dict) else None
    return file_id if type(file_id) is int and 1 <= file_id <= FILE_ID_MAX else None


def create_headers(sequence: int, run: int, traceparent: str) -> Headers:
    """The headers of a `file.create`."""
    return [
        (SEQUENCE_HEADER, str(sequence).encode()),
        (RUN_HEADER, str(run).encode()),
        (TRACEPARENT_HEADER, traceparent.encode()),
    ]


def header(headers: Sequence[tuple[str, bytes | None]] | None, name: str) -> str | None:
    """The last header of that name as text, or None."""
    for key, value in reversed(headers or []):
        if key == name and value is not None:
            return value.decode(errors="replace")
    return None


def int_header(headers: Sequence[tuple[str, bytes | None]] | None, name: str) -> int | None:
    """The value of a header that is a positive whole number in its range, else None."""
    text = header(headers, name) or ""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else 0
    return number if 0 < number <= _HEADER_MAXIMUM.get(name, FILE_ID_MAX) else None


def dead_letter_origin(headers: Sequence[tuple[str, bytes | None]]) -> tuple[int, int] | None:
    """Partition and offset on `file.create` in the headers of a dead letter; None if another program wrote it."""
    try:
        origin = int(header(headers, "filemill-partition") or ""), int(header(headers, "filemill-offset") or "")
    except ValueError:
        return None
    return origin if all(0 <= number <= FILE_ID_MAX for number in origin) else None


def new_traceparent() -> str:
    """A new W3C trace context, sampled."""
    digits = secrets.token_hex(24)
    return f"00-{digits[:32]}-{digits[32:]}-01"


def valid_traceparent(text: str | None) -> str | None:
    """The text if it is a traceparent of version 00, else None."""
    return text if text and _TRACEPARENT.fullmatch(text) else None


def _reject_unstorable(message: FileCreate | FileCreated | FileProgress) -> None:
    for name in message.__struct_fields__:
        text = getattr(message, name)
        if isinstance(text, str) and not _storable(text):
            raise InvalidMessage(f"{name} contains a NUL or a lone surrogate")


def _storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _in_utc(message: _T) -> _T:
    """The message with all times in UTC. A time without a zone is taken as UTC."""
    try:
        in_utc = {
            name: value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
            for name in _TIMES[type(message)]
            if (value := getattr(message, name)) is not None and value.tzinfo is not UTC
        }
    except OverflowError:  # the database would store it, but Python could not read it
        raise InvalidMessage("a time lies beyond the years 1 to 9999") from None
    return msgspec.structs.replace(message, **in_utc) if in_utc else message
