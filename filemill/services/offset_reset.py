"""Resetting the committed offsets of the processors' group without losing a request.

A preview shows what a reset would skip and reprocess. Moving an offset forward skips records. Skipped requests that are
unfinished are cancelled first, and on demand resubmitted in a new run, at the end of the topic. Moving an offset back
reprocesses records. A file in a final status keeps it; its object is written again, with the same bytes, only if it is
missing.
"""

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec
import sqlalchemy as sa

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.reader import read_topic
from filemill.adapters.postgres.audit import OFFSETS_RESET
from filemill.adapters.postgres.file_actions import unfinished_runs
from filemill.config.settings import Settings
from filemill.domain.consumer_groups import LogOffsets
from filemill.domain.file_actions import ActionResult
from filemill.domain.files import EPOCH, epoch_milliseconds
from filemill.domain.messages import RUN_HEADER, file_id_in, int_header
from filemill.domain.permissions import Permission, Principal
from filemill.errors import Conflict, Unavailable
from filemill.services.access import authorize
from filemill.services.audit import record, record_refusal
from filemill.services.operations import Operations

BATCH_FILES = 1000

UnfinishedPolicy = Literal["cancel", "resubmit"]


class ResetRefusal(enum.StrEnum):
    """Why offsets cannot be reset now."""

    GROUP_HAS_MEMBERS = "group-has-members"
    SHARE_GROUP = "share-group"
    TOPIC_RECREATED = "topic-recreated"


class CannotReset(Exception):
    """The offsets cannot be reset now. The text says why and what to do; `code` says why, for programs."""

    def __init__(self, reason: str, code: ResetRefusal) -> None:
        super().__init__(reason)
        self.code = code


class InvalidTarget(ValueError):
    """A target that no offset can be found for."""


class ResetTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The new position: the beginning, the end, the first record from `at` on, or `by` records on (negative: back)."""

    to: Literal["earliest", "latest", "time", "shift"]
    at: datetime | None = None
    by: int = 0

    def __str__(self) -> str:
        if self.to == "time" and self.at is not None:
            return f"{self.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.by:+d} records" if self.to == "shift" else self.to


class PartitionReset(msgspec.Struct, frozen=True):
    """One partition: current and new offset. `skipped`: ids of the unfinished files whose records would be skipped."""

    partition: int
    current: int
    new: int
    skipped: list[int]

    @property
    def difference(self) -> int:
        """Records that are skipped, or, if negative, reprocessed."""
        return self.new - self.current

    @property
    def repeated(self) -> int:
        """Records that are reprocessed."""
        return max(0, -self.difference)


class ResetPlan(msgspec.Struct, frozen=True):
    """What a reset would do. `why_not` and `code` say why it cannot be done now; None: it can.

    `topic_id` identifies the topic; a recreated topic has another id.
    """

    moves: list[PartitionReset]
    why_not: str | None
    topic_id: str = ""
    code: ResetRefusal | None = None

    @property
    def offsets(self) -> dict[int, int]:
        """The new offsets of the partitions that change."""
        return {move.partition: move.new for move in self.moves if move.difference}

    @property
    def skipped(self) -> list[int]:
        """All unfinished files that would be skipped."""
        return sorted({file_id for move in self.moves for file_id in move.skipped})

    @property
    def repeated(self) -> int:
        """All records that would be reprocessed."""
        return sum(move.repeated for move in self.moves)


class ResetResult(msgspec.Struct, frozen=True):
    """The new offsets, the files that were cancelled, and those of them that were resubmitted."""

    offsets: dict[int, int]
    cancelled: list[int]
    resubmitted: list[int]


def new_offsets(target: ResetTarget, parts: Sequence[LogOffsets], at: Mapping[int, int]) -> dict[int, int]:
    """Each partition's new offset, limited to its records. `at`: the offsets at the target's time. Pure."""
    found = {}
    for part in parts:
        begin, end = part.begin or 0, part.end or 0
        wanted = {
            "earliest": begin,
            "latest": end,
            "time": at.get(part.partition, end),
            "shift": _current(part) + target.by,
        }[target.to]
        found[part.partition] = min(max(wanted, begin), end)
    return found


class OffsetReset:
    """Plans and applies a reset, for the processors' group and the topic of requests."""

    def __init__(self, settings: Settings, engine: sa.Engine, admin: KafkaAdmin, operations: Operations) -> None:
        self._settings = settings
        self._engine = engine
        self._admin = admin
        self._operations = operations

    def plan(self, target: ResetTarget) -> ResetPlan:
        """Plan a reset; reads the records that would be skipped. Raises Unavailable, InvalidTarget."""
        moment = _milliseconds(target)
        topic_id = self._topic_id()
        parts = self._parts()
        at = {} if moment is None else self._admin.offsets_at(self._settings.topic_create, moment)
        return self._judge(topic_id, parts, new_offsets(target, parts, at))

    def apply(
        self,
        plan: ResetPlan,
        target: ResetTarget,
        unfinished: UnfinishedPolicy,
        principal: Principal,
        progress: Callable[[int], None] = lambda _count: None,
    ) -> ResetResult:
        """Reset the offsets to those of the plan. The skipped files are determined again.

        `progress` is called with the size of each batch of files that was cancelled or resubmitted. Raises Forbidden,
        CannotReset, Unavailable. Then the offsets may be unchanged; what had been cancelled is resubmitted, so no
        request is lost.
        """
        authorize(self._engine, principal, Permission.RESET_OFFSETS, to=str(target))
        topic_id = self._topic_id()
        if topic_id != plan.topic_id:
            topic = self._settings.topic_create
            reason = f"{topic} was deleted and created again since the preview: preview the reset again"
            raise CannotReset(reason, ResetRefusal.TOPIC_RECREATED)
        now = self._judge(topic_id, self._parts(), {move.partition: move.new for move in plan.moves})
        if now.code is not None:
            raise CannotReset(now.why_not or now.code, now.code)
        cancelled = self._each(now.skipped, self._operations.cancel, principal, progress)
        detail = {
            "group": self._settings.kafka_group,
            "topic": self._settings.topic_create,
            "to": str(target),
            "partitions": [[move.partition, move.current, move.new] for move in now.moves if move.difference],
            "unfinished": len(cancelled),
            "then": unfinished,
        }
        with self._engine.begin() as connection:
            operation = record(connection, principal, OFFSETS_RESET, detail)
        try:
            if now.offsets:
                settings = self._settings
                self._admin.alter_offsets(settings.kafka_group, settings.topic_create, now.offsets, topic_id)
        except (Conflict, Unavailable) as error:
            self._each(cancelled, self._operations.retry, principal, progress)
            if isinstance(error, Conflict):
                with self._engine.begin() as connection:
                    record_refusal(connection, principal, OFFSETS_RESET, operation, str(error))
                raise CannotReset(str(error), ResetRefusal.GROUP_HAS_MEMBERS) from None
            raise
        again = self._each(cancelled, self._operations.retry, principal, progress) if unfinished == "resubmit" else []
        return ResetResult(now.offsets, cancelled, again)

    def refusal(self) -> tuple[ResetRefusal, str] | None:
        """Why the broker would refuse now; None: it would not. Raises Unavailable."""
        settings = self._settings
        if settings.offsets_group is None:
            reason = "A share group has no committed offsets: the broker keeps the state of each record"
            return ResetRefusal.SHARE_GROUP, reason
        group = self._admin.describe_group(settings.kafka_group, settings.topic_create)
        members = members_refusal(len(group.members))
        return None if members is None else (ResetRefusal.GROUP_HAS_MEMBERS, members)

    def _parts(self) -> list[LogOffsets]:
        return self._admin.offsets(self._settings.offsets_group, self._settings.topic_create)

    def _topic_id(self) -> str:
        topic = self._settings.topic_create
        found = self._admin.identities([topic])
        if topic not in found:
            raise Unavailable(f"Kafka has no topic {topic}: run `filemill topics create`", code="kafka-topic-missing")
        return found[topic].topic_id

    def _judge(self, topic_id: str, parts: Sequence[LogOffsets], new: Mapping[int, int]) -> ResetPlan:
        skipped = self._skipped({part.partition: (_current(part), new[part.partition]) for part in parts})
        moves = [
            PartitionReset(part.partition, _current(part), new[part.partition], skipped.get(part.partition, []))
            for part in parts
        ]
        code, why_not = self.refusal() or (None, None)
        return ResetPlan(moves, why_not, topic_id, code)

    def _skipped(self, ranges: Mapping[int, tuple[int, int]]) -> dict[int, list[int]]:
        """The unfinished files with records in these ranges, by partition; records of other producers count too."""
        ahead = {partition: span for partition, span in ranges.items() if span[1] > span[0]}
        if not ahead:
            return {}
        topic = self._settings.topic_create
        wanted = [LogOffsets(partition, begin, end, None) for partition, (begin, end) in ahead.items()]
        places = {(topic, partition): ahead.get(partition, span)[0] for partition, span in ranges.items()}
        found: dict[int, list[int]] = {}
        for partition, runs in _batches(
            (one.partition, file_id, int_header(one.headers, RUN_HEADER))
            for one in read_topic(self._settings, topic, wanted, "offsets", places)
            if (file_id := file_id_in(one.value)) is not None
        ):
            with self._engine.connect() as connection:
                found.setdefault(partition, []).extend(unfinished_runs(connection, runs))
        return found

    def _each(
        self,
        ids: Sequence[int],
        act: Callable[[Sequence[int], Principal], ActionResult],
        principal: Principal,
        progress: Callable[[int], None],
    ) -> list[int]:
        done: list[int] = []
        for start in range(0, len(ids), BATCH_FILES):
            batch = ids[start : start + BATCH_FILES]
            done += act(batch, principal).done
            progress(len(batch))
        return done


def _milliseconds(target: ResetTarget) -> int | None:
    """The time of a target, in ms since 1970; None: it has no time. Kafka reads -1 as *latest* and -2 as *earliest*."""
    if target.to != "time":
        return None
    if target.at is None:
        raise InvalidTarget("at: give a time, such as 2026-11-22T12:00:00Z")
    try:
        moment = target.at.astimezone(UTC)
    except OverflowError:
        raise InvalidTarget("at: must be before the year 10000, in UTC") from None
    if moment < EPOCH:
        raise InvalidTarget("at: must not be before 1970-01-01 00:00:00 UTC")
    return epoch_milliseconds(moment)


def members_refusal(members: int) -> str | None:
    """Why offsets of a group with this number of members cannot be reset; None for an empty group. Pure."""
    if not members:
        return None
    count = "a member" if members == 1 else f"{members} members"
    remedy = "stop the processors first (Workers, scale to 0, or `filemill workers scale 0`)"
    return f"Kafka refuses while the group has {count}: {remedy}"


def _current(part: LogOffsets) -> int:
    """The offset at which the group would continue: the committed one, limited to the records that exist."""
    begin = part.begin or 0
    return begin if part.committed is None else max(begin, min(part.committed, part.end or 0))


def _batches(
    found: Iterator[tuple[int, int, int | None]],
) -> Iterator[tuple[int, list[tuple[int, int | None]]]]:
    """(partition, file, run) in batches, each of one partition."""
    held: dict[int, list[tuple[int, int | None]]] = {}
    for partition, file_id, run in found:
        batch = held.setdefault(partition, [])
        batch.append((file_id, run))
        if len(batch) >= BATCH_FILES:
            yield partition, held.pop(partition)
    yield from held.items()
