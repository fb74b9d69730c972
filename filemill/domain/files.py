"""File requests, their statuses, and the rule for which status update supersedes which. Pure.

`filemill.adapters.postgres.status_store` has the same rules as SQL, for thousands of rows at a time. `tests/contract`
checks that both give the same results.
"""

import enum
import re
import unicodedata
from datetime import UTC, datetime
from typing import Annotated, ClassVar

import msgspec

from filemill.errors import FileIdOutOfRange, InvalidRequest

TITLE_MAX_CHARACTERS = 255
DESCRIPTION_MAX_BYTES = 64 * 1024

# Postgres' bigint; a fileId beyond it cannot be one of ours.
FILE_ID_MAX = 2**63 - 1
# A file's id in a document. As text, `parse_file_id` reads it.
FileId = Annotated[int, msgspec.Meta(ge=1, le=FILE_ID_MAX)]

# Unicode's category Cc, whose members are fixed for good.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Letters and symbols without a glyph: fillers of Hangul syllables, the empty Braille pattern.
_BLANKS = frozenset("\u115f\u1160\u3164\uffa0\u2800")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WHOLE_NUMBER = re.compile(r"-?[0-9]+")
_FILE_ID_DIGITS = len(str(FILE_ID_MAX))
_KEY = re.compile(r"file-(?P<id>[1-9][0-9]{0,18})-(?P<ms>-?[0-9]{1,15})(-[0-9a-z-]{1,40})?\.[A-Za-z0-9]{1,16}")
# The prefix of every key that is reserved for one file. Another extension or the number of an attempt may follow.
_RESERVED = re.compile(r"file-(?P<id>[0-9]+)-")


class Status(enum.StrEnum):
    """The statuses of a file. The first four are those of the reference design."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def rank(self) -> int:
        """The progress of a run: 0 pending, 1 processing, 2 terminal."""
        return _RANKS[self]

    @property
    def terminal(self) -> bool:
        """Whether the status ends a run."""
        return self.rank == TERMINAL_RANK


TERMINAL_RANK = 2
_RANKS = {
    Status.PENDING: 0,
    Status.PROCESSING: 1,
    Status.COMPLETED: TERMINAL_RANK,
    Status.FAILED: TERMINAL_RANK,
    Status.CANCELLED: TERMINAL_RANK,
}


def parse_file_id(text: str) -> int:
    """The id in a text of the digits 0 to 9, without sign, blanks, fraction or separators.

    Raises FileIdOutOfRange for any other whole number, InvalidRequest for any other text.
    """
    if _WHOLE_NUMBER.fullmatch(text) is None:
        raise InvalidRequest("id", "must be a whole number in the digits 0 to 9")
    digits = text.lstrip("0")
    if not digits.isdigit() or len(digits) > _FILE_ID_DIGITS or int(digits) > FILE_ID_MAX:
        raise FileIdOutOfRange("id", f"must be between 1 and {FILE_ID_MAX}")
    return int(digits)


class NewFile(msgspec.Struct, frozen=True):
    """A request for a file. Build it with `new_file`, which checks the limits.

    `parameters` is a JSON object as text, None for none; `inputs` has keys of objects in the bucket by name. `queue` is
    the one that the request asks for, None for none; accepting it sets the queue.
    """

    title: str
    description: str = ""
    handler: str = "text"
    parameters: str | None = None
    inputs: dict[str, str] = {}
    queue: str | None = None

    @property
    def only_text(self) -> bool:
        """Whether it is a request as in the reference design: a title and a description."""
        return self.handler == "text" and self.parameters is None and not self.inputs and self.queue is None


def new_file(title: str, description: str = "") -> NewFile:
    """A checked request. Raises InvalidRequest, which names the field that breaks a limit."""
    request = check_limits(title, description)
    if not has_visible_character(title):
        raise InvalidRequest(
            "title", "must have a visible character: blanks, format and combining characters alone show nothing"
        )
    return request


def search_text(title: str) -> str:
    """The form of a title that a search compares: independent of case, of composition and of the width of letters."""
    # Case folding can undo the composition, as of U+0345, and composition can yield letters that fold.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", title).casefold())


def has_visible_character(text: str) -> bool:
    """Whether the text contains a visible character."""
    return any(map(_is_visible, unicodedata.normalize("NFKC", text)))


def _is_visible(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] not in "ZM" and category not in ("Cc", "Cf") and character not in _BLANKS


def check_limits(title: str, description: str) -> NewFile:
    """A request within the limits that hold for every accepted one. Raises InvalidRequest."""
    _reject_surrogates("title", title)
    _reject_surrogates("description", description)
    if not title.strip():
        raise InvalidRequest("title", "must not be blank")
    if len(title) > TITLE_MAX_CHARACTERS:
        raise InvalidRequest("title", f"must have at most {TITLE_MAX_CHARACTERS} characters, not {len(title)}")
    if _CONTROL.search(title):
        raise InvalidRequest("title", "must not contain control characters (a tab or a line break is one)")
    if "\0" in description:
        raise InvalidRequest("description", "must not contain a NUL character")
    size = len(description.encode())
    if size > DESCRIPTION_MAX_BYTES:
        raise InvalidRequest("description", f"must have at most {DESCRIPTION_MAX_BYTES} bytes of UTF-8, not {size}")
    return NewFile(title, description)


def _reject_surrogates(field: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(field, "must be valid Unicode: it contains a lone surrogate") from None


def truncate_to_milliseconds(moment: datetime) -> datetime:
    """The time in UTC, truncated to whole milliseconds."""
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def epoch_milliseconds(moment: datetime) -> int:
    """Whole milliseconds since the epoch, by integer arithmetic."""
    elapsed = moment - EPOCH
    return (elapsed.days * 86_400 + elapsed.seconds) * 1000 + elapsed.microseconds // 1000


def iso_milliseconds(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and Z, as `2026-01-04T12:00:00.000Z` (JavaScript's toISOString)."""
    # In quotes, with six digits of the second, or none if they are zero. Four times as fast as `isoformat`.
    text = msgspec.json.encode(moment.astimezone(UTC)).decode()
    return f"{text[1:24]}Z" if "." in text else f"{text[1:20]}.000Z"


def object_key(file_id: int, requested_at: datetime, extension: str = "txt", attempt: str = "") -> str:
    """The key of a file's object: `file-{id}-{request time, epoch ms}.txt`. It depends on the request alone.

    `attempt` makes it unique, for a handler whose result is not the same each time.
    """
    unique = f"-{attempt}" if attempt else ""
    return f"file-{file_id}-{epoch_milliseconds(requested_at)}{unique}.{extension}"


def checkpoint_key(file_id: int, requested_at: datetime, run: int) -> str:
    """The key of the last checkpoint of a run."""
    return object_key(file_id, requested_at, "checkpoint", f"run{run}")


def file_id_in_key(key: str) -> int | None:
    """The file id in a key that `object_key` or `checkpoint_key` made; None for any other key."""
    match = _KEY.fullmatch(key)
    return int(match["id"]) if match and int(match["id"]) <= FILE_ID_MAX else None


def canonical_key(key: str) -> str:
    """The key as a server that normalizes paths stores it: for SeaweedFS `/file-7-1.txt` is `file-7-1.txt`."""
    return re.sub("/+", "/", key.replace("\\", "/")).strip("/")


class InvalidObjectKey(ValueError):
    """A key that a file cannot have, independently of other files."""

    code: ClassVar[str] = "invalid-object-key"


def check_key_owner(file_id: int, key: str) -> str | None:
    """Check whether a file may have this key.

    Returns None if the key's form reserves it for this file. Otherwise returns the canonical key, which the file may
    have if no other file has it. Raises InvalidObjectKey if the key is reserved for another file or is no plain path.
    """
    if key.startswith(f"file-{file_id}-") and "/" not in key and "\\" not in key:
        return None
    canonical = canonical_key(key)
    if not canonical or not {".", ".."}.isdisjoint(canonical.split("/")):
        raise InvalidObjectKey("s3Location is not a plain key")
    reserved = _RESERVED.match(canonical)
    if reserved is None:
        return canonical
    if reserved["id"] != str(file_id):
        raise InvalidObjectKey(f"s3Location is a key of file {reserved['id'][:20]}")
    return None


class CurrentState(msgspec.Struct, frozen=True):
    """The current run and status of a file, and the time of its last progress (status processing only)."""

    run: int
    status: Status
    progress_at: datetime | None = None


class StatusUpdate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The content of an event about a file.

    `run` None means the row's current run: the sender knows the reference design only. `stated_start`: the start of the
    delivery by its worker's clock; with the worker it identifies the delivery.
    """

    file_id: int
    run: int | None
    status: Status
    at: datetime
    s3_location: str | None = None
    sha256: str | None = None
    size: int | None = None
    worker_id: str | None = None
    partition: int | None = None
    offset: int | None = None
    attempt: int | None = None
    step: int | None = None
    steps: int | None = None
    started_at: datetime | None = None
    stated_start: datetime | None = None
    error: str | None = None
    content_type: str | None = None
    fraction: float | None = None
    message: str | None = None


def supersedes(update: StatusUpdate, current: CurrentState) -> bool:
    """Whether the update replaces the current state.

    Only updates of the row's run do: an earlier run has ended, and a retry changes the row before a later run has
    records. Within the run the greater rank wins, and of two terminal statuses the first. Of two progress events the
    later one wins, so that the progress of a new worker replaces that of the one before it.
    """
    if update.run is not None and update.run != current.run:
        return False
    if update.status.rank != current.status.rank:
        return update.status.rank > current.status.rank
    if update.status is not Status.PROCESSING:
        return False
    return current.progress_at is None or update.at >= current.progress_at


def coalesce(updates: list[StatusUpdate]) -> list[StatusUpdate]:
    """The update of each file and run that supersedes the others of a batch, ordered by id for the row locks.

    Every run is kept, because only the row knows which one is current. Updates without a run are kept separately and
    come last: they refer to the row's run.
    """
    latest: dict[tuple[bool, int, int], StatusUpdate] = {}
    for update in updates:
        run = update.run or 0
        key = (update.run is None, update.file_id, run)
        known = latest.get(key)
        if known is None or supersedes(update, CurrentState(run, known.status, known.at)):
            latest[key] = update
    return [latest[key] for key in sorted(latest)]
