"""Retry, cancel and delete files, and control workers: the database, the workers and the bucket in the right order."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec
import sqlalchemy as sa
import structlog

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.postgres.connection import in_transaction
from filemill.adapters.postgres.file_actions import (
    CancelledRun,
    cancel_files,
    delete_files,
    deleted_files,
    owners_of,
    retry_files,
    statuses_and_runs,
    unfinished_runs,
)
from filemill.adapters.postgres.request_losses import lost_files, resubmit_lost
from filemill.adapters.postgres.worker_events import forget_workers
from filemill.adapters.s3.bucket import Bucket
from filemill.config.settings import Settings
from filemill.domain.file_actions import (
    OWN_PERMISSIONS,
    PERMISSIONS,
    ActionResult,
    FileAction,
    FileRefusal,
    FileSelection,
    RefusalCode,
    only_owner,
    refusals,
)
from filemill.domain.files import truncate_to_milliseconds
from filemill.domain.permissions import Permission, Principal, refusal
from filemill.domain.worker_commands import WorkerCommand, WorkerCommandKind
from filemill.domain.worker_events import FORGET_AFTER_SECONDS
from filemill.errors import Conflict, NotFound, Unavailable
from filemill.ports import Publisher
from filemill.queries.files import FileTitle, count_matching, matching_ids, matching_titles, newest_id
from filemill.queries.workers import knows_worker
from filemill.services.access import authorize, record_attempt
from filemill.services.audit import record, record_files
from filemill.services.request_losses import bounds_of_queues

log = structlog.get_logger("operations")

# Files that one command names at most: well below a record's megabyte.
COMMAND_FILES = 5000
ACKNOWLEDGE_SECONDS = 5.0
# Deleted files whose former status and title are in the audit record.
DELETED_RECORDED = 20
# Ids in the record of a refused attempt, at most.
FILES_RECORDED = 100
RESUBMIT = "resubmit"
FORGET = "workers.forget"
WORKER_RUNS = "worker-runs"


class UnknownWorker(NotFound):
    """No worker of this name has ever sent an event."""

    code = "unknown-worker"

    def __init__(self, worker_id: str) -> None:
        super().__init__(f"there is no worker named {worker_id}; `filemill workers list` shows their names")


class Operations:
    """What people do to files and workers. Each operation raises Forbidden if the principal's role does not allow it.

    `kafka` and `publisher` are called when they are needed: most operations need no Kafka client.
    """

    def __init__(
        self,
        settings: Settings,
        engine: sa.Engine,
        bucket: Bucket,
        *,
        kafka: Callable[[], KafkaAdmin],
        publisher: Callable[[], Publisher],
        wake_relay: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._bucket = bucket
        self._kafka = kafka
        self._publisher = publisher
        self._wake_relay = wake_relay

    def retry(self, ids: Sequence[int], principal: Principal) -> ActionResult:
        """Start a new run of files that failed or were cancelled, or whose records are gone from Kafka.

        Raises Unavailable; then nothing was done.
        """
        ids, not_own = self.permitted(FileAction.RETRY, ids, principal)

        def retry(connection: sa.Connection) -> ActionResult:
            runs = retry_files(connection, ids)
            record_files(connection, principal, FileAction.RETRY.value, _pairs(runs), len(ids))
            return ActionResult(list(runs), _refusals(connection, FileAction.RETRY, ids, list(runs)))

        outcome = in_transaction(self._engine, retry)
        self._wake_relay()
        unfinished = self._unfinished([one.file_id for one in outcome.refused])
        resubmitted = self._resubmit(unfinished, principal) if unfinished else []
        refused = [*(one for one in outcome.refused if one.file_id not in set(resubmitted)), *not_own]
        return ActionResult(sorted([*outcome.done, *resubmitted]), refused)

    def resubmit(self, ids: Sequence[int], principal: Principal) -> list[int]:
        """Start a new run of those of the files whose records are gone from Kafka; returns which they are.

        If Kafka is unreachable, the gone ones are not known: none is resubmitted.
        """
        authorize(self._engine, principal, Permission.RETRY_FILES, asked=len(ids))
        return self._resubmit(ids, principal)

    def _resubmit(self, ids: Sequence[int], principal: Principal) -> list[int]:
        try:
            bounds = bounds_of_queues(self._settings, self._kafka(), self._engine)
        except Unavailable as error:
            log.warning("Cannot tell whether requests are gone from Kafka", error=str(error))
            return []

        def resubmit(connection: sa.Connection) -> list[int]:
            runs: dict[int, int] = {}
            for of_queue in bounds:
                runs |= resubmit_lost(connection, of_queue, ids)
            if runs:
                record(connection, principal, RESUBMIT, {"files": _pairs(runs), "asked": len(ids)})
            return list(runs)

        done = in_transaction(self._engine, resubmit)
        self._wake_relay()
        return done

    def gone_requests(self, *, after: int = 0, limit: int = 1000) -> list[int]:
        """Files with an id greater than `after` whose records are gone from Kafka. Raises Unavailable."""
        bounds = bounds_of_queues(self._settings, self._kafka(), self._engine)
        with self._engine.connect() as connection:
            found = [lost_files(connection, of_queue, after=after, limit=limit) for of_queue in bounds]
        return sorted(file_id for ids in found for file_id in ids)[:limit]

    def cancel(self, ids: Sequence[int], principal: Principal) -> ActionResult:
        """Cancel files that are pending or processing: first in their rows, then by a command to the workers.

        A file in a final status is refused. If Kafka is unreachable, the workers are not told: a worker may still write
        the object, and the row stays cancelled.
        """
        ids, not_own = self.permitted(FileAction.CANCEL, ids, principal)

        def cancel(connection: sa.Connection) -> tuple[list[CancelledRun], ActionResult]:
            cancelled = cancel_files(connection, ids)
            runs = {one.file_id: one.run for one in cancelled}
            record_files(connection, principal, FileAction.CANCEL.value, _pairs(runs), len(ids))
            refused = _refusals(connection, FileAction.CANCEL, ids, list(runs))
            return cancelled, ActionResult(list(runs), [*refused, *not_own])

        cancelled, outcome = in_transaction(self._engine, cancel)
        self._send_cancelled([one for one in cancelled if one.published])
        return outcome

    def delete(self, ids: Sequence[int], principal: Principal) -> ActionResult:
        """Delete files in a final status, and their objects. Tombstones stay for the ledger."""
        ids, not_own = self.permitted(FileAction.DELETE, ids, principal)

        def delete(connection: sa.Connection) -> tuple[dict[int, str | None], list[FileRefusal]]:
            keys = delete_files(connection, ids)
            refused = _refusals(connection, FileAction.DELETE, ids, list(keys))
            before = {"before": deleted_files(connection, sorted(keys)[:DELETED_RECORDED])}
            record_files(connection, principal, FileAction.DELETE.value, sorted(keys), len(ids), **before)
            return keys, refused

        keys, refused = in_transaction(self._engine, delete)
        for key in keys.values():
            if key is not None:
                self._delete_object(key)
        return ActionResult(sorted(keys), [*refused, *not_own])

    def apply(self, action: FileAction, ids: Sequence[int], principal: Principal) -> ActionResult:
        """Do the action to these files. Raises Unavailable."""
        method = {FileAction.RETRY: self.retry, FileAction.CANCEL: self.cancel, FileAction.DELETE: self.delete}[action]
        return method(ids, principal)

    def authorize_all(self, action: FileAction, principal: Principal) -> None:
        """Raise Forbidden if the principal may not do the action to all files that match a filter."""
        authorize(self._engine, principal, PERMISSIONS[action], all=True)

    def permitted(
        self, action: FileAction, ids: Sequence[int], principal: Principal
    ) -> tuple[Sequence[int], list[FileRefusal]]:
        """Those of the files to which the principal may do the action, and why not to the others.

        Raises Forbidden if its role does not allow the action to its own files.
        """
        of_others = refusal(principal, PERMISSIONS[action])
        if of_others is None:
            return ids, []
        authorize(self._engine, principal, OWN_PERMISSIONS[action], asked=len(ids))
        with self._engine.connect() as connection:
            owners = owners_of(connection, ids)
        not_own = {file_id for file_id, owner in owners.items() if owner != principal.name}
        if not not_own:
            return ids, []
        record_attempt(self._engine, principal, of_others, action=action.value, files=sorted(not_own)[:FILES_RECORDED])
        if only_owner(principal, own_files_only=self._settings.own_files_only):  # it does not learn that they exist
            refused = refusals(action, sorted(not_own), {})
        else:
            refused = [FileRefusal(one, str(of_others), RefusalCode.NOT_OWN) for one in sorted(not_own)]
        return [file_id for file_id in ids if file_id not in not_own], refused

    def count(self, action: FileAction, selection: FileSelection) -> int:
        """How many files of the selection allow the action; `COUNT_MAX` stands for that many or more."""
        with self._engine.connect() as connection:
            return count_matching(connection, selection.eligible(action), selection)

    def newest_id(self) -> int:
        """The greatest id of a file. Files with a greater one are not part of a selection that is made now."""
        with self._engine.connect() as connection:
            return newest_id(connection)

    def matching_ids(
        self, action: FileAction, selection: FileSelection, *, after: int, upto: int, limit: int
    ) -> list[int]:
        """The next files of a selection that allow the action: ids greater than `after`, up to `upto`, ascending."""
        with self._engine.connect() as connection:
            statuses = selection.eligible(action)
            return matching_ids(connection, statuses, selection, after=after, upto=upto, limit=limit)

    def matching_titles(
        self, action: FileAction, selection: FileSelection, *, upto: int, limit: int
    ) -> list[FileTitle]:
        """The newest files of a selection that allow the action, up to the id `upto`."""
        with self._engine.connect() as connection:
            return matching_titles(connection, selection.eligible(action), selection, upto=upto, limit=limit)

    def command_workers(self, kind: WorkerCommandKind, worker_id: str | None, principal: Principal) -> None:
        """Send quiet or resume to one worker, or to all (None). Raises UnknownWorker, Unavailable."""
        authorize(self._engine, principal, Permission.COMMAND_WORKERS, command=kind.value, worker=worker_id)
        if worker_id is not None:
            with self._engine.connect() as connection:
                if not knows_worker(connection, worker_id):
                    raise UnknownWorker(worker_id)
        self._send(WorkerCommand(kind=kind, worker_id=worker_id, timestamp=_now()))
        with self._engine.begin() as connection:
            record(connection, principal, kind.value, {"worker": worker_id})

    def forget_workers(self, ids: Sequence[str] | None, principal: Principal) -> list[str]:
        """Remove workers from the list that reported their stop, or were silent for ten minutes; None: all of them.

        Returns the ids of those that were removed. Their events stay, and a worker that sends an event is listed again.
        Raises UnknownWorker if none of `ids` is known, Conflict if none of them has stopped; Unavailable.
        """
        authorize(self._engine, principal, Permission.FORGET_WORKERS, workers=None if ids is None else list(ids))

        def forget(connection: sa.Connection) -> list[str]:
            known = [] if ids is None else [worker for worker in ids if knows_worker(connection, worker)]
            if ids and not known:
                raise UnknownWorker(ids[0])
            forgotten = forget_workers(connection, ids, FORGET_AFTER_SECONDS)
            if known and not forgotten:
                reason = (
                    f"{known[0]} has not reported its stop, and sent an event within the last "
                    f"{FORGET_AFTER_SECONDS / 60:.0f} minutes"
                )
                raise Conflict(reason, WORKER_RUNS)
            if forgotten:
                record(connection, principal, FORGET, {"workers": forgotten})
            return forgotten

        return in_transaction(self._engine, forget)

    def _unfinished(self, ids: Sequence[int]) -> list[int]:
        if not ids:
            return []
        with self._engine.connect() as connection:
            return unfinished_runs(connection, [(file_id, None) for file_id in ids])

    def _send_cancelled(self, cancelled: Sequence[CancelledRun]) -> None:
        for start in range(0, len(cancelled), COMMAND_FILES):
            part = cancelled[start : start + COMMAND_FILES]
            files = [(one.file_id, one.run) for one in part]
            try:
                self._send(WorkerCommand(kind=WorkerCommandKind.CANCEL, timestamp=_now(), files=files))
            except Unavailable as error:
                log.warning("Could not send the cancelled files to the workers", files=len(part), error=str(error))

    def _send(self, command: WorkerCommand) -> None:
        publisher = self._publisher()
        publisher.publish(self._settings.topic_worker_commands, msgspec.json.encode(command))
        if publisher.flush(ACKNOWLEDGE_SECONDS):
            raise Unavailable(
                f"Kafka at {self._settings.kafka_broker} did not acknowledge a command in time",
                code="kafka-not-acknowledged",
            )

    def _delete_object(self, key: str) -> None:
        try:
            self._bucket.delete(key)
        except (Unavailable, NotFound) as error:
            # The row is deleted, the object remains: `verify` counts it as superseded.
            log.warning("Could not delete the object of a deleted file", key=key, error=str(error))


def _refusals(
    connection: sa.Connection, action: FileAction, ids: Sequence[int], done: Sequence[int]
) -> list[FileRefusal]:
    rest = sorted(set(ids) - set(done))
    return refusals(action, rest, statuses_and_runs(connection, rest))


def _pairs(runs: Mapping[int, int]) -> list[list[int]]:
    """Files and their runs, as the audit record has them."""
    return [[file_id, run] for file_id, run in runs.items()]


def _now() -> datetime:
    return truncate_to_milliseconds(datetime.now(UTC))
