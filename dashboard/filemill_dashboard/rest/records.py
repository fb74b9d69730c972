"""The records of REST's request and response bodies.

Their fields are the API's contract. `schema.py` has the names under which the OpenAPI document publishes them.
"""

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec

from filemill.domain.dead_letters import PLACE, DeadLetterFacts, ReplayRefusal
from filemill.domain.file_actions import ActionResult, FileSelection, RefusalCode
from filemill.domain.files import FILE_ID_MAX, TITLE_MAX_CHARACTERS, FileId, Status
from filemill.domain.permissions import Role
from filemill.queries.audit import AuditEntryRow
from filemill.queries.group import Flow
from filemill.queries.handlers import HandlerView
from filemill.queries.overview import Overview
from filemill.queries.workers import WorkerView
from filemill.services.offset_reset import PartitionReset, ResetTarget, UnfinishedPolicy
from filemill_dashboard.views.visibility import ShownState, Visibility

IDS_MAX = 1000
DEAD_LETTERS_DEFAULT = 100
DEAD_LETTERS_MAX = 500

Position = Annotated[str, msgspec.Meta(pattern=f"^{PLACE}$")]
Limit = Annotated[int, msgspec.Meta(ge=1, le=IDS_MAX)]


class FileSelector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The files to act on: `ids`, or `all` that match, at most `limit` in one request.

    `all` is narrowed by `status`, `search`, `queue` and `handler`.
    """

    ids: Annotated[list[FileId], msgspec.Meta(max_length=IDS_MAX)] = []
    all: bool = False
    status: Status | None = None
    search: Annotated[str, msgspec.Meta(max_length=TITLE_MAX_CHARACTERS)] = ""
    limit: Limit = IDS_MAX
    queue: Annotated[str, msgspec.Meta(max_length=40)] = ""
    handler: Annotated[str, msgspec.Meta(max_length=64)] = ""

    @property
    def selection(self) -> FileSelection:
        """The filter of `all`."""
        return FileSelection(self.status, self.search, self.queue, self.handler)


class RetrySelector(FileSelector, frozen=True, forbid_unknown_fields=True):
    """The files to retry: `ids`, `all` that match, or `lost`: unfinished files whose records are gone from Kafka."""

    lost: bool = False


class Me(msgspec.Struct, frozen=True):
    """The sender of a request. `authentication` says how it signed in, such as `token:` and the id of the token."""

    name: str
    role: Role | None
    authentication: str


class RefusedFile(msgspec.Struct, frozen=True):
    """A file for which the action was refused, and why: `reason` for people, `code` for programs."""

    file_id: int
    reason: str
    code: RefusalCode


class ReplayResult(msgspec.Struct, frozen=True):
    """What a replay did, or with `dry_run` would do: files per reason, and their ids.

    `refused`: the positions of dead letters that cannot be replayed, with the reason; `refusal_codes`: with its code.
    """

    dry_run: bool
    reasons: dict[str, int]
    files: list[int]
    refused: dict[str, str]
    refusal_codes: dict[str, ReplayRefusal]


class BulkResult(msgspec.Struct, frozen=True):
    """The files to which the action was done, and those for which it was refused.

    `more`: further files match; send the request again.
    """

    done: list[int]
    refused: list[RefusedFile]
    more: bool

    @classmethod
    def of(cls, result: ActionResult, *, more: bool) -> "BulkResult":
        """The result of an action."""
        return cls(result.done, [RefusedFile(one.file_id, one.reason, one.code) for one in result.refused], more)


class DeadLetterItem(DeadLetterFacts, frozen=True, kw_only=True):
    """A dead letter. `value` is its payload as text; bytes that are not UTF-8 are escaped. Null: the record is gone."""

    place: str
    value: str | None
    trace: str | None
    headers: list[tuple[str, str | None]]


class DeadLetterList(msgspec.Struct, frozen=True):
    """Dead letters, the newest first. `reasons` counts all that match by reason, with numbers in the reason left out.

    `total` counts all that match. `items` has at most `limit` of them, and at most one megabyte. `next_cursor` leads to
    older ones. `truncated`: the topic has older records that were not read.
    """

    items: list[DeadLetterItem]
    reasons: dict[str, int]
    total: int
    next_cursor: str | None
    truncated: bool


class ReplayRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The dead letters to replay: `places` as `partition:offset`. With `dry_run`, nothing is changed."""

    places: Annotated[list[Position], msgspec.Meta(min_length=1, max_length=DEAD_LETTERS_MAX)]
    dry_run: bool = False
    max_runs: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5


class WorkerItem(WorkerView, frozen=True, kw_only=True):
    """A worker in the state that pages show. It is unknown while a server through which events come is unreachable."""

    condition: ShownState  # type: ignore[assignment]


class PipelineState(Overview, frozen=True, kw_only=True):
    """The state of the pipeline. `unreachable` are the servers that do not answer: postgres, kafka or s3.

    What is learned through Kafka is null while it is unreachable: group, lag, rates, lost requests. `stalled` is empty.
    """

    unreachable: list[str]

    @classmethod
    def of(cls, found: Overview, visibility: Visibility) -> "PipelineState":
        """What is known of an overview."""
        values = msgspec.structs.asdict(found)
        if not visibility.events_known:
            flow = Flow(None, None, found.flow.seconds)
            values |= {"group": None, "lags": None, "flow": flow, "stalled": [], "lost_requests": None}
        return cls(**values, unreachable=sorted(visibility.unreachable))


class WorkerList(msgspec.Struct, frozen=True):
    """Workers that sent an event in the last 24 hours: running ones first, then by id. `total` counts all of them."""

    items: list[WorkerItem]
    total: int
    next_cursor: str | None


class HandlerList(msgspec.Struct, frozen=True):
    """The handlers of the running workers, by name."""

    items: list[HandlerView]


class OffsetResetRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to reset the offsets to, and what to do with unfinished requests that this skips.

    `at` belongs to `time`, `by` to `shift`. With `dry_run`, which is the default, nothing is changed.
    """

    to: Literal["earliest", "latest", "time", "shift"]
    at: datetime | None = None
    by: Annotated[int, msgspec.Meta(ge=-FILE_ID_MAX, le=FILE_ID_MAX)] = 0
    unfinished: UnfinishedPolicy = "resubmit"
    dry_run: bool = True
    queue: Annotated[str, msgspec.Meta(max_length=40)] = "default"

    @property
    def target(self) -> ResetTarget:
        """The target of the reset. A time without a zone is UTC."""
        at = self.at if self.at is None or self.at.tzinfo else self.at.replace(tzinfo=UTC)
        return ResetTarget(self.to, at, self.by)


class PartitionMove(msgspec.Struct, frozen=True):
    """The reset of one partition from its current offset to a new one, which skips `skipped_count` unfinished files.

    `skipped` has the ids of the first 1,000 of them.
    """

    partition: int
    current: int
    new: int
    skipped: Annotated[list[int], msgspec.Meta(max_length=IDS_MAX)]
    skipped_count: int

    @classmethod
    def of(cls, move: PartitionReset) -> "PartitionMove":
        """The record of a move."""
        return cls(move.partition, move.current, move.new, move.skipped[:IDS_MAX], len(move.skipped))


class OffsetResetResult(msgspec.Struct, frozen=True):
    """What the reset did, or with `dry_run` would do. `why_not` says why it is not possible now; null: it is."""

    dry_run: bool
    moves: list[PartitionMove]
    why_not: str | None
    cancelled: int
    resubmitted: int


class AuditList(msgspec.Struct, frozen=True):
    """A page of the audit log, newest rows first. `next_cursor` leads to older rows."""

    items: list[AuditEntryRow]
    next_cursor: str | None
