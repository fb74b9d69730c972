"""What a file request is, which states it passes through, and which of two statements about it counts.

Pure: no driver, no clock. The same rules stand once more as SQL in `filemill.adapters.postgres.status`, where they run
on thousands of rows at a time; `tests/contract` holds both to the same answers.
"""

import enum
import re
import unicodedata
from datetime import UTC, datetime
from typing import Annotated

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
# Letters and symbols that show nothing: fillers of Hangul syllables, the empty Braille pattern.
_BLANKS = frozenset("\u115f\u1160\u3164\uffa0\u2800")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WHOLE_NUMBER = re.compile(r"-?[0-9]+")
_FILE_ID_DIGITS = len(str(FILE_ID_MAX))
_KEY = re.compile(r"file-(?P<id>[1-9][0-9]{0,18})-(?P<ms>-?[0-9]{1,15})\.txt")
# What every key that is kept for one file begins with, whatever follows: another extension, the number of an attempt.
_RESERVED = re.compile(r"file-(?P<id>[0-9]+)-")


class Status(enum.StrEnum):
    """The states of a file. The first four are the seed's."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def rank(self) -> int:
        """How far along a run this is: 0 pending, 1 processing, 2 terminal."""
        return _RANKS[self]

    @property
    def terminal(self) -> bool:
        """Whether a run ends here."""
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
    """An id written in the digits 0 to 9, without signs, blanks, fractions or separators.

    Raises FileIdOutOfRange for a whole number that is none, InvalidRequest for anything else.
    """
    if _WHOLE_NUMBER.fullmatch(text) is None:
        raise InvalidRequest("id", "must be a whole number in the digits 0 to 9")
    digits = text.lstrip("0")
    if not digits.isdigit() or len(digits) > _FILE_ID_DIGITS or int(digits) > FILE_ID_MAX:
        raise FileIdOutOfRange("id", f"must be between 1 and {FILE_ID_MAX}")
    return int(digits)


class NewFile(msgspec.Struct, frozen=True):
    """What somebody asks for. Build it with `new_file`, which checks the limits."""

    title: str
    description: str = ""


def new_file(title: str, description: str = "") -> NewFile:
    """A checked request. Raises InvalidRequest naming the field that breaks a limit."""
    request = check_limits(title, description)
    if not has_visible_character(title):
        raise InvalidRequest(
            "title", "must have a visible character: blanks, format and combining characters alone show nothing"
        )
    return request


def search_text(title: str) -> str:
    """What a search compares: without case, and the same however a letter is composed or how wide it is."""
    # Folding can undo the composition, as of U+0345, and composing can make letters that fold.
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", title).casefold())


def has_visible_character(text: str) -> bool:
    """Whether a text has a visible character."""
    return any(map(_is_visible, unicodedata.normalize("NFKC", text)))


def _is_visible(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] not in "ZM" and category not in ("Cc", "Cf") and character not in _BLANKS


def check_limits(title: str, description: str) -> NewFile:
    """A request that keeps the limits that every accepted one has kept. Raises InvalidRequest."""
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
    """The moment in UTC, cut to whole milliseconds: done once, when a request is accepted."""
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def epoch_milliseconds(moment: datetime) -> int:
    """Whole milliseconds since the epoch, without the rounding of a float."""
    elapsed = moment - EPOCH
    return (elapsed.days * 86_400 + elapsed.seconds) * 1000 + elapsed.microseconds // 1000


def iso_milliseconds(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and Z, as `2026-01-04T12:00:00.000Z` (JavaScript's toISOString)."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def object_key(file_id: int, requested_at: datetime) -> str:
    """The key of a file's object: `file-{id}-{request, epoch ms}.txt`. It depends on the request alone."""
    return f"file-{file_id}-{epoch_milliseconds(requested_at)}.txt"


def file_id_in_key(key: str) -> int | None:
    """The file that a key names, or None where it is not a key of ours."""
    match = _KEY.fullmatch(key)
    return int(match["id"]) if match and int(match["id"]) <= FILE_ID_MAX else None


def canonical_key(key: str) -> str:
    """The key as a server that cleans paths knows it: SeaweedFS serves `file-7-1.txt` for `/file-7-1.txt` too."""
    return re.sub("/+", "/", key.replace("\\", "/")).strip("/")


class InvalidObjectKey(ValueError):
    """A key that a file cannot have, whatever the other files have. The reason is a sentence."""


def check_key_owner(file_id: int, key: str) -> str | None:
    """Check that a file may have this key.

    None: the key is kept for this file alone, by its form. Otherwise the key in its canonical form, which the file may
    have if no other file has it. Raises ForeignKey for one that is kept for another file, or that is no plain path.
    """
    if key.startswith(f"file-{file_id}-") and "/" not in key and "\\" not in key:
        return None
    canonical = canonical_key(key)
    if not canonical or not {".", ".."}.isdisjoint(canonical.split("/")):
        raise InvalidObjectKey("s3Location is not a plain key")
    kept = _RESERVED.match(canonical)
    if kept is None:
        return canonical
    if kept["id"] != str(file_id):
        raise InvalidObjectKey(f"s3Location is a key of file {kept['id'][:20]}")
    return None


class CurrentState(msgspec.Struct, frozen=True):
    """Where a file stands: its run, its status in that run, and since when it is in that step (progress only)."""

    run: int
    status: Status
    progress_at: datetime | None = None


class StatusUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """What an event says of a file. `run` None means the row's current run (a sender who knows the seed only)."""

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
    error: str | None = None


def supersedes(update: StatusUpdate, current: CurrentState) -> bool:
    """Whether the change counts against what is known.

    Only the row's own run counts: an earlier one is over, and a later one is begun by a retry, in the row, before any
    record of it exists. Within the run the greater rank wins; of two terminal statuses the first; of two steps of
    progress the later by its own clock, or a redelivered `step 1` would hide that a new worker has begun again.
    """
    if update.run is not None and update.run != current.run:
        return False
    if update.status.rank != current.status.rank:
        return update.status.rank > current.status.rank
    if update.status is not Status.PROCESSING:
        return False
    return current.progress_at is None or update.at >= current.progress_at


def coalesce(updates: list[StatusUpdate]) -> list[StatusUpdate]:
    """The one change per file and run that survives a batch, in the order of ids (so that row locks have an order).

    All runs are kept: which of them is the row's is known only to the row. Changes without a run come last and apart:
    they mean whichever run is the row's.
    """
    survivors: dict[tuple[bool, int, int], StatusUpdate] = {}
    for change in updates:
        run = change.run or 0
        key = (change.run is None, change.file_id, run)
        known = survivors.get(key)
        if known is None or supersedes(change, CurrentState(run, known.status, known.at)):
            survivors[key] = change
    return [survivors[key] for key in sorted(survivors)]
