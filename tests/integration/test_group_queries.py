"""Reading the group: the latest sample, rates, and the history of its lag."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import GroupSample, LagSample, LeaseRow
from filemill.queries.group import flow, group_state, lag_history, lags, leases
from filemill.queries.overview import overview

GROUP = "group"


def sample(
    connection: sa.Connection, ago: float, lags: dict[int, int | None], *, end: int = 1000, group: str = GROUP
) -> None:
    rows = [
        {
            "group_id": group,
            "sampled_at": datetime.now(UTC) - timedelta(seconds=ago),
            "partition": partition,
            "begin_offset": 0,
            "end_offset": end,
            "committed_offset": None if lag is None else end - lag,
            "lag": lag,
        }
        for partition, lag in lags.items()
    ]
    moment = datetime.now(UTC) - timedelta(seconds=ago)
    connection.execute(sa.insert(LagSample), [{**row, "sampled_at": moment} for row in rows])


def test_without_samples_everything_is_unknown(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        seen = overview(connection, GROUP)
        assert (seen.group, seen.lags, seen.flow.produced, seen.flow.committed) == (None, None, None, None)
        assert (seen.counts.total, seen.outbox.depth, seen.leases) == (0, 0, {})
        assert lag_history(connection, GROUP, timedelta(minutes=5)).moments == []


def test_behind_seconds_start_at_the_last_sample_that_is_fully_processed(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        sample(connection, 4000, {1: 0}, end=100)  # too long ago to tell
        for ago, end in ((300, 100), (60, 500), (30, 800)):
            sample(connection, ago, {0: 0}, end=end)
        sample(connection, 1, {0: 450, 1: 900, 2: 0, 3: None})  # of 1,000
        found = lags(connection, GROUP)
    assert found is not None
    behind = [part.behind_seconds for part in found.partitions]
    assert behind[0] == pytest.approx(59, abs=2)
    assert behind[1:] == [None, 0, None]
    assert found.behind_seconds is None
    with engine.begin() as connection:
        sample(connection, 0, {0: 450, 2: 0})
        after = lags(connection, GROUP)
    assert after is not None
    assert after.behind_seconds == pytest.approx(60, abs=2)


def test_the_latest_sample_is_used_and_its_age_is_reported(engine: sa.Engine) -> None:
    members = [{"memberId": "m", "clientId": "c", "host": "h", "partitions": [0, 2]}]
    with engine.begin() as connection:
        for ago, state in ((100, "EMPTY"), (10, "STABLE")):
            moment = datetime.now(UTC) - timedelta(seconds=ago)
            connection.execute(
                sa.insert(GroupSample).values(
                    group_id=GROUP, sampled_at=moment, state=state, protocol="consumer", members=members
                )
            )
        sample(connection, 100, {0: 1, 1: 1})
        sample(connection, 10, {0: 5, 1: None, 2: 7})
        sample(connection, 1, {0: 99}, group="another")
        state_now, lags_now = group_state(connection, GROUP), lags(connection, GROUP)
    assert state_now is not None
    assert (state_now.state, state_now.protocol) == ("STABLE", "consumer")
    assert (state_now.members[0].client_id, state_now.members[0].partitions) == ("c", [0, 2])
    assert 10 <= state_now.age_seconds < 40
    assert lags_now is not None
    assert [part.lag for part in lags_now.partitions] == [5, None, 7]
    assert lags_now.total is None
    assert 10 <= lags_now.age_seconds < 40


def test_rates_compare_the_first_and_the_last_sample_of_a_period(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        sample(connection, 500, {0: 0, 1: 0}, end=1)
        sample(connection, 40, {0: 100, 1: 0}, end=1000)
        sample(connection, 20, {0: 7, 1: 7}, end=1100)
        sample(connection, 0, {0: 20, 1: 0, 2: 5}, end=1200)
        rates = flow(connection, GROUP)
    assert rates.seconds == pytest.approx(40, abs=1)
    # Partitions 0 and 1: 200 records each were produced; 280 and 200 were committed. Partition 2 has one sample only.
    assert rates.produced == pytest.approx(400 / 40, rel=0.05)
    assert rates.committed == pytest.approx(480 / 40, rel=0.05)


def test_one_sample_gives_no_rate(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        sample(connection, 1, {0: 3})
        rates = flow(connection, GROUP)
    assert (rates.produced, rates.committed) == (None, None)


def test_a_short_history_has_every_sample_and_keeps_gaps(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        for ago, lag in ((60, 1), (58, 2), (20, 3), (18, None)):
            sample(connection, ago, {0: lag, 1: 9})
        sample(connection, 4000, {0: 77})
        history = lag_history(connection, GROUP, timedelta(minutes=5), interval_seconds=2)
    assert history.bin_seconds is None
    assert history.lags == {0: [1, 2, None, 3, None], 1: [9, 9, None, 9, 9]}


def test_a_long_history_is_downsampled_and_keeps_its_peaks(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        for step in range(900):
            sample(connection, 2.0 * step, {0: 1000 if step == 450 else 1})
        history = lag_history(connection, GROUP, timedelta(hours=1), interval_seconds=2, points=60)
    assert history.bin_seconds == 60
    assert 29 <= len(history.moments) <= 32
    assert max(lag for lag in history.lags[0] if lag is not None) == 1000
    assert sorted(set(history.lags[0]), key=str) == [1, 1000]


def test_an_added_partition_has_no_history(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        sample(connection, 4, {0: 1})
        sample(connection, 2, {0: 2, 1: 5})
        history = lag_history(connection, GROUP, timedelta(minutes=5))
    assert history.lags == {0: [1, 2], 1: [None, 5]}


def test_an_expired_lease_is_not_held(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        for name, seconds in (("relay", 60), ("sync", -60)):
            expires = datetime.now(UTC) + timedelta(seconds=seconds)
            connection.execute(sa.insert(LeaseRow).values(name=name, holder="me", fencing=1, expires_at=expires))
        found = leases(connection)
    assert {name: lease.held for name, lease in found.items()} == {"relay": True, "sync": False}
