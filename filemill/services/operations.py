"""Retry, cancel, delete, and orders to workers: the database, the workers and the bucket, in the right order."""

import enum
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa
import structlog
from botocore.exceptions import ClientError

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.client import KafkaPublisher
from filemill.adapters.postgres.connection import in_transaction
from filemill.adapters.postgres.operations import (
    Cancelled,
    Refused,
    cancel_files,
    delete_files,
    record,
    refusals,
    retry_files,
    unfinished_runs,
)
from filemill.adapters.postgres.request_losses import find_bounds, gone_files, resubmit_gone
from filemill.adapters.s3.admin import boto_errors
from filemill.config.settings import Settings
from filemill.domain.files import Status, to_milliseconds
from filemill.domain.worker_commands import Command, Order
from filemill.errors import NotFound, Unavailable
from filemill.ports import Publisher
from filemill.queries.files import count_matching, matching_ids, newest_id
from filemill.queries.workers import knows_worker

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = structlog.get_logger("operations")

# Files a command names at most: well below a record's megabyte.
COMMAND_FILES = 5000
ACKNOWLEDGE_SECONDS = 5.0


class Outcome(msgspec.Struct, frozen=True):
    """What was done to which files, and which were left alone, and why."""

    done: list[int]
    refused: list[Refused]


class UnknownWorker(LookupError):
    """No worker of this name has ever reported itself."""

    def __init__(self, worker_id: str) -> None:
        super().__init__(f"there is no worker named {worker_id}; `filemill workers list` shows their names")


class Action(enum.StrEnum):
    """What can be done to many files at once."""

    RETRY = "retry"
    CANCEL = "cancel"
    DELETE = "delete"

    @property
    def statuses(self) -> tuple[Status, ...]:
        """The statuses of the files to which it can be done."""
        return _STATUSES[self]

    @property
    def done(self) -> str:
        """Its past participle: 3 files cancelled."""
        return _DONE[self]


_STATUSES = {
    Action.RETRY: (Status.FAILED, Status.CANCELLED),
    Action.CANCEL: (Status.PENDING, Status.PROCESSING),
    Action.DELETE: (Status.COMPLETED, Status.FAILED, Status.CANCELLED),
}
_DONE = {Action.RETRY: "retried", Action.CANCEL: "cancelled", Action.DELETE: "deleted"}


class Selection(msgspec.Struct, frozen=True):
    """All files that a list with this filter shows: of a status (None: any), and matching a search."""

    status: Status | None = None
    search: str = ""

    def eligible(self, action: Action) -> tuple[Status, ...]:
        """The statuses of those among them to which the action can be done."""
        return tuple(status for status in action.statuses if self.status in (None, status))


class Operations:
    """What people do to files and workers. `actor` is who, for the record."""

    def __init__(self, settings: Settings, engine: sa.Engine, s3: "S3Client") -> None:
        self._settings = settings
        self._engine = engine
        self._s3 = s3
        self._publisher: Publisher | None = None
        self._admin: KafkaAdmin | None = None

    def retry(self, ids: Sequence[int], actor: str) -> Outcome:
        """A new run for files that failed or were cancelled, and for requests whose records are gone from Kafka.

        Raises Unavailable; then nothing was done.
        """

        def retry(connection: sa.Connection) -> Outcome:
            done = retry_files(connection, ids, actor=actor)
            return Outcome(done, refusals(connection, ids, done, "retried"))

        outcome = in_transaction(self._engine, retry)
        unfinished = self._unfinished([one.file_id for one in outcome.refused])
        again = self.resubmit(unfinished, actor) if unfinished else []
        refused = [one for one in outcome.refused if one.file_id not in set(again)]
        return Outcome(sorted([*outcome.done, *again]), refused)

    def resubmit(self, ids: Sequence[int], actor: str) -> list[int]:
        """A new run for those of the files whose records are gone from Kafka; returns which they are.

        Where Kafka is away nobody knows, and none is.
        """
        try:
            known = find_bounds(self._settings, self._kafka(), self._engine)
        except Unavailable as error:
            log.warning("Whether requests are gone is not known", error=str(error))
            return []
        return in_transaction(self._engine, lambda connection: resubmit_gone(connection, known, list(ids), actor=actor))

    def gone(self, *, after: int = 0, limit: int = 1000) -> list[int]:
        """Files beyond the id `after` whose records are gone from Kafka. Raises Unavailable."""
        known = find_bounds(self._settings, self._kafka(), self._engine)
        with self._engine.connect() as connection:
            return gone_files(connection, known, after=after, limit=limit)

    def cancel(self, ids: Sequence[int], actor: str) -> Outcome:
        """End files that have not ended. The row says so at once; a worker that has the record is told to let it go.

        A file whose result was recorded before is refused: it shows what it became. Where Kafka is away the worker
        cannot be told; it then makes the object in vain, and the row stays cancelled.
        """

        def cancel(connection: sa.Connection) -> tuple[list[Cancelled], Outcome]:
            cancelled = cancel_files(connection, ids, actor=actor)
            done = [one.file_id for one in cancelled]
            return cancelled, Outcome(done, refusals(connection, ids, done, "cancel"))

        cancelled, outcome = in_transaction(self._engine, cancel)
        self._tell_cancelled([one for one in cancelled if one.published])
        return outcome

    def delete(self, ids: Sequence[int], actor: str) -> Outcome:
        """Delete files that have ended, and their objects. Tombstones stay, which the ledger counts."""

        def delete(connection: sa.Connection) -> tuple[dict[int, str | None], list[Refused]]:
            deleted = delete_files(connection, ids, actor=actor)
            return deleted, refusals(connection, ids, list(deleted), "deleted")

        deleted, refused = in_transaction(self._engine, delete)
        for key in deleted.values():
            if key is not None:
                self._delete_object(key)
        return Outcome(sorted(deleted), refused)

    def apply(self, action: Action, ids: Sequence[int], actor: str) -> Outcome:
        """Do what `action` names. Raises Unavailable."""
        act = {Action.RETRY: self.retry, Action.CANCEL: self.cancel, Action.DELETE: self.delete}[action]
        return act(ids, actor)

    def count(self, action: Action, selection: Selection) -> int:
        """How many files of the selection the action can be done to; `COUNT_MAX` stands for that many or more."""
        with self._engine.connect() as connection:
            return count_matching(connection, selection.eligible(action), selection.search)

    def newest(self) -> int:
        """The greatest id there is: what comes later is no part of a selection that was made now."""
        with self._engine.connect() as connection:
            return newest_id(connection)

    def pick(self, action: Action, selection: Selection, *, after: int, upto: int, limit: int) -> list[int]:
        """The next files of a selection beyond the id `after`, least id first: a walk through all that match."""
        with self._engine.connect() as connection:
            statuses = selection.eligible(action)
            return matching_ids(connection, statuses, selection.search, after=after, upto=upto, limit=limit)

    def order(self, order: Order, worker_id: str | None, actor: str) -> None:
        """Tell one worker, or all, to be quiet or to resume. Raises UnknownWorker, Unavailable."""
        if worker_id is not None:
            with self._engine.connect() as connection:
                if not knows_worker(connection, worker_id):
                    raise UnknownWorker(worker_id)
        command = Command(order=order, worker_id=worker_id, timestamp=_now())
        self._send(command)
        with self._engine.begin() as connection:
            record(connection, actor, order.value, {"worker": worker_id})

    def _kafka(self) -> KafkaAdmin:
        if self._admin is None:
            self._admin = KafkaAdmin(self._settings)
        return self._admin

    def _unfinished(self, ids: Sequence[int]) -> list[int]:
        if not ids:
            return []
        with self._engine.connect() as connection:
            return unfinished_runs(connection, [(file_id, None) for file_id in ids])

    def _tell_cancelled(self, cancelled: Sequence[Cancelled]) -> None:
        for start in range(0, len(cancelled), COMMAND_FILES):
            part = cancelled[start : start + COMMAND_FILES]
            files = [(one.file_id, one.run) for one in part]
            try:
                self._send(Command(order=Order.CANCEL, timestamp=_now(), files=files))
            except Unavailable as error:
                log.warning("Workers could not be told of cancelled files", files=len(part), error=str(error))

    def _send(self, command: Command) -> None:
        if self._publisher is None:
            self._publisher = KafkaPublisher(self._settings, "operations")
        self._publisher.publish(self._settings.topic_worker_commands, msgspec.json.encode(command))
        if self._publisher.flush(ACKNOWLEDGE_SECONDS):
            raise Unavailable(f"Kafka at {self._settings.kafka_broker} did not take a command in time")

    def _delete_object(self, key: str) -> None:
        try:
            with boto_errors(self._settings, key):
                self._s3.delete_object(Bucket=self._settings.s3_bucket, Key=key)
        except (Unavailable, NotFound, ClientError) as error:
            # The row is gone, the object is left over: `verify` counts it as superseded.
            log.warning("The object of a deleted file could not be deleted", key=key, error=str(error))


def _now() -> datetime:
    return to_milliseconds(datetime.now(UTC))
