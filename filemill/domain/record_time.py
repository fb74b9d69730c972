"""When a record was written, by the clock of the database, whatever its producer's clock says. Pure.

The broker dates the records of our topics (`message.timestamp.type=LogAppendTime`). Its clock and the database's are
taken to agree; where they do not, the difference is measured and taken out. A producer's own time is only its claim.
"""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from filemill.domain.records import Record

# Within this much the clocks of broker and database count as one.
AGREED_MILLISECONDS = 5000
# A broker that is behind looks like a backlog at first. After this long with nothing left to read, it is no backlog.
BEHIND_SECONDS = 1.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RecordClock:
    """The database's moments of records, for one reader that has the database's clock from time to time. One thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._base_ms = 0.0  # the database's clock at `clock()` 0
        self._read_ms = 0
        self._ahead_ms = 0
        self._behind_since: float | None = None
        self._last: tuple[int, datetime] = (0, _EPOCH)

    def synchronize(self, now: datetime, asked_at: float) -> None:
        """Take over the database's clock: it said `now` between `asked_at` and this moment."""
        self._base_ms = _milliseconds(now) - 1000 * (asked_at + self._clock()) / 2

    def observe(self, records: Sequence[Record], *, to_the_end: bool) -> None:
        """Note a batch that was just read; `to_the_end`: nothing was left to read. Its records may be dated then."""
        self._read_ms = round(self._base_ms + 1000 * self._clock())
        newest = max((record.timestamp_ms for record in records if record.by_broker), default=None)
        if newest is None:
            return
        ahead = newest - self._read_ms
        if ahead > AGREED_MILLISECONDS:  # nothing is written in the future
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
        """The moment when the broker took the record; of one that its producer dated, when it was read."""
        moment = min(record.timestamp_ms - self._ahead_ms, self._read_ms) if record.by_broker else self._read_ms
        if moment != self._last[0]:
            self._last = (moment, _EPOCH + timedelta(milliseconds=moment))
        return self._last[1]


def _milliseconds(moment: datetime) -> float:
    return (moment - _EPOCH) / timedelta(milliseconds=1)
