"""The time at which a record was written, by the clock of the database, independent of its producer's clock. Pure.

The broker sets the timestamps of our topics (`message.timestamp.type=LogAppendTime`). If its clock differs from the
database's, the difference is measured and subtracted.
"""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from filemill.domain.records import Record

# Up to this difference the clocks of broker and database count as equal.
AGREED_MILLISECONDS = 5000
# The records of a broker whose clock is behind look like a backlog. After this time at the end they are none.
BEHIND_SECONDS = 1.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RecordClock:
    """Converts record timestamps to the database's clock, which is synchronized from time to time. One thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._base_ms = 0.0  # the database's clock at `clock()` 0
        self._read_ms = 0
        self._ahead_ms = 0
        self._behind_since: float | None = None
        self._last: tuple[int, datetime] = (0, _EPOCH)

    def synchronize(self, now: datetime, asked_at: float) -> None:
        """Synchronize with the database's clock: it was `now` at some time between `asked_at` and this call."""
        self._base_ms = _milliseconds(now) - 1000 * (asked_at + self._clock()) / 2

    def observe(self, records: Sequence[Record], *, to_the_end: bool) -> None:
        """Observe a batch that was just read, before `time_of` of its records. `to_the_end`: no records are left."""
        self._read_ms = round(self._base_ms + 1000 * self._clock())
        newest = max((record.timestamp_ms for record in records if record.by_broker), default=None)
        if newest is None:
            return
        ahead = newest - self._read_ms
        if ahead > AGREED_MILLISECONDS:  # a record cannot be written in the future
            self._ahead_ms, self._behind_since = ahead, None
        elif ahead >= -AGREED_MILLISECONDS:
            self._ahead_ms, self._behind_since = 0, None
        elif not to_the_end:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = self._clock()
        elif self._clock() - self._behind_since >= BEHIND_SECONDS:
            self._ahead_ms = ahead

    def time_of(self, record: Record) -> datetime:
        """The time at which the broker stored the record; if its producer set the timestamp, the time of the read."""
        moment = min(record.timestamp_ms - self._ahead_ms, self._read_ms) if record.by_broker else self._read_ms
        if moment != self._last[0]:
            self._last = (moment, _EPOCH + timedelta(milliseconds=moment))
        return self._last[1]


def _milliseconds(moment: datetime) -> float:
    return (moment - _EPOCH) / timedelta(milliseconds=1)
