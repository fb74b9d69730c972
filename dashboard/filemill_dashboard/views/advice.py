"""Advice to the operator: what is wrong with the pipeline, and what to do. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from filemill.domain.stalls import StalledPartition, StallReason
from filemill.queries.files import OutboxState
from filemill.queries.group import Flow, GroupState, Lags, LeaseState
from filemill.queries.overview import RecreatedTopic
from filemill_dashboard.views.durations import format_coarse
from filemill_dashboard.views.group_view import GroupView, view_group
from filemill_dashboard.views.plurals import counted, inflect
from filemill_dashboard.views.visibility import CLEAR, Visibility

# A sample that is older than this many of the monitor's intervals is stale.
STALE_INTERVALS = 5
STALE_SECONDS_MIN = 10.0
# A request leaves the outbox within milliseconds. If it waits for this long, something holds it up.
OUTBOX_DELAY_SECONDS = 5.0
# A lag is steady if it changes by less than this, or by less than this share of the throughput.
STEADY_PER_SECOND = 0.2
STEADY_SHARE = 0.05
# At most this many owners of stalled partitions are named.
OWNERS_SHOWN = 5
_WHAT_TO_DO = {
    StallReason.QUIET: "",
    StallReason.BREAKER: "It continues when the server is reachable again.",
    StallReason.RECORD: "Restart the worker, so that another one reprocesses the record. Keep its log.",
    StallReason.COMMITS: "Check its log. If this persists, restart the worker.",
    StallReason.SILENT: "Check its log and its connection to Kafka. If this persists, restart it.",
    StallReason.UNKNOWN: "Check its log. If this persists, restart it.",
}
_RESTARTED = "The stack restarts it within seconds. If this persists, check its log."


@dataclass(frozen=True)
class Advice:
    """`what` is the problem, `text` the explanation and remedy. `tone` is bad, warn or none."""

    tone: str
    what: str
    text: str = ""


def advise(
    group: GroupState | None,
    lags: Lags | None,
    outbox: OutboxState,
    leases: Mapping[str, LeaseState],
    stalled: Sequence[StalledPartition] = (),
    *,
    unknown_ids: int = 0,
    interval_seconds: float,
    view: GroupView | None = None,
    visibility: Visibility = CLEAR,
    embedded: bool = False,
) -> list[Advice]:
    """All advice, the most urgent first. While the monitor is stale, its samples are not used.

    `view`: the group with what is known of its workers. Until all servers have been reachable for some seconds, there
    is no advice, because a banner names the cause. `embedded`: a supervisor restarts the workers.
    """
    if not visibility.settled:
        return []
    staleness = _staleness(group, interval_seconds, embedded=embedded)
    found: list[Advice] = []
    if not staleness and group is not None:
        view = view or view_group(group, {})
        found = [*_about_group(view, lags, embedded=embedded), *_about_quiet(view, lags)]
        shown = [one for one in stalled if view.readers or one.reason is not StallReason.QUIET]
        found += _about_stalled(shown)
    found += [*_about_roles(outbox, leases, visibility, embedded=embedded), *_about_unknown_ids(unknown_ids)]
    return sorted(found + staleness, key=lambda advice: ("bad", "warn", "none").index(advice.tone))


def lost_requests(requests: int | None) -> list[Advice]:
    """Advice about requests whose records were removed from Kafka."""
    if not requests:
        return []
    subject = f"{_number(requests).capitalize()} {inflect(requests, 'request was', 'requests were')}"
    text = "Retention removed the records, or their topic was deleted. No worker will process these requests."
    return [Advice("bad", f"{subject} removed from Kafka before being processed", text)]


def recreated_topics(recreated: Sequence[RecreatedTopic]) -> list[Advice]:
    """Advice about topics that were deleted and created again."""
    return [
        Advice(
            "warn",
            f"The topic {one.topic} was deleted and created again",
            f"Detected at {one.noticed_at:%Y-%m-%d %H:%M:%S} UTC. Workers read the new topic from its beginning.",
        )
        for one in recreated
    ]


def even_shares(members: int, partitions: int) -> list[int]:
    """How many partitions each member gets if they are distributed evenly."""
    return [partitions // members + (place < partitions % members) for place in range(members)]


def trend(lag: int | None, flow: Flow, readers: int | None = None) -> str | None:
    """Whether the lag grows or shrinks, and when it will be zero at the current rate; None if unknown.

    `readers` is the number of members that may start records: without one, past commits are no forecast.
    """
    if lag is None or flow.produced is None or flow.committed is None:
        return None
    if lag and readers == 0:
        return "no worker reads it"
    if not lag and flow.produced == 0:
        return "steady"
    gain = flow.committed - flow.produced
    if abs(gain) < max(STEADY_PER_SECOND, STEADY_SHARE * flow.committed):
        return "steady"
    if gain < 0:
        return f"growing by {-gain:,.1f} /s"
    return f"shrinking, clear in {format_coarse(lag / gain)}"


def lag_age(seconds: float | None) -> str | None:
    """How long the oldest uncommitted record has waited; None if unknown."""
    return None if seconds is None else f"{format_coarse(seconds)} behind"


def is_stale(group: GroupState | None, interval_seconds: float) -> bool:
    """Whether there is no sample of the group, or the latest one does not describe the present."""
    return group is None or group.age_seconds > max(STALE_SECONDS_MIN, STALE_INTERVALS * interval_seconds)


def _staleness(group: GroupState | None, interval_seconds: float, *, embedded: bool) -> list[Advice]:
    if not is_stale(group, interval_seconds):
        return []
    if group is None:
        start = _start("monitor", embedded=embedded)
        text = f"{start} Until then, lag and assignment are unknown."
        return [Advice("warn", "The group monitor has not reported yet", text)]
    silent = f"The group monitor has been silent for {format_coarse(group.age_seconds)}"
    remedy = _RESTARTED if embedded else "Check its log, or restart it."
    return [Advice("warn", silent, f"Lag and assignment are from that time. {remedy}")]


def _start(role: str, *, embedded: bool) -> str:
    return _RESTARTED if embedded else f"Start `filemill run {role}`."


def _about_group(view: GroupView, lags: Lags | None, *, embedded: bool) -> list[Advice]:
    if lags is None:
        return []
    members, partitions = len(view.members), [part.partition for part in lags.partitions]
    if not members:
        waiting = f"{counted(lags.total, 'record is', 'records are')} waiting." if lags.total else ""
        if view.running:
            running = counted(view.running, "worker is running and joins", "workers are running and join")
            text = f"{waiting} {running} it. This should end within seconds.".strip()
            return [Advice("warn", "The group has no members", text)]
        start = "Scale the file processors on the Workers page." if embedded else "Start one: `filemill run processor`."
        return [Advice("bad", "No file processor is running", f"{waiting} {start}".strip())]
    found = []
    orphans = [partition for partition in partitions if partition not in view.owned]
    if orphans:
        names = _names("partition", orphans)
        found.append(
            Advice("warn", f"{names} without an owner", "The group is rebalancing. This should end within seconds.")
            if view.rebalancing
            else Advice("bad", f"{names} without an owner", "No worker reads them. Check the processors' logs.")
        )
    idle = sum(not member.partitions for member in view.members)
    if idle and partitions and members > len(partitions):
        even = "/".join(str(share) for share in even_shares(members, len(partitions) * 2))
        have = f"{counted(members, 'worker')}, {counted(len(partitions), 'partition')}: {_number(idle)} idle"
        text = f"With {counted(2 * len(partitions), 'partition')}, the workers would have {even}."
        found.append(Advice("none", have, text))
    elif idle and not view.rebalancing:
        some = f"{_number(idle).capitalize()} of {counted(members, 'worker')}"
        found.append(Advice("warn", f"{some} {inflect(idle, 'has', 'have')} no partition yet"))
    return found


def _about_quiet(view: GroupView, lags: Lags | None) -> list[Advice]:
    """Quiet workers start no records, on purpose; somebody may have forgotten them."""
    if lags is None or not lags.total or not view.members or view.readers:
        return []
    what = (
        "The only worker is quiet"
        if len(view.members) == 1
        else f"All {counted(len(view.members), 'worker')} are quiet"
    )
    waiting = counted(lags.total, "record waits", "records wait")
    behind = f", the oldest for {format_coarse(lags.behind_seconds)}" if lags.behind_seconds else ""
    return [Advice("warn", what, f"{waiting}{behind}. Resume them on the Workers page, or `filemill workers resume`.")]


def _about_stalled(stalled: Sequence[StalledPartition]) -> list[Advice]:
    """One piece of advice per cause: an unreachable server or a quiet worker stops many partitions at once."""
    alike: dict[tuple[StallReason, str], list[StalledPartition]] = {}
    for one in stalled:
        cause = "" if one.explained else one.sentence if one.reason is StallReason.RECORD else one.owner
        alike.setdefault((one.reason, cause), []).append(one)
    found = []
    for (reason, _), some in alike.items():
        names = _names("partition", [one.partition for one in some])
        tone = "warn" if some[0].explained else "bad"
        longest = max(some, key=lambda one: one.seconds).sentence
        parts = [f"{longest[0].upper()}{longest[1:]}.", _WHAT_TO_DO[reason], _others(some)]
        text = " ".join(part for part in parts if part)
        found.append(Advice(tone, f"{names} {inflect(len(some), 'is', 'are')} stalled", text))
    return found


def _others(some: Sequence[StalledPartition]) -> str:
    """The owners that the sentence about the longest stall does not name."""
    longest = max(some, key=lambda one: one.seconds).owner
    owners = sorted({one.owner for one in some} - {longest})
    more = f" and {len(owners) - OWNERS_SHOWN:,} more" if len(owners) > OWNERS_SHOWN else ""
    return f"The same applies to {', '.join(owners[:OWNERS_SHOWN])}{more}." if owners else ""


def _about_unknown_ids(count: int) -> list[Advice]:
    if not count:
        return []
    what = f"{_number(count).capitalize()} unknown file {inflect(count, 'id')} in results of the last 24 hours"
    text = (
        "Another program writes requests to the topic, or the database was restored from a backup. The objects of "
        "these results belong to no file: see `filemill orphans list` and `filemill orphans delete`."
    )
    return [Advice("warn", what, text)]


def _about_roles(
    outbox: OutboxState, leases: Mapping[str, LeaseState], visibility: Visibility, *, embedded: bool
) -> list[Advice]:
    found = []
    relay, sync = leases.get("relay"), leases.get("sync")
    age = outbox.oldest_age_seconds or 0.0
    if outbox.depth and age > OUTBOX_DELAY_SECONDS:
        inactive = (
            "" if relay is not None and relay.held else f" No relay is active. {_start('relay', embedded=embedded)}"
        )
        waiting = counted(outbox.depth, "accepted request waits", "accepted requests wait")
        text = f"The oldest has waited for {format_coarse(age)}. They are published as soon as Kafka is reachable."
        found.append(Advice("warn", f"{waiting} in the outbox", f"{text}{inactive}"))
    if (sync is None or not sync.held) and visibility.sync_missing:
        text = f"Files are processed, but their status does not change. {_start('sync', embedded=embedded)}"
        found.append(Advice("warn", "No status sync is active", text))
    return found


def _names(what: str, numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:8]) + (" …" if len(numbers) > 8 else "")
    return f"{inflect(len(numbers), what.capitalize())} {shown}"


def _number(count: int) -> str:
    return "one" if count == 1 else f"{count:,}"
