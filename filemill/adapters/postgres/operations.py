"""What people do to files: retry, cancel, delete. Each is one transaction, and each is on record in `operations`."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog

from filemill.adapters.postgres.status import foreign_key_holders
from filemill.adapters.postgres.tables import File, Operation
from filemill.config.logging import LogRateLimit
from filemill.domain.files import TERMINAL_RANK, ForeignKey, Status, claim_key
from filemill.domain.messages import new_traceparent
from filemill.domain.offsets import ResetSeen

log = structlog.get_logger("operations")

# Lines about refused operations: so many a minute.
REFUSALS_PER_MINUTE = 30
_refusals = LogRateLimit(REFUSALS_PER_MINUTE, 60.0)

RUN_MAX = 2**31 - 1  # PostgreSQL's integer: no run can follow it
_NO_FILE = "there is no such file"
_RETRY = sa.text("""
    WITH again AS (
        UPDATE files SET
            run = files.run + 1, status = 'pending', updated_at = now(), worker_id = NULL, kafka_partition = NULL,
            kafka_offset = NULL, attempt = NULL, step = NULL, steps = NULL, progress_at = NULL, started_at = NULL,
            finished_at = NULL, error = NULL
        WHERE id IN (SELECT id FROM files WHERE id = ANY(CAST(:ids AS bigint[]))
                     AND status IN ('failed', 'cancelled') AND run < :run_max ORDER BY id FOR UPDATE)
        RETURNING id, run
    ), queued AS (
        INSERT INTO outbox (file_id, run, traceparent) SELECT id, run, :traceparent FROM again ORDER BY id
    )
    SELECT id, run FROM again ORDER BY id
""")
# What is not on Kafka yet never gets there; what is, its worker is told of.
_CANCEL = sa.text("""
    WITH unwanted AS (
        UPDATE files SET status = 'cancelled', updated_at = now(), finished_at = now()
        WHERE id IN (SELECT id FROM files WHERE id = ANY(CAST(:ids AS bigint[]))
                     AND status IN ('pending', 'processing') ORDER BY id FOR UPDATE)
        RETURNING id, run
    ), unqueued AS (
        DELETE FROM outbox USING unwanted
        WHERE outbox.file_id = unwanted.id AND outbox.run = unwanted.run AND outbox.publish_number IS NULL
        RETURNING outbox.file_id
    )
    SELECT id, run, id IN (SELECT file_id FROM unqueued) FROM unwanted ORDER BY id
""")
_DELETE = sa.text("""
    WITH gone AS (
        DELETE FROM files
        WHERE id IN (SELECT id FROM files WHERE id = ANY(CAST(:ids AS bigint[]))
                     AND status IN ('completed', 'failed', 'cancelled')
                     AND NOT EXISTS (SELECT FROM outbox WHERE outbox.file_id = files.id) ORDER BY id FOR UPDATE)
        RETURNING id, run, status, s3_location
    ), buried AS (
        INSERT INTO tombstones (file_id, run, status, s3_location) SELECT id, run, status, s3_location FROM gone
    )
    SELECT id, s3_location FROM gone ORDER BY id
""")


# A record without a run means the row's current one, as everywhere.
_UNFINISHED = sa.text("""
    SELECT DISTINCT files.id FROM files
    JOIN unnest(CAST(:ids AS bigint[]), CAST(:runs AS integer[])) AS wanted (id, run) ON wanted.id = files.id
    WHERE files.status IN ('pending', 'processing') AND files.run = coalesce(wanted.run, files.run)
    ORDER BY files.id
""")
# The group's offsets were moved; `detail` has the topic, and [partition, old, new] of each that changed.
OFFSETS_RESET = "offsets.reset"
ACTOR_MAX_CHARACTERS = 200
_RESETS = sa.text("""
    SELECT CAST(part ->> 0 AS integer), CAST(part ->> 1 AS bigint), CAST(part ->> 2 AS bigint), extract(epoch FROM at)
    FROM operations, jsonb_array_elements(detail -> 'partitions') AS part
    WHERE action = :action AND detail ->> 'group' = :group AND detail ->> 'topic' = :topic
        AND NOT detail ? 'refused'
    ORDER BY id
""")


class Refused(msgspec.Struct, frozen=True):
    """A file to which something was not done, and why."""

    file_id: int
    reason: str


class Cancelled(msgspec.Struct, frozen=True):
    """A run that was cancelled; `published` where a worker may have it, or get it."""

    file_id: int
    run: int
    published: bool


def retry_files(connection: sa.Connection, ids: Sequence[int], *, actor: str, action: str = "retry") -> list[int]:
    """Start a new run of those of the files that failed or were cancelled; returns which they are."""
    rows = connection.execute(_RETRY, {"ids": list(ids), "traceparent": new_traceparent(), "run_max": RUN_MAX}).all()
    done = [row.id for row in rows]
    _record_done(connection, actor, action, [[row.id, row.run] for row in rows], len(ids))
    return done


def cancel_files(connection: sa.Connection, ids: Sequence[int], *, actor: str) -> list[Cancelled]:
    """Cancel those of the files that have not ended. The caller tells the workers of the published ones."""
    rows = connection.execute(_CANCEL, {"ids": list(ids)}).all()
    cancelled = [Cancelled(file_id, run, not unqueued) for file_id, run, unqueued in rows]
    _record_done(connection, actor, "cancel", [[one.file_id, one.run] for one in cancelled], len(ids))
    return cancelled


def delete_files(connection: sa.Connection, ids: Sequence[int], *, actor: str) -> dict[int, str | None]:
    """Delete those of the files that have ended, leaving tombstones.

    Returns the keys of their objects, for the caller to delete; None where there is none, or where the key is another
    file's: the status store refuses such keys, but rows of older versions may have one.
    """
    rows = connection.execute(_DELETE, {"ids": list(ids)}).all()
    deleted = _own_keys(connection, {row.id: row.s3_location for row in rows})
    _record_done(connection, actor, "delete", sorted(deleted), len(ids))
    return deleted


def _own_keys(connection: sa.Connection, keys: Mapping[int, str | None]) -> dict[int, str | None]:
    """The keys of files that are gone, where no file that is left has them."""
    own, foreign = dict(keys), dict[int, str]()
    for file_id, key in keys.items():
        try:
            canonical = claim_key(file_id, key) if key is not None else None
        except ForeignKey as error:
            log.warning("The object of a deleted file is kept: it is not its own", file=file_id, reason=str(error))
            own[file_id] = None
        else:
            if canonical is not None:
                foreign[file_id] = canonical
    holders = foreign_key_holders(connection, sorted(set(foreign.values()))) if foreign else {}
    for file_id, canonical in foreign.items():
        if others := holders.get(canonical):
            log.warning("The object of a deleted file is kept: another file has it", file=file_id, other=min(others))
            own[file_id] = None
    return own


def refusals(connection: sa.Connection, ids: Sequence[int], done: Sequence[int], verb: str) -> list[Refused]:
    """Why the others were left alone."""
    left = sorted(set(ids) - set(done))
    if not left:
        return []
    found = sa.select(File.id, File.status, File.run).where(File.id.in_(left))
    rows = {row.id: row for row in connection.execute(found)}
    return [
        Refused(file_id, _why(Status(rows[file_id].status), rows[file_id].run, verb) if file_id in rows else _NO_FILE)
        for file_id in left
    ]


def _why(status: Status, run: int, verb: str) -> str:
    if verb == "retried" and run >= RUN_MAX and status in (Status.FAILED, Status.CANCELLED):
        return "it has no further run: ask for it anew"
    if verb != "cancel" and status.rank < TERMINAL_RANK:
        return f"it is {status}: only one that has ended can be {verb}"
    if verb == "deleted":
        return "its request is on its way to Kafka: try again in a moment"
    return f"it is {status}"


def unfinished_runs(connection: sa.Connection, runs: Sequence[tuple[int, int | None]]) -> list[int]:
    """Of some (file, run), those files whose run has not ended; a run of None is whichever is the row's now."""
    columns = {"ids": [file_id for file_id, _ in runs], "runs": [run for _, run in runs]}
    return list(connection.execute(_UNFINISHED, columns).scalars())


def offset_resets(connection: sa.Connection, group: str, topic: str) -> list[ResetSeen]:
    """Each move of a partition's offset by a person that is on record, in their order."""
    wanted = {"action": OFFSETS_RESET, "group": group, "topic": topic}
    return [ResetSeen(part, old, new, float(at)) for part, old, new, at in connection.execute(_RESETS, wanted)]


def _record_done(connection: sa.Connection, actor: str, action: str, files: Sequence[object], asked: int) -> None:
    """Put on record what was done; where nothing was, the log has it: anybody may ask for that again and again."""
    if files:
        record(connection, actor, action, {"files": list(files), "asked": asked})
    elif asked:
        tell_refused(actor, action, "none of the files can be", files=asked)


def tell_refused(actor: str, action: str, why: str, **about: object) -> None:
    """Log an operation that was refused. Of many, some: the others are counted in the next line."""
    left_out = _refusals.admit()
    if left_out is not None:
        log.warning("Refused an operation", actor=actor, action=action, reason=why, left_out=left_out, **about)


def record(connection: sa.Connection, actor: str, action: str, detail: Mapping[str, Any]) -> int:
    """Put an operation on record, in its own transaction; returns the record's id."""
    who = "".join(character for character in actor[:ACTOR_MAX_CHARACTERS] if character.isprintable())
    made = sa.insert(Operation).values(actor=who, action=action, detail=dict(detail)).returning(Operation.id)
    return int(connection.execute(made).scalar_one())


def refuse(connection: sa.Connection, operation: int, why: str) -> None:
    """Put on record that an operation that was about to be done was refused after all."""
    refused = Operation.detail.concat({"refused": why})
    connection.execute(sa.update(Operation).where(Operation.id == operation).values(detail=refused))
