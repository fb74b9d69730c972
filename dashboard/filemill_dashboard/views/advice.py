"""What an operator should know or do, in sentences. Pure: what is sampled goes in, advice comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from filemill.domain.stalls import StalledPartition, StallReason
from filemill.queries.files import OutboxState
from filemill.queries.group import Flow, GroupState, Lags, LeaseState, Recreated

# A sample that is older than so many of the monitor's intervals is not "now" any more.
SILENT_INTERVALS = 5
SILENT_SECONDS_LEAST = 10.0
# A request is through the outbox within milliseconds; one that waits for this long waits for something.
STUCK_SECONDS = 5.0
# A lag that moves by less than this, or by less than this share of what is done, stands still.
STEADY_PER_SECOND = 0.2
STEADY_SHARE = 0.05
# So many owners of stalled partitions are named.
OWNERS_SHOWN = 5
_WHAT_TO_DO = {
    StallReason.QUIET: "",
    StallReason.BREAKER: "It continues when the server answers.",
    StallReason.RECORD: "Restart the worker: another one then processes the record again. Keep its log.",
    StallReason.COMMITS: "Look at its log. If it goes on, restart the worker.",
    StallReason.SILENT: "Look at its log and whether it reaches Kafka. If it goes on, restart it.",
    StallReason.UNKNOWN: "Look at its log. If it goes on, restart it.",
}
_UNSETTLED = {"PREPARING_REBALANCING", "COMPLETING_REBALANCING", "ASSIGNING", "RECONCILING"}


@dataclass(frozen=True)
class Advice:
    """`what` is the case, `text` is what to do; `tone` is bad, warn or none."""

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
) -> list[Advice]:
    """The most pressing first."""
    silence = _silence(group, interval_seconds)
    found = [] if silence else [*_about_group(group, lags), *_about_stalled(stalled)]
    found += [*_about_roles(outbox, leases), *_about_unknown_ids(unknown_ids)]
    return sorted(found + silence, key=lambda advice: ("bad", "warn", "none").index(advice.tone))


def lost_requests(requests: int | None) -> list[Advice]:
    """What is gone from Kafka."""
    if not requests:
        return []
    subject = "One request was" if requests == 1 else f"{requests:,} requests were"
    text = "Retention removed the records, or their topic was deleted. No worker will process these requests."
    return [Advice("bad", f"{subject} removed from Kafka before being processed", text)]


def recreated_topics(recreated: Sequence[Recreated]) -> list[Advice]:
    """Which topics are others than they were."""
    return [
        Advice(
            "warn",
            f"The topic {one.topic} was deleted and created again",
            f"Noticed at {one.noticed_at:%Y-%m-%d %H:%M:%S} UTC. It is read from its beginning.",
        )
        for one in recreated
    ]


def even_shares(members: int, partitions: int) -> list[int]:
    """How many partitions each member gets when they are shared out evenly."""
    return [partitions // members + (place < partitions % members) for place in range(members)]


def trend(lag: int | None, flow: Flow) -> str | None:
    """Where the lag is going, and when it is gone if it goes on like this; None where that is unknown."""
    if lag is None or flow.produced is None or flow.committed is None:
        return None
    gain = flow.committed - flow.produced
    if abs(gain) < max(STEADY_PER_SECOND, STEADY_SHARE * flow.committed):
        return "steady"
    if gain < 0:
        return f"growing by {-gain:,.1f} /s"
    return f"shrinking, clear in {_span(lag / gain)}"


def lag_age(seconds: float | None) -> str | None:
    """How long the oldest record that is not done has waited; None where that is unknown."""
    return None if seconds is None else f"{_span(seconds)} behind"


def _silence(group: GroupState | None, interval_seconds: float) -> list[Advice]:
    start = "Start `filemill run monitor`; until then, lag and assignment are unknown."
    if group is None:
        return [Advice("warn", "The group monitor has not reported yet", start)]
    if group.age_seconds > max(SILENT_SECONDS_LEAST, SILENT_INTERVALS * interval_seconds):
        silent = f"The group monitor has been silent for {_span(group.age_seconds)}"
        return [Advice("warn", silent, "Lag and assignment are of that time. Look at its log, or start it anew.")]
    return []


def _about_group(group: GroupState | None, lags: Lags | None) -> list[Advice]:
    if group is None or lags is None:
        return []
    members, partitions = len(group.members), [part.partition for part in lags.partitions]
    if not members:
        waiting = f"{lags.total:,} records wait." if lags.total else ""
        return [Advice("bad", "No file processor runs", f"{waiting} Start one: `filemill run processor`.".strip())]
    found = []
    owned = {partition for member in group.members for partition in member.partitions}
    orphans = [partition for partition in partitions if partition not in owned]
    if orphans:
        names = _names("partition", orphans)
        settling = group.state.upper() in _UNSETTLED
        found.append(
            Advice("warn", f"{names} without an owner", "The group is rebalancing: it should pass within seconds.")
            if settling
            else Advice("bad", f"{names} without an owner", "Nobody reads there. Look at the processors' logs.")
        )
    idle = sum(not member.partitions for member in group.members)
    if idle and partitions and members > len(partitions):
        even = "/".join(str(share) for share in even_shares(members, len(partitions) * 2))
        found.append(
            Advice(
                "none",
                f"{members} workers, {len(partitions)} partitions: {_number(idle)} idle",
                f"{len(partitions) * 2} partitions would give {even}.",
            )
        )
    elif idle:
        found.append(Advice("warn", f"{_number(idle).capitalize()} of {members} workers has no partition yet"))
    return found


def _about_stalled(stalled: Sequence[StalledPartition]) -> list[Advice]:
    """One of each cause: a server that is unreachable stops many partitions at once, and so do quiet workers."""
    alike: dict[tuple[StallReason, str], list[StalledPartition]] = {}
    for one in stalled:
        cause = "" if one.explained else one.sentence if one.reason is StallReason.RECORD else one.owner
        alike.setdefault((one.reason, cause), []).append(one)
    found = []
    for (reason, _), some in alike.items():
        names = _names("partition", [one.partition for one in some])
        verb = "does" if len(some) == 1 else "do"
        tone = "warn" if some[0].explained else "bad"
        longest = max(some, key=lambda one: one.seconds).sentence
        parts = [f"{longest[0].upper()}{longest[1:]}.", _WHAT_TO_DO[reason], _others(some)]
        text = " ".join(part for part in parts if part)
        found.append(Advice(tone, f"{names} {verb} not move", text))
    return found


def _others(some: Sequence[StalledPartition]) -> str:
    """The owners of those that the sentence about the longest does not name."""
    longest = max(some, key=lambda one: one.seconds).owner
    owners = sorted({one.owner for one in some} - {longest})
    more = f" and {len(owners) - OWNERS_SHOWN:,} more" if len(owners) > OWNERS_SHOWN else ""
    return f"The same holds for {', '.join(owners[:OWNERS_SHOWN])}{more}." if owners else ""


def _about_unknown_ids(count: int) -> list[Advice]:
    if not count:
        return []
    what = f"{_number(count).capitalize()} unknown file {'id' if count == 1 else 'ids'} in results within a day"
    text = (
        "Another program writes to the topic of requests, or the database was restored from a backup. No file owns the "
        "objects that were made: `filemill orphans list` shows them, `filemill orphans delete` removes them."
    )
    return [Advice("warn", what, text)]


def _about_roles(outbox: OutboxState, leases: Mapping[str, LeaseState]) -> list[Advice]:
    found = []
    relay, sync = leases.get("relay"), leases.get("sync")
    age = outbox.oldest_age_seconds or 0.0
    if outbox.depth and age > STUCK_SECONDS:
        inactive = "" if relay is not None and relay.held else " No relay is active: start `filemill run relay`."
        waiting = f"{outbox.depth:,} accepted {'request waits' if outbox.depth == 1 else 'requests wait'}"
        text = f"The oldest since {_span(age)}. They go out by themselves when Kafka takes them.{inactive}"
        found.append(Advice("warn", f"{waiting} in the outbox", text))
    if sync is None or not sync.held:
        text = "Files are processed, but their rows do not change. Start `filemill run sync`."
        found.append(Advice("warn", "No status sync is active", text))
    return found


def _names(what: str, numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:8]) + (" …" if len(numbers) > 8 else "")
    return f"{what.capitalize()}{'s' if len(numbers) > 1 else ''} {shown}"


def _number(count: int) -> str:
    return "one" if count == 1 else str(count)


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"
