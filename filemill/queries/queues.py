"""The state of each queue: its backlog on Kafka and in the outbox, its members, and the age of both."""

from collections.abc import Iterable

import msgspec
import sqlalchemy as sa

from filemill.domain.queues import Queue
from filemill.queries.group import group_state, lags


class QueueState(msgspec.Struct, frozen=True, kw_only=True):
    """A queue when its group was last sampled, `age_seconds` ago; None: unknown.

    `backlog`: records that are not committed. `behind_seconds`: how long the oldest of them has waited. `in_outbox`:
    requests that are not on Kafka yet. `in_progress`: records in progress, as the running workers reported.
    """

    name: str
    topic: str
    group: str
    weight: int
    reserved: int
    members: int | None
    backlog: int | None
    behind_seconds: float | None
    in_outbox: int
    in_progress: int
    age_seconds: float | None


_OUTBOX = sa.text("SELECT queue, count(*) FROM outbox GROUP BY queue")
# A worker of the queue `default` alone reports no queues.
_IN_PROGRESS = sa.text("""
    SELECT coalesce(part ->> 'queue', 'default'), sum(coalesce(CAST(part ->> 'inFlight' AS int), 0))
    FROM workers
    CROSS JOIN LATERAL jsonb_array_elements(
        CASE WHEN jsonb_array_length(coalesce(vitals -> 'queues', '[]')) > 0 THEN vitals -> 'queues'
             ELSE jsonb_build_array(jsonb_build_object('inFlight', vitals -> 'inFlight')) END
    ) AS part
    WHERE kind <> 'stopped' AND vitals IS NOT NULL AND heard_at > clock_timestamp() - make_interval(secs => :dead)
    GROUP BY 1
""")


def queue_states(connection: sa.Connection, queues: Iterable[Queue], dead_seconds: float) -> list[QueueState]:
    """The state of each of these queues, in the order given. A worker without an event for `dead_seconds` is dead."""
    outbox = {queue: int(count) for queue, count in connection.execute(_OUTBOX)}
    progress = {queue: int(count) for queue, count in connection.execute(_IN_PROGRESS, {"dead": dead_seconds})}
    found = []
    for queue in queues:
        group, lag = group_state(connection, queue.group), lags(connection, queue.group)
        found.append(
            QueueState(
                name=queue.name,
                topic=queue.topic,
                group=queue.group,
                weight=queue.weight,
                reserved=queue.reserved,
                members=None if group is None else len(group.members),
                backlog=None if lag is None else lag.total,
                behind_seconds=None if lag is None else lag.behind_seconds,
                in_outbox=outbox.get(queue.name, 0),
                in_progress=progress.get(queue.name, 0),
                age_seconds=None if group is None else group.age_seconds,
            )
        )
    return found
