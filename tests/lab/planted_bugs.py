"""A worker with a planted bug: `python -m tests.lab.planted_bugs BUG ROLE` is `filemill run ROLE` with the bug.

Each bug is plausible, and the check of the invariants must find it.
"""

import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from filemill.domain import files
from filemill.domain.offsets import Commit, OffsetTracker, encode_metadata
from filemill.entrypoints import cli
from filemill_workers.file_processor.consumer import FileProcessor
from filemill_workers.file_processor.dispatcher import Dispatcher, QueueLimits

LATE_SECONDS = 2.0


def early_commit() -> None:
    """A record counts as finished when it is delivered: its offset is committed before its PUT."""
    deliver = OffsetTracker.track

    def wrong(self: OffsetTracker, offset: int) -> bool:
        fresh = deliver(self, offset)
        self.finish(offset)
        return fresh

    OffsetTracker.track = wrong  # type: ignore[method-assign]


def no_resume() -> None:
    """Partitions that are paused at an assignment count as running, so they are never resumed."""
    # At most six records wait, so that a few records are enough for a pause.
    few = QueueLimits(records=6, min_records=6)
    init, on_assigned, flow_control = Dispatcher.__init__, Dispatcher.on_assigned, Dispatcher.flow_control
    forgotten: set[int] = set()

    def with_few(
        self: Dispatcher,
        limit: int,
        partition_limit: int,
        queue_limits: QueueLimits | None = None,
        claim_places: Callable[[int, int], int] | None = None,
    ) -> None:
        del queue_limits
        init(self, limit, partition_limit, few, claim_places)

    def wrong_on_assigned(self: Dispatcher, partitions: Collection[int]) -> None:
        forgotten.update(self._paused)
        on_assigned(self, partitions)

    def wrong_flow_control(self: Dispatcher, *, backpressure: bool) -> tuple[list[int], list[int]]:
        pause, resume = flow_control(self, backpressure=backpressure)
        return pause, [partition for partition in resume if partition not in forgotten]

    Dispatcher.__init__ = with_few  # type: ignore[method-assign]
    Dispatcher.on_assigned = wrong_on_assigned  # type: ignore[method-assign]
    Dispatcher.flow_control = wrong_flow_control  # type: ignore[method-assign]


def commit_after_revoke() -> None:
    """What was revoked is committed once more, a little later, when it is somebody else's."""
    revoked = FileProcessor.on_revoked

    def wrong(self: FileProcessor, partitions: Sequence[int]) -> None:
        late = {}
        for number in partitions:
            position = self._offsets[number].position if number in self._offsets else None
            if position is not None:
                text = encode_metadata(self._worker_id, self._epochs[number], position, [])
                late[number] = Commit(position, text, 0)
        revoked(self, partitions)
        source = self._source
        assert source is not None

        def commit() -> None:
            time.sleep(LATE_SECONDS)
            source.commit_sync(late, 5)

        threading.Thread(target=commit, daemon=True).start()

    FileProcessor.on_revoked = wrong  # type: ignore[method-assign]


def clock_in_the_key() -> None:
    """The object's key is made of the moment of processing."""
    from filemill_workers.file_processor import record_task  # noqa: PLC0415 - what is patched

    def wrong(file_id: int, requested_at: datetime, extension: str = "txt", attempt: str = "") -> str:
        return files.object_key(file_id, datetime.now(requested_at.tzinfo), extension, attempt)

    record_task.object_key = wrong  # type: ignore[attr-defined]


def backward_status() -> None:
    """The sync applies whatever it reads."""
    from filemill.adapters.postgres import status_store  # noqa: PLC0415 - what is patched

    rule = "AND coalesce(ranked.run, stored.run) = stored.run"
    before, rule, after = status_store._APPLY.text.partition(rule)
    assert rule, "the statement has changed: plant the bug again"
    returning = "RETURNING files.id\n" + after.partition("RETURNING files.id\n")[2]
    status_store._APPLY = sa.text(f"{before}{returning}")


def dropping_relay() -> None:
    """The relay forgets a row of each batch that it claims."""
    from filemill.adapters.postgres.outbox import PostgresOutbox  # noqa: PLC0415 - what is patched

    claim = PostgresOutbox.claim

    def wrong(self: PostgresOutbox, limit: int, partitions: int, generation: int = 1) -> list[Any]:
        rows = claim(self, limit, partitions, generation)
        for row in rows[:1]:
            with self._engine.begin() as connection:
                connection.execute(sa.text("DELETE FROM outbox WHERE id = :id"), {"id": row.outbox_id})
        return rows[1:]

    PostgresOutbox.claim = wrong  # type: ignore[method-assign]


BUGS: dict[str, Callable[[], None]] = {
    "early-commit": early_commit,
    "no-resume": no_resume,
    "commit-after-revoke": commit_after_revoke,
    "clock-in-the-key": clock_in_the_key,
    "backward-status": backward_status,
    "dropping-relay": dropping_relay,
}

if __name__ == "__main__":
    BUGS[sys.argv[1]]()
    sys.argv = ["filemill", "run", *sys.argv[2:]]
    cli.main()
