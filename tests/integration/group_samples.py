"""Samples of a group as the group monitor stores them, for tests."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from filemill.adapters.postgres.tables import GroupSample, LagSample

GROUP = "group"


def insert_samples(
    connection: sa.Connection,
    committed: Mapping[int, int],
    *,
    since: float = 60,
    upto: float = 0,
    owner: str = "w",
    group: str = GROUP,
) -> None:
    """Insert samples of the time from `since` to `upto` seconds ago; each partition ends at offset 1,000."""
    now = datetime.now(UTC)
    for ago in range(int(since), int(upto) - 1, -2):
        moment = now - timedelta(seconds=ago)
        rows = [
            {
                "group_id": group,
                "sampled_at": moment,
                "partition": partition,
                "begin_offset": 0,
                "end_offset": 1000,
                "committed_offset": offset,
                "lag": 1000 - offset,
            }
            for partition, offset in committed.items()
        ]
        connection.execute(sa.insert(LagSample), rows)
        member = {"memberId": "m", "clientId": owner, "host": "", "partitions": sorted(committed)}
        state = {"group_id": group, "sampled_at": moment, "state": "STABLE", "protocol": "consumer"}
        connection.execute(sa.insert(GroupSample).values(**state, members=[member]))
