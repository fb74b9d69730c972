"""Applies status updates to rows in batches, monotonically, together with the positions of their records."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import DataError, IntegrityError

from filemill.adapters.errors import first_line
from filemill.adapters.postgres.lease import PostgresLease
from filemill.adapters.postgres.tables import Tombstone
from filemill.adapters.postgres.topics import register_topics
from filemill.adapters.postgres.worker_events import store_events
from filemill.domain.files import InvalidObjectKey, Status, StatusUpdate, check_key_owner, coalesce
from filemill.domain.records import TopicIdentity
from filemill.errors import UnusableData
from filemill.ports import ApplyResult, ReceivedEvent, RejectedRecord, RejectedUpdate, RejectionCode

# Implements filemill.domain.files.supersedes for a batch. Rows are locked in the order of their ids (`coalesce` sorts),
# so that two batches cannot deadlock. A batch has one update per file and run; only the one of the row's run can apply.
# An absent value keeps the row's.
_APPLY = sa.text("""
    WITH given AS (
        SELECT * FROM json_to_recordset(CAST(:updates AS json)) AS given (
            file_id bigint, run int, status text, at timestamptz, s3_location text, sha256 text, size bigint,
            worker_id text, partition int, "offset" bigint, attempt int, step int, steps int, started_at timestamptz,
            error text, content_type text, fraction real, message text
        )
    ), ranked AS (
        SELECT given.*, (CASE status WHEN 'pending' THEN 0 WHEN 'processing' THEN 1 ELSE 2 END) AS rank FROM given
    ), stored AS (
        SELECT files.id, files.run, files.progress_at,
               (CASE files.status WHEN 'pending' THEN 0 WHEN 'processing' THEN 1 ELSE 2 END) AS rank
        FROM files WHERE files.id IN (SELECT file_id FROM given) ORDER BY files.id FOR UPDATE OF files
    ), changed AS (
        UPDATE files SET
            status = ranked.status,
            updated_at = now(),
            s3_location = coalesce(ranked.s3_location, CASE WHEN ranked.rank = 2 THEN NULL ELSE files.s3_location END),
            worker_id = CASE WHEN ranked.rank = 2 THEN ranked.worker_id
                             ELSE coalesce(ranked.worker_id, files.worker_id) END,
            kafka_partition = coalesce(ranked.partition, files.kafka_partition),
            kafka_offset = coalesce(ranked."offset", files.kafka_offset),
            attempt = coalesce(ranked.attempt, files.attempt),
            step = CASE WHEN ranked.status = 'completed' THEN coalesce(ranked.steps, files.steps)
                        ELSE coalesce(ranked.step, files.step) END,
            steps = coalesce(ranked.steps, files.steps),
            progress_at = CASE WHEN ranked.rank = 1 THEN ranked.at ELSE files.progress_at END,
            started_at = CASE
                WHEN ranked.rank = 1 AND files.worker_id IS DISTINCT FROM ranked.worker_id THEN ranked.started_at
                ELSE coalesce(ranked.started_at, files.started_at) END,
            finished_at = CASE WHEN ranked.rank = 2 THEN ranked.at END,
            sha256 = CASE WHEN ranked.rank = 2 THEN ranked.sha256 ELSE files.sha256 END,
            size = CASE WHEN ranked.rank = 2 THEN ranked.size ELSE files.size END,
            error = ranked.error,
            content_type = CASE WHEN ranked.rank = 2 THEN ranked.content_type ELSE files.content_type END,
            fraction = CASE WHEN ranked.status = 'processing' THEN coalesce(ranked.fraction, files.fraction) END,
            message = CASE WHEN ranked.status = 'processing' THEN coalesce(ranked.message, files.message) END
        FROM ranked, stored
        WHERE files.id = ranked.file_id AND stored.id = ranked.file_id
            AND coalesce(ranked.run, stored.run) = stored.run
            AND (
                ranked.rank > stored.rank
                OR ranked.rank = 1 AND stored.rank = 1
                   AND (stored.progress_at IS NULL OR ranked.at >= stored.progress_at)
            )
        RETURNING files.id
    )
    SELECT given.file_id, given.run, stored.run,
           changed.id IS NOT NULL AND coalesce(given.run, stored.run) = stored.run,
           CASE WHEN given.run > stored.run THEN given.run END
    FROM given LEFT JOIN stored ON stored.id = given.file_id LEFT JOIN changed ON changed.id = given.file_id
""")
_DELIVERY_COLUMNS = """
    file_id bigint, run int, status text, at timestamptz, worker_id text, partition int, "offset" bigint,
    started_at timestamptz, stated_start timestamptz
"""
# The events of a delivery have the same start by its worker's clock; the first one creates the row.
_DELIVERED = sa.text(f"""
    INSERT INTO deliveries (file_id, run, worker_id, partition, "offset", stated_start, started_at)
    SELECT given.file_id, coalesce(given.run, files.run), given.worker_id, given.partition, given."offset",
           given.stated_start, given.started_at
    FROM json_to_recordset(CAST(:updates AS json)) AS given ({_DELIVERY_COLUMNS})
    JOIN files ON files.id = given.file_id AND coalesce(given.run, files.run) <= files.run
    ON CONFLICT DO NOTHING
""")  # noqa: S608 - text of this module
# Results that changed nothing: repeated if their run had completed or failed before. Those of cancelled runs are not.
_REPEATED = sa.text(f"""
    INSERT INTO deliveries
        (file_id, run, worker_id, partition, "offset", stated_start, started_at, ended_at, outcome, repeated)
    SELECT DISTINCT ON (given.file_id, given.worker_id, given.stated_start)
           given.file_id, files.run, given.worker_id, given.partition, given."offset", given.stated_start,
           coalesce(given.started_at, given.at), given.at, given.status, true
    FROM json_to_recordset(CAST(:updates AS json)) AS given ({_DELIVERY_COLUMNS})
    JOIN files ON files.id = given.file_id AND coalesce(given.run, files.run) = files.run
        AND files.status IN ('completed', 'failed')
    ON CONFLICT (file_id, run, worker_id, stated_start)
        DO UPDATE SET ended_at = excluded.ended_at, outcome = excluded.outcome, repeated = true
""")  # noqa: S608 - text of this module
# Which files have these keys of foreign services. Uses the index files_by_foreign_key, which has the same expression.
# It indexes a hash, because a key may be longer than an index entry.
_HOLDERS = sa.text("""
    SELECT id, wanted.key FROM unnest(CAST(:keys AS text[])) AS wanted (key)
    JOIN files ON md5(btrim(regexp_replace(replace(s3_location, '\\', '/'), '/+', '/', 'g'), '/')) = md5(wanted.key)
        AND s3_location !~ '^file-[0-9]+-'
""")
_NOW = sa.select(sa.func.clock_timestamp())
_POSITIONS = sa.text("SELECT topic, partition, next_offset, generation FROM sync_positions")
_MOVE = sa.text("""
    INSERT INTO sync_positions (topic, partition, next_offset, generation)
    SELECT * FROM unnest(
        CAST(:topics AS text[]), CAST(:partitions AS int[]), CAST(:offsets AS bigint[]), CAST(:generations AS int[])
    )
    ON CONFLICT (topic, partition) DO UPDATE SET next_offset = excluded.next_offset, generation = excluded.generation
""")
_REJECT = sa.text("""
    INSERT INTO rejected_messages (topic, partition, "offset", reason, code, generation)
    VALUES (:topic, :partition, :offset, :reason, :code, :generation) ON CONFLICT DO NOTHING
""")


class PostgresStatusStore:
    """The rows of one database, for the holder of `lease`. (port: StatusStore)."""

    def __init__(self, engine: sa.Engine, lease: PostgresLease, topic_worker_events: str = "worker.events") -> None:
        self._engine = engine
        self._lease = lease
        self._topic_worker_events = topic_worker_events
        self._topics: dict[str, TopicIdentity] = {}
        self._generations: dict[str, int] = {}

    def now(self) -> datetime:
        """The time of day, by the database's clock."""
        with self._engine.connect() as connection:
            now: datetime = connection.execute(_NOW).scalar_one()
        return now

    def positions(self, topics: Mapping[str, TopicIdentity] | None = None) -> dict[tuple[str, int], int]:
        """The next offset to read, by topic and partition; without positions of former topics of a name."""
        unknown = {
            topic: one for topic, one in (topics or {}).items() if not one.is_same_topic(self._topics.get(topic))
        }
        with self._engine.begin() as connection:
            if unknown:
                self._generations |= register_topics(connection, unknown)
                self._topics |= unknown
            rows = connection.execute(_POSITIONS).all()
        return {
            (row.topic, row.partition): row.next_offset
            for row in rows
            if row.generation == self._generations.get(row.topic, row.generation)
        }

    def apply(
        self,
        updates: Sequence[StatusUpdate],
        positions: Mapping[tuple[str, int], int],
        rejected: Sequence[RejectedRecord] = (),
        events: Sequence[ReceivedEvent] = (),
    ) -> ApplyResult:
        """Apply the updates that supersede, store events and move the positions, in one transaction."""
        try:
            return self._apply(updates, positions, rejected, events)
        except (DataError, IntegrityError) as error:
            raise UnusableData(first_line(error.orig)) from None

    def _apply(
        self,
        updates: Sequence[StatusUpdate],
        positions: Mapping[tuple[str, int], int],
        rejected: Sequence[RejectedRecord],
        events: Sequence[ReceivedEvent],
    ) -> ApplyResult:
        with self._engine.begin() as connection:
            self._lease.fence(connection)
            applied = apply_updates(connection, updates)
            store_events(connection, events, self._generations.get(self._topic_worker_events, 1))
            if positions:
                connection.execute(
                    _MOVE,
                    {
                        "topics": [topic for topic, _ in positions],
                        "partitions": [partition for _, partition in positions],
                        "offsets": list(positions.values()),
                        "generations": [self._generations.get(topic, 1) for topic, _ in positions],
                    },
                )
            if rejected:
                connection.execute(
                    _REJECT,
                    [
                        {
                            "topic": row.topic,
                            "partition": row.partition,
                            "offset": row.offset,
                            "reason": row.reason,
                            "code": row.code.value,
                            "generation": self._generations.get(row.topic, 1),
                        }
                        for row in rejected
                    ],
                )
        return applied


def apply_updates(connection: sa.Connection, updates: Sequence[StatusUpdate]) -> ApplyResult:
    """Apply a batch in the caller's transaction; updates without a run go last, because they mean the current one."""
    rejections = _invalid_keys(connection, updates)
    usable = [update for index, update in enumerate(updates) if index not in rejections]
    changed, unknown = 0, list[int]()
    future_runs: dict[tuple[int, int | None], RejectedUpdate] = {}
    won: set[tuple[int, int | None]] = set()
    latest = coalesce(usable)
    for _, group in groupby(latest, key=lambda update: update.run is None):
        rows = connection.execute(_APPLY, {"updates": _json(list(group))})
        for file_id, given_run, run, was_changed, future_run in rows:
            changed += was_changed
            if was_changed:
                won.add((file_id, given_run))
            if run is None:
                unknown.append(file_id)
            elif future_run is not None:
                reason = f"run {future_run} of file {file_id} has not started: the file is in run {run}"
                future_runs[file_id, future_run] = RejectedUpdate(RejectionCode.FUTURE_RUN, reason)
    _store_deliveries(connection, usable, {id(one) for one in latest if (one.file_id, one.run) in won})
    if future_runs:
        for index, update in enumerate(updates):
            if rejected := future_runs.get((update.file_id, update.run)):
                rejections.setdefault(index, rejected)
    if unknown:
        deleted = sa.select(Tombstone.file_id).where(Tombstone.file_id.in_(unknown))
        unknown = sorted(set(unknown) - set(connection.execute(deleted).scalars()))
    return ApplyResult(changed, unknown, rejections)


def _store_deliveries(connection: sa.Connection, updates: Sequence[StatusUpdate], applied: set[int]) -> None:
    """Store begun deliveries, and results that changed nothing. `applied`: the identities of the others."""
    begun: dict[tuple[int, int | None, str | None, datetime], StatusUpdate] = {}
    late: list[StatusUpdate] = []
    for update in updates:
        if update.status is Status.PROCESSING:
            if update.stated_start is not None:
                begun.setdefault((update.file_id, update.run, update.worker_id, update.stated_start), update)
        elif id(update) not in applied:
            late.append(update)
    for statement, chosen in ((_DELIVERED, list(begun.values())), (_REPEATED, late)):
        if chosen:
            connection.execute(statement, {"updates": _json(chosen)})


def foreign_key_holders(connection: sa.Connection, keys: Sequence[str]) -> dict[str, set[int]]:
    """The ids of the files that have these keys, given in canonical form; only keys chosen by foreign services."""
    holders: dict[str, set[int]] = {}
    for file_id, key in connection.execute(_HOLDERS, {"keys": list(keys)}):
        holders.setdefault(key, set()).add(file_id)
    return holders


def _invalid_keys(connection: sa.Connection, updates: Sequence[StatusUpdate]) -> dict[int, RejectedUpdate]:
    """The updates that may not have their key, by their index. Only keys of foreign services need a query."""
    rejections: dict[int, RejectedUpdate] = {}
    foreign: list[tuple[int, int, str]] = []
    for index, update in enumerate(updates):
        if update.s3_location is None:
            continue
        try:
            canonical = check_key_owner(update.file_id, update.s3_location)
        except InvalidObjectKey as error:
            rejections[index] = RejectedUpdate(RejectionCode.FOREIGN_OBJECT, str(error))
        else:
            if canonical is not None:
                foreign.append((index, update.file_id, canonical))
    if foreign:
        holders = foreign_key_holders(connection, sorted({key for _, _, key in foreign}))
        for index, file_id, key in foreign:
            others = holders.setdefault(key, set()) - {file_id}
            if others:
                reason = f"s3Location is the key of file {min(others)}"
                rejections[index] = RejectedUpdate(RejectionCode.FOREIGN_OBJECT, reason)
            else:
                holders[key].add(file_id)  # the first update of a batch gets the key
    return rejections


def _json(updates: list[StatusUpdate]) -> str:
    """A batch as one parameter: fifteen array parameters took most of Python's time for a batch."""
    return msgspec.json.encode(updates).decode()
