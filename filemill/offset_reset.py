"""Moving the group's committed offsets, with nothing lost: what it would skip and repeat is known before it is done.

Records between the committed offset and one further on would never be read. Those among them whose files have not
ended are cancelled first, and then, if that is wanted, resubmitted: each in a new run, at the topic's end. Records
between an earlier offset and the committed one are read again; a file that has ended keeps its status. Its object is
written again only if it is missing, with the same bytes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec
import sqlalchemy as sa

from filemill.adapters.kafka_admin import KafkaAdmin, PartitionOffsets
from filemill.adapters.kafka_reader import read_topic
from filemill.adapters.postgres_operations import OFFSETS_RESET, record, refuse, unfinished_runs
from filemill.files import EPOCH, epoch_milliseconds
from filemill.messages import RUN, file_id_in, number_header
from filemill.operations import Operations, Outcome
from filemill.retry import Unavailable
from filemill.settings import Settings

BATCH_FILES = 1000

Unfinished = Literal["cancel", "resubmit"]


class CannotReset(Exception):
    """The offsets cannot be moved now; the text says why and what to do."""


class InvalidTarget(ValueError):
    """A target that names no place in a topic."""


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to: the beginning, the end, the first record from `at` on, or `by` records on (negative: back)."""

    to: Literal["earliest", "latest", "time", "shift"]
    at: datetime | None = None
    by: int = 0

    def __str__(self) -> str:
        if self.to == "time" and self.at is not None:
            return f"{self.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"{self.by:+d} records" if self.to == "shift" else self.to


class Move(msgspec.Struct, frozen=True):
    """One partition: from its current offset to a new one. `skipped` are files that have not ended, by their ids."""

    partition: int
    current: int
    new: int
    skipped: list[int]

    @property
    def difference(self) -> int:
        """Records that are passed over, or, negative, read again."""
        return self.new - self.current

    @property
    def repeated(self) -> int:
        """Records that are read again."""
        return max(0, -self.difference)


class Plan(msgspec.Struct, frozen=True):
    """What a reset would do. `why_not`: why it cannot be done now, None where it can.

    `topic_id`: the topic that the offsets are of; one that is created under the same name has another.
    """

    moves: list[Move]
    why_not: str | None
    topic_id: str = ""

    @property
    def offsets(self) -> dict[int, int]:
        """The new offsets of the partitions that change."""
        return {move.partition: move.new for move in self.moves if move.difference}

    @property
    def skipped(self) -> list[int]:
        """All files that it would skip."""
        return sorted({file_id for move in self.moves for file_id in move.skipped})

    @property
    def repeated(self) -> int:
        """All records that it would have read again."""
        return sum(move.repeated for move in self.moves)


class Done(msgspec.Struct, frozen=True):
    """What was done: the new offsets, and the files that were cancelled and, of those, resubmitted."""

    offsets: dict[int, int]
    cancelled: list[int]
    resubmitted: list[int]


def new_offsets(target: Target, parts: Sequence[PartitionOffsets], at: Mapping[int, int]) -> dict[int, int]:
    """Each partition's new offset, within what the partition holds. `at`: the offsets at the target's time. Pure."""
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
    """Plans and does it, for the processors' group and the topic of requests."""

    def __init__(self, settings: Settings, engine: sa.Engine, admin: KafkaAdmin, operations: Operations) -> None:
        self._settings = settings
        self._engine = engine
        self._admin = admin
        self._operations = operations

    def plan(self, target: Target) -> Plan:
        """What it would do. Reads the records that would be skipped. Raises retry.Unavailable, InvalidTarget."""
        moment = _milliseconds(target)
        topic_id = self._topic_id()
        parts = self._parts()
        at = {} if moment is None else self._admin.offsets_at(self._settings.topic_create, moment)
        return self._judge(topic_id, parts, new_offsets(target, parts, at))

    def apply(
        self,
        plan: Plan,
        target: Target,
        unfinished: Unfinished,
        actor: str,
        progress: Callable[[int], None] = lambda _count: None,
    ) -> Done:
        """Move the offsets to those of the plan; what they skip by now is looked up afresh.

        `progress` hears of each batch of files that was dealt with. Raises CannotReset; retry.Unavailable. Then the
        offsets may stand where they stood, and no request is lost: what had been cancelled for it is resubmitted.
        """
        topic_id = self._topic_id()
        if topic_id != plan.topic_id:
            topic = self._settings.topic_create
            raise CannotReset(f"{topic} was deleted and created again since the preview: preview the reset again")
        now = self._judge(topic_id, self._parts(), {move.partition: move.new for move in plan.moves})
        if now.why_not is not None:
            raise CannotReset(now.why_not)
        cancelled = self._each(now.skipped, self._operations.cancel, actor, progress)
        detail = {
            "group": self._settings.kafka_group,
            "topic": self._settings.topic_create,
            "to": str(target),
            "partitions": [[move.partition, move.current, move.new] for move in now.moves if move.difference],
            "unfinished": len(cancelled),
            "then": unfinished,
        }
        with self._engine.begin() as connection:
            operation = record(connection, actor, OFFSETS_RESET, detail)
        try:
            if now.offsets:
                settings = self._settings
                self._admin.move_offsets(settings.kafka_group, settings.topic_create, now.offsets, topic_id)
        except (ValueError, Unavailable) as error:
            self._each(cancelled, self._operations.retry, actor, progress)
            if isinstance(error, ValueError):
                with self._engine.begin() as connection:
                    refuse(connection, operation, str(error))
                raise CannotReset(str(error)) from None
            raise
        again = self._each(cancelled, self._operations.retry, actor, progress) if unfinished == "resubmit" else []
        return Done(now.offsets, cancelled, again)

    def why_not(self) -> str | None:
        """Why the broker would refuse now; None where it would not. Raises retry.Unavailable."""
        settings = self._settings
        if settings.offsets_group is None:
            return "A share group has no offsets of this kind: the broker keeps what each record's state is"
        group = self._admin.describe_group(settings.kafka_group, settings.topic_create)
        return refusal(len(group.members))

    def _parts(self) -> list[PartitionOffsets]:
        return self._admin.offsets(self._settings.offsets_group, self._settings.topic_create)

    def _topic_id(self) -> str:
        topic = self._settings.topic_create
        found = self._admin.identities([topic])
        if topic not in found:
            raise Unavailable(f"Kafka has no topic {topic}: run `filemill topics create`")
        return found[topic].topic_id

    def _judge(self, topic_id: str, parts: Sequence[PartitionOffsets], new: Mapping[int, int]) -> Plan:
        skipped = self._skipped({part.partition: (_current(part), new[part.partition]) for part in parts})
        moves = [
            Move(part.partition, _current(part), new[part.partition], skipped.get(part.partition, [])) for part in parts
        ]
        return Plan(moves, self.why_not(), topic_id)

    def _skipped(self, spans: Mapping[int, tuple[int, int]]) -> dict[int, list[int]]:
        """The unfinished files whose records lie in these spans, by what the records say: a foreign one's, too."""
        ahead = {partition: span for partition, span in spans.items() if span[1] > span[0]}
        if not ahead:
            return {}
        topic = self._settings.topic_create
        wanted = [PartitionOffsets(partition, begin, end, None) for partition, (begin, end) in ahead.items()]
        places = {(topic, partition): ahead.get(partition, span)[0] for partition, span in spans.items()}
        found: dict[int, list[int]] = {}
        for partition, asked in _batches(
            (one.partition, file_id, number_header(one.headers, RUN))
            for one in read_topic(self._settings, topic, wanted, "offsets", places)
            if (file_id := file_id_in(one.value)) is not None
        ):
            with self._engine.connect() as connection:
                found.setdefault(partition, []).extend(unfinished_runs(connection, asked))
        return found

    def _each(
        self,
        ids: Sequence[int],
        act: Callable[[Sequence[int], str], Outcome],
        actor: str,
        progress: Callable[[int], None],
    ) -> list[int]:
        done: list[int] = []
        for start in range(0, len(ids), BATCH_FILES):
            batch = ids[start : start + BATCH_FILES]
            done += act(batch, actor).done
            progress(len(batch))
        return done


def _milliseconds(target: Target) -> int | None:
    """The time of a target, since 1970; None where it is no time. Kafka reads -1 as *latest* and -2 as *earliest*."""
    if target.to != "time":
        return None
    if target.at is None:
        raise InvalidTarget("at: say which time, as 2026-11-22T12:00:00Z")
    try:
        moment = target.at.astimezone(UTC)
    except OverflowError:
        raise InvalidTarget("at: must be before the year 10000, in UTC") from None
    if moment < EPOCH:
        raise InvalidTarget("at: must not be before 1970-01-01 00:00:00 UTC")
    return epoch_milliseconds(moment)


def refusal(members: int) -> str | None:
    """Why a group with so many members keeps its offsets; None for an empty one. Pure."""
    if not members:
        return None
    who = "a member" if members == 1 else f"{members} members"
    return f"Kafka refuses while the group has {who}: stop the processors first (Workers, scale to 0)"


def _current(part: PartitionOffsets) -> int:
    """Where the group would read on: what it has committed, as long as the topic still has it."""
    begin = part.begin or 0
    return begin if part.committed is None else max(begin, min(part.committed, part.end or 0))


def _batches(
    found: Iterator[tuple[int, int, int | None]],
) -> Iterator[tuple[int, list[tuple[int, int | None]]]]:
    """In batches of one partition each."""
    held: dict[int, list[tuple[int, int | None]]] = {}
    for partition, file_id, run in found:
        batch = held.setdefault(partition, [])
        batch.append((file_id, run))
        if len(batch) >= BATCH_FILES:
            yield partition, held.pop(partition)
    yield from held.items()
