"""The time of a record is by the database's clock, independent of the producer's and the broker's."""

from datetime import UTC, datetime, timedelta

import pytest

from filemill.domain.files import epoch_milliseconds
from filemill.domain.record_time import RecordClock
from filemill.domain.records import Record

NOW = datetime(2026, 1, 4, 12, tzinfo=UTC)
HOURS = timedelta(hours=6)


class Scene:
    """A reader whose monotonic clock is at `seconds`, and a database whose clock says NOW at 0."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.dating = RecordClock(lambda: self.seconds)
        self.dating.synchronize(NOW, 0.0)

    def read(self, *stamps: datetime, by_broker: bool = True, to_the_end: bool = True) -> list[datetime]:
        """The times of a batch, in seconds after NOW."""
        records = [
            Record("t", 0, offset, b"", [], epoch_milliseconds(stamp), by_broker=by_broker)
            for offset, stamp in enumerate(stamps)
        ]
        self.dating.observe(records, to_the_end=to_the_end)
        return [self.dating.time_of(record) for record in records]


def test_the_brokers_time_is_used_if_the_clocks_agree() -> None:
    assert Scene().read(NOW - timedelta(seconds=2), NOW) == [NOW - timedelta(seconds=2), NOW]


def test_a_backlog_keeps_the_times_at_which_it_was_written() -> None:
    harness = Scene()
    hour_ago = NOW - timedelta(hours=1)
    assert harness.read(hour_ago, to_the_end=False) == [hour_ago]
    harness.seconds = 5
    assert harness.read(hour_ago, hour_ago + timedelta(seconds=1)) == [hour_ago, hour_ago + timedelta(seconds=1)]


@pytest.mark.parametrize("claim", [NOW + HOURS, NOW - HOURS, datetime(9999, 12, 31, tzinfo=UTC)])
def test_a_producers_timestamp_is_not_used(claim: datetime) -> None:
    harness = Scene()
    harness.seconds = 7
    assert harness.read(claim, by_broker=False) == [NOW + timedelta(seconds=7)]


def test_no_time_is_in_the_future() -> None:
    assert Scene().read(NOW + timedelta(seconds=4)) == [NOW]


def test_a_broker_that_is_ahead_is_corrected_at_once() -> None:
    assert Scene().read(NOW + HOURS - timedelta(seconds=3), NOW + HOURS) == [NOW - timedelta(seconds=3), NOW]


def test_a_broker_that_is_behind_is_corrected_when_a_backlog_is_excluded() -> None:
    harness = Scene()
    assert harness.read(NOW - HOURS) == [NOW - HOURS], "a backlog would look the same"
    harness.seconds = 2
    assert harness.read(NOW - HOURS + timedelta(seconds=2)) == [NOW + timedelta(seconds=2)]
    harness.seconds = 3
    harness.read(NOW + timedelta(seconds=3))
    assert harness.read(NOW + timedelta(seconds=2)) == [NOW + timedelta(seconds=2)], "the broker's clock was corrected"


def test_the_database_clock_is_assumed_at_the_middle_of_the_query() -> None:
    harness = Scene()
    harness.seconds = 4
    harness.dating.synchronize(NOW, 0.0)
    assert harness.read(NOW + HOURS, by_broker=False) == [NOW + timedelta(seconds=2)]
