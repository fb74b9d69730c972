"""The consumer group as pages describe it: its live members, who reads, and its state. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import msgspec

from filemill.queries.group import GroupMember, GroupState
from filemill_dashboard.views.visibility import ShownState

_GONE = {ShownState.DEAD, ShownState.STOPPED}
_RUNNING = {ShownState.BUSY, ShownState.IDLE, ShownState.STUCK, ShownState.STARTING}
_REBALANCING = {"PREPARING_REBALANCING", "COMPLETING_REBALANCING", "ASSIGNING", "RECONCILING"}


@dataclass(frozen=True)
class GroupView:
    """A group. `members` are the live ones, each worker once; `former` is the number of memberships that will expire.

    `readers` is the number of members that may start records: those that are not quiet. `running` is the number of
    workers that run, in the group or not.
    """

    members: list[GroupMember]
    former: int
    readers: int
    running: int
    owned: frozenset[int]
    state: str
    tone: str
    rebalancing: bool


def view_group(group: GroupState, states: Mapping[str, ShownState], quiet: Collection[str] = ()) -> GroupView:
    """Describe a sample of the group. `states` are of the known workers, by id; `quiet` are the ids of quiet ones.

    After a kill, the broker lists the former membership of a worker beside the new one until its session has expired.
    """
    members: dict[str, GroupMember] = {}
    for member in group.members:
        worker = member.client_id if member.client_id in states else None
        if worker is not None and states[worker] in _GONE:
            continue
        key = worker or member.member_id  # foreign members may share a client id
        other = members.get(key)
        partitions = member.partitions if other is None else sorted({*other.partitions, *member.partitions})
        members[key] = msgspec.structs.replace(member, partitions=partitions)
    former = len(group.members) - len(members)
    text, tone = _state(group)
    return GroupView(
        members=list(members.values()),
        former=former,
        readers=sum(member.client_id not in quiet for member in members.values()),
        running=sum(state in _RUNNING for state in states.values()),
        owned=frozenset(partition for member in group.members for partition in member.partitions),
        state=text,
        tone=tone,
        rebalancing=former > 0 or tone == "busy",
    )


def _state(group: GroupState) -> tuple[str, str]:
    """The state of a group as text, and its tone."""
    state = group.state.upper()
    if state == "UNKNOWN":
        # The client has no name for two states of the protocol `consumer`: assigning and reconciling.
        return ("not reported", "none") if group.protocol == "share" else ("reconciling", "busy")
    tone = "good" if state == "STABLE" else "busy" if state in _REBALANCING else "warn"
    return state.replace("_", " ").lower(), tone
