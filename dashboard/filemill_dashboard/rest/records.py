"""What REST's operations are asked with, and what they answer."""

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec

from filemill.domain.dead_letters import PLACE, DeadLetterFacts
from filemill.domain.file_actions import Refused, Selection
from filemill.domain.files import FILE_ID_MAX, TITLE_MAX_CHARACTERS, FileId, Status
from filemill.queries.workers import WorkerView
from filemill.services.offset_reset import Move, Target, Unfinished

IDS_MAX = 1000
DEAD_LETTERS_DEFAULT = 100
DEAD_LETTERS_MAX = 500
RATE_MAX = 1000.0

Place = Annotated[str, msgspec.Meta(pattern=f"^{PLACE}$")]
Some = Annotated[int, msgspec.Meta(ge=1, le=IDS_MAX)]


class FileSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which files: `ids`, or `all` that match `status` and `search`, at most `limit` in one request."""

    ids: Annotated[list[FileId], msgspec.Meta(max_length=IDS_MAX)] = []
    all: bool = False
    status: Status | None = None
    search: Annotated[str, msgspec.Meta(max_length=TITLE_MAX_CHARACTERS)] = ""
    limit: Some = IDS_MAX

    @property
    def selection(self) -> Selection:
        """All that match."""
        return Selection(self.status, self.search)


class RetrySelector(FileSelector, frozen=True, forbid_unknown_fields=True):
    """As `Which`, or `lost`: those that have not ended, and whose records are gone from Kafka."""

    lost: bool = False


class BulkResult(msgspec.Struct, frozen=True):
    """What was done to which files; `more`: others match still, so ask again."""

    done: list[int]
    refused: list[Refused]
    more: bool


class DeadLetterItem(DeadLetterFacts, frozen=True, kw_only=True):
    """A dead letter; `value` is its payload as text, what is not UTF-8 in it escaped; None: the record is gone."""

    place: str
    value: str | None
    trace: str | None


class DeadLetterList(msgspec.Struct, frozen=True):
    """The newest dead letters first, and how often each reason comes among all that match; numbers in it are left out.

    `total` counts all that match. `items` has `limit` of them at most, or as many as have a megabyte together;
    `next_cursor` leads to older ones. `truncated`: the topic has older records than those that are looked at.
    """

    items: list[DeadLetterItem]
    reasons: dict[str, int]
    total: int
    next_cursor: str | None
    truncated: bool


class ReplayRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which dead letters to send through again: `places` as `partition:offset`. `dry_run` only says what would be."""

    places: Annotated[list[Place], msgspec.Meta(min_length=1, max_length=DEAD_LETTERS_MAX)]
    dry_run: bool = False
    max_runs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5


class WorkerList(msgspec.Struct, frozen=True):
    """Workers heard of within a day: those that run first, then by id. `total` counts all of them."""

    items: list[WorkerView]
    total: int
    next_cursor: str | None


class OffsetResetRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to move the offsets, as `offset_reset.Target`, and what becomes of unfinished requests that this skips.

    `dry_run`, which is the default, only says what would be.
    """

    to: Literal["earliest", "latest", "time", "shift"]
    at: datetime | None = None
    by: Annotated[int, msgspec.Meta(ge=-FILE_ID_MAX, le=FILE_ID_MAX)] = 0
    unfinished: Unfinished = "resubmit"
    dry_run: bool = True

    @property
    def target(self) -> Target:
        """Where to. A moment without a zone is UTC."""
        at = self.at if self.at is None or self.at.tzinfo else self.at.replace(tzinfo=UTC)
        return Target(self.to, at, self.by)


class PartitionMove(msgspec.Struct, frozen=True):
    """One partition: from its current offset to a new one, over `skipped_count` files that have not ended.

    `skipped` are the ids of the first 1,000 of them.
    """

    partition: int
    current: int
    new: int
    skipped: Annotated[list[int], msgspec.Meta(max_length=IDS_MAX)]
    skipped_count: int

    @classmethod
    def of(cls, move: Move) -> "PartitionMove":
        """The move, as it is sent."""
        return cls(move.partition, move.current, move.new, move.skipped[:IDS_MAX], len(move.skipped))


class OffsetResetResult(msgspec.Struct, frozen=True):
    """What was done, or with `dry_run` would be; `why_not` says why it could not be done now."""

    dry_run: bool
    moves: list[PartitionMove]
    why_not: str | None
    cancelled: int
    resubmitted: int
