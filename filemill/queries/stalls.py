"""Which partitions are stalled, by the monitor's samples and the workers' heartbeats.

No partition is reported if the samples do not cover the allowed time: after a gap, or after the monitor's start, a
partition must stand still for the whole time again.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta

import msgspec
import sqlalchemy as sa

from filemill.config.settings import Settings
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.domain.stalls import PartitionOwner, StalledPartition, UnchangedOffset, find_stall, stall_timeout_seconds
from filemill.domain.worker_events import WorkerCondition
from filemill.queries.group import GroupState, Lags, PartitionLag, group_state
from filemill.queries.group import lags as latest_lags
from filemill.queries.workers import WorkerQuery, WorkerView, list_workers

# Older samples do not describe the present. A longer pause between two samples is a gap: an outage.
FRESH_SECONDS = 15.0
# Samples are read for the time that a partition is allowed, and for this much more.
MARGIN_SECONDS = 300.0
# Partitions that are examined at most: a thousand that stand still have one cause.
PARTITIONS_MAX = 100

# Since when the committed offset is what it is now, with lag, without a gap in the samples.
_STILL = sa.text("""
    WITH recent AS (
        SELECT partition, sampled_at, committed_offset, lag,
               sampled_at - lag(sampled_at) OVER (PARTITION BY partition ORDER BY sampled_at) AS pause
        FROM lag_samples
        WHERE group_id = :group AND partition = ANY(:partitions)
          AND sampled_at BETWEEN CAST(:latest AS timestamptz) - CAST(:period AS interval) AND :latest
    ), latest AS (
        SELECT partition, committed_offset FROM recent WHERE sampled_at = :latest
    )
    SELECT recent.partition, extract(epoch FROM CAST(:latest AS timestamptz) - coalesce(
        max(sampled_at) FILTER (
            WHERE recent.committed_offset IS DISTINCT FROM latest.committed_offset
               OR coalesce(lag, 0) = 0 OR pause > CAST(:gap AS interval)
        ), min(sampled_at)
    ))
    FROM recent JOIN latest USING (partition) GROUP BY recent.partition
""")
# The last sample in which the partition was not this member's.
_OWNED = sa.text("""
    SELECT extract(epoch FROM CAST(:latest AS timestamptz) - coalesce(
        max(sampled_at) FILTER (WHERE NOT members @> CAST(:owned AS jsonb)), min(sampled_at)
    ))
    FROM group_samples
    WHERE group_id = :group AND sampled_at BETWEEN CAST(:latest AS timestamptz) - CAST(:period AS interval) AND :latest
""")
_DISTURBED = sa.text("""
    SELECT worker_id, extract(epoch FROM clock_timestamp() - max(at)) FROM worker_events
    WHERE worker_id = ANY(:workers) AND kind IN ('started', 'assigned', 'resumed', 'breaker-closed')
      AND at > now() - CAST(:period AS interval)
    GROUP BY worker_id
""")


def stalled_partitions(
    connection: sa.Connection,
    group: GroupState | None,
    lags: Lags | None,
    *,
    group_id: str,
    processing_seconds: float,
    session_seconds: float,
    queue: str = DEFAULT_QUEUE,
) -> list[StalledPartition]:
    """The partitions of a queue that do not move, by number. `group` and `lags` are the latest samples of its group."""
    if group is None or lags is None or max(group.age_seconds, lags.age_seconds) > FRESH_SECONDS:
        return []
    owners = {partition: member.client_id for member in group.members for partition in member.partitions}
    waiting = [part for part in lags.partitions if part.lag and part.partition in owners][:PARTITIONS_MAX]
    # The usual case ends here: no record has waited for long.
    least = stall_timeout_seconds(0, session_seconds)
    waiting = [part for part in waiting if part.behind_seconds is None or part.behind_seconds > least]
    if not waiting:
        return []
    names = sorted({owners[part.partition] for part in waiting})
    workers = {view.id: view for view in list_workers(connection, WorkerQuery(ids=tuple(names)))}
    known = {name: _owner(name, workers.get(name), queue) for name in names}
    longest = max(
        processing_seconds if owner.processing_seconds is None else owner.processing_seconds for owner in known.values()
    )
    period = timedelta(seconds=stall_timeout_seconds(longest, session_seconds) + MARGIN_SECONDS)
    found = []
    for still in _standstills(connection, group_id, group, lags, waiting, owners, period):
        owner = known[owners[still.partition]]
        stalled = find_stall(still, owner, processing_seconds=processing_seconds, session_seconds=session_seconds)
        if stalled is not None:
            found.append(stalled)
    return found


def current_stalls(connection: sa.Connection, settings: Settings) -> list[StalledPartition]:
    """The stalled partitions of the settings' group, by the latest samples."""
    return stalled_partitions(
        connection,
        group_state(connection, settings.group_id),
        latest_lags(connection, settings.group_id),
        group_id=settings.group_id,
        processing_seconds=settings.longest_job_seconds,
        session_seconds=settings.session_timeout_ms / 1000,
        queue=settings.queue_name,
    )


def _standstills(
    connection: sa.Connection,
    group_id: str,
    group: GroupState,
    lags: Lags,
    waiting: Sequence[PartitionLag],
    owners: Mapping[int, str],
    period: timedelta,
) -> list[UnchangedOffset]:
    parameters = {"group": group_id, "period": period}
    of_lag = {
        **parameters,
        "latest": lags.sampled_at,
        "partitions": [part.partition for part in waiting],
        "gap": timedelta(seconds=FRESH_SECONDS),
    }
    seconds = {partition: float(span) for partition, span in connection.execute(_STILL, of_lag)}
    names = sorted({owners[part.partition] for part in waiting})
    rows = connection.execute(_DISTURBED, {"workers": names, "period": period})
    disturbed = {worker: float(span) for worker, span in rows}
    found = []
    for part in waiting:
        if part.partition not in seconds or part.lag is None:
            continue
        name = owners[part.partition]
        owned = _owned_pattern(name, part.partition)
        since = connection.execute(_OWNED, {**parameters, "latest": group.sampled_at, "owned": owned}).scalar_one()
        found.append(
            UnchangedOffset(
                part.partition,
                part.committed_offset,
                part.lag,
                min(seconds[part.partition], float(since or 0)),
                disturbed.get(name, float("inf")),
            )
        )
    return found


def _owned_pattern(client_id: str, partition: int) -> str:
    """What a sample's members contain where the partition is this client's."""
    return msgspec.json.encode([{"clientId": client_id, "partitions": [partition]}]).decode()


def _owner(worker_id: str, view: WorkerView | None, queue: str) -> PartitionOwner:
    if view is None:
        return PartitionOwner(worker_id=worker_id)
    vitals = view.vitals
    if vitals is not None:
        oldest = [one for one in vitals.oldest_records if one.queue == queue]
        vitals = msgspec.structs.replace(vitals, oldest_records=oldest)
    return PartitionOwner(
        worker_id=worker_id,
        condition=WorkerCondition(view.condition),
        silent_seconds=view.heard_seconds_ago,
        processing_seconds=view.processing_seconds,
        vitals=vitals,
    )
