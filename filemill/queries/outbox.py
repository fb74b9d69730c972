"""The outbox over time: it shows an outage of the broker after it is over."""

from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa


class OutboxHistory(msgspec.Struct, frozen=True):
    """The monitor's samples, downsampled: the greatest value of each bin, so that no peak is hidden.

    At each of `moments`: `depths` in requests, `ages` of the oldest request in seconds; an empty outbox has the age 0.
    A gap in the samples is one moment without values.
    """

    moments: list[datetime]
    depths: list[int | None]
    ages: list[float | None]


_HISTORY = sa.text("""
    SELECT date_bin(CAST(:bin AS interval), sampled_at, TIMESTAMPTZ '2000-01-01') AS moment,
           max(depth), max(coalesce(oldest_age_seconds, 0))
    FROM outbox_samples WHERE sampled_at > now() - CAST(:period AS interval)
    GROUP BY moment ORDER BY moment
""")


def outbox_history(
    connection: sa.Connection, period: timedelta, *, interval_seconds: float = 2.0, points: int = 300
) -> OutboxHistory:
    """The outbox over the last `period`, in at most about `points` moments. `interval_seconds`: the monitor's."""
    width = timedelta(seconds=max(interval_seconds, period.total_seconds() / points))
    found = OutboxHistory([], [], [])
    for moment, depth, age in connection.execute(_HISTORY, {"period": period, "bin": width}):
        if found.moments and moment - found.moments[-1] > 3 * width:
            found.moments.append(found.moments[-1] + width)
            found.depths.append(None)
            found.ages.append(None)
        found.moments.append(moment)
        found.depths.append(int(depth))
        found.ages.append(float(age))
    return found
