"""The assignment matrix: members of the consumer group and their partitions."""

from filemill.queries.group import GroupState, Lags
from filemill_dashboard.components.assets import component


def assignment(group: GroupState | None, lags: Lags | None, *, stale: bool) -> None:
    """Draw the matrix."""
    owned = {partition for member in group.members for partition in member.partitions} if group else set()
    known = {part.partition for part in lags.partitions} if lags else set()
    members = (
        [
            {"id": member.member_id, "name": member.client_id, "host": member.host, "partitions": member.partitions}
            for member in sorted(group.members, key=lambda member: (member.client_id, member.member_id))
        ]
        if group
        else []
    )
    empty = "The group has no members and no known partitions." if group else "No sample of the group yet."
    component("assignment")(
        key="assignment",
        data={
            "partitions": [{"partition": part, "owned": part in owned} for part in sorted(known | owned)],
            "members": members,
            "empty": empty,
            "stale": stale,
        },
    )
