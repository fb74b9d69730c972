"""Measures of a run: pauses, partition moves, recovery, repetitions, latencies, fairness, cost.

They use the topics' history, by the broker's clock, and the rows.
"""

import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd

from filemill.domain.topic_records import RequestRecord
from filemill.domain.worker_events import EventKind
from filemill.lab.frames import moments
from filemill.runtime.fault import FaultCode
from filemill.runtime.journal import JournalEntry
from filemill.verification.topic_history import (
    NEVER,
    Execution,
    OwnershipPeriod,
    RecordPosition,
    TopicHistory,
)

HEARTBEAT_VALID_SECONDS = 6.0
PERCENTILES = (0.5, 0.95, 0.99)


def latencies(files: pd.DataFrame) -> pd.DataFrame:
    """Percentiles of each stage in seconds, over the completed files.

    queue: intended → started by a worker; processing: → result; staleness: → row updated; end to end: all of these.
    """
    done = files[files["status"] == "completed"]
    stages = {
        "queue": done["started_at"] - done["intended_at"],
        "processing": done["finished_at"] - done["started_at"],
        "staleness": done["updated_at"] - done["finished_at"],
        "end to end": done["updated_at"] - done["intended_at"],
    }
    rows = []
    for stage, times in stages.items():
        seconds = times.dt.total_seconds().dropna()
        cuts = {f"p{100 * share:g}": seconds.quantile(share) for share in PERCENTILES}
        rows.append({"stage": stage, "files": len(seconds), **cuts, "max": seconds.max()})
    return pd.DataFrame(rows)


def with_repetition(frame: pd.DataFrame, size: int, by: str = "id") -> pd.DataFrame:
    """Add the number of the repetition, from 0; each has `size` files, in order."""
    order = frame[by].rank(method="dense").astype(int) - 1
    return frame.assign(repeat=order // size)


def rates(executions: pd.DataFrame, size: int) -> pd.DataFrame:
    """Files per second of each repetition of `size` files, from its first result to its last."""
    first = with_repetition(executions[~executions["again"]], size, "file_id")
    found = first.groupby("repeat")["at"].agg(["min", "max", "size"]).reset_index()
    seconds = (found["max"] - found["min"]).dt.total_seconds()
    return found.assign(files_per_second=(found["size"] - 1) / seconds)[["repeat", "files_per_second"]]


def spread(frame: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Median, minimum and maximum of each value over the repetitions of a group, and their number."""
    groups = frame.groupby(list(by), sort=False)
    found = groups[list(values)].agg(["median", "min", "max"]).rename(columns={"min": "least", "max": "greatest"})
    found["repetitions", ""] = groups.size()
    return found


def throughput(executions: pd.DataFrame, seconds: float = 1.0) -> pd.DataFrame:
    """First results per second by worker, in intervals of `seconds`."""
    first = executions[~executions["again"]]
    slots = first.groupby([pd.Grouper(key="at", freq=f"{seconds}s"), "worker"]).size()
    return slots.div(seconds).rename("files_per_second").reset_index()


def unfinished(files: pd.DataFrame, seconds: float = 0.5) -> pd.DataFrame:
    """The number of unfinished requests over time, by the rows."""
    ended = files["updated_at"].where(files["status"].isin(["completed", "failed", "cancelled"]))
    steps = pd.concat(
        [pd.Series(1, index=files["intended_at"]), pd.Series(-1, index=pd.DatetimeIndex(ended.dropna()))]
    ).sort_index()
    curve = steps.cumsum().resample(f"{int(seconds * 1000)}ms").last().ffill()
    return curve.rename("unfinished").rename_axis("at").reset_index()


def pauses(history: TopicHistory) -> pd.DataFrame:
    """Each change of a partition's owner: the last result of the former, the first of the new, and the time between.

    `waiting`: whether a record had arrived before the new owner's first result; otherwise the partition was idle.
    """
    by_partition = _by_partition(history.executions)
    arrivals = {partition: sorted(r.at for r in group) for partition, group in _group(history.requests).items()}
    rows = []
    for partition, owners in _changes(history).items():
        results = by_partition.get(partition, [])
        for former, now in itertools.pairwise(owners):
            before = [one.at for one in results if one.worker == former.worker and former.at <= one.at]
            after = [one.at for one in results if one.worker == now.worker and one.at >= now.at]
            last = max((at for at in before if not after or at < after[0]), default=None)
            if last is None or not after:
                continue
            waiting = bisect_left(arrivals.get(partition, []), after[0]) > 0
            rows.append((partition, former.worker, now.worker, last, now.at, after[0], after[0] - last, waiting))
    columns = ["partition", "from", "to", "last_result", "assigned", "first_result", "pause_seconds", "waiting"]
    frame = pd.DataFrame(rows, columns=columns)
    for column in ("last_result", "assigned", "first_result"):
        frame[column] = moments(frame[column].astype(float))
    return frame


def gaps(history: TopicHistory, begin: float, settled: float, end: float) -> pd.DataFrame:
    """The times between two results of a partition around a change of the group.

    One row per gap that ends between `begin` and `end`. `when` is steady after `settled`, else rebalance. `partition`
    is moved or stayed; partitions of a share group have no owner and count as stayed.
    """
    before, after = owners_at(history, begin), owners_at(history, settled)
    rows = []
    for partition, results in _by_partition(history.executions).items():
        what = "stayed" if before.get(partition) == after.get(partition) else "moved"
        for one, other in itertools.pairwise(sorted(result.at for result in results)):
            if begin < other <= end:
                rows.append((partition, what, "rebalance" if one < settled else "steady", other - one))
    return pd.DataFrame(rows, columns=["number", "partition", "when", "gap_seconds"])


def seconds_to_catch_up(files: pd.DataFrame, fault: JournalEntry) -> float:
    """Seconds from the end of a fault until all earlier requests had ended; at least 0."""
    ended = pd.Timestamp(fault.ended or fault.began, unit="s", tz="UTC")
    asked = files[files["intended_at"] <= ended]
    return max(0.0, float((asked["updated_at"].max() - ended).total_seconds()))


def owners_at(history: TopicHistory, moment: float) -> dict[int, str]:
    """The last reported owner of each partition at a moment."""
    owned: dict[int, str] = {}
    for one in history.ownerships():
        if one.at <= moment:
            owned[one.partition] = one.worker
    return owned


def moves(history: TopicHistory, begin: float, end: float) -> dict[str, int]:
    """A rebalance between two moments: the partitions that changed owner, and the least number that had to.

    The least number counts partitions of members that left, and those above the even share of a member.
    `survivors_revoked` counts partitions that were revoked from workers that stayed.
    """
    before, after = owners_at(history, begin), owners_at(history, end)
    moved = sum(after.get(partition) != owner for partition, owner in before.items())
    stayed = set(before.values()) & set(after.values())
    revoked = sum(
        len(stored.event.partitions)
        for stored in history.events
        if begin < stored.at <= end and stored.event.kind is EventKind.REVOKED and stored.event.worker_id in stayed
    )
    return {"moved": moved, "least": least_moves(before, set(after.values())), "survivors_revoked": revoked}


def least_moves(before: Mapping[int, str], members: set[str]) -> int:
    """The least number of partitions that must change owner for an even distribution."""
    held = dict.fromkeys(members, 0)
    orphans = 0
    for owner in before.values():
        if owner in held:
            held[owner] += 1
        else:
            orphans += 1
    if not held:
        return 0
    floor, extra = divmod(len(before), len(held))
    surplus = 0
    for count in sorted(held.values(), reverse=True):
        share = floor + (1 if extra > 0 else 0)
        if count >= share and extra > 0:
            extra -= 1
        surplus += max(0, count - share)
    return orphans + surplus


def recovery(history: TopicHistory, faults: Sequence[JournalEntry]) -> pd.DataFrame:
    """Detection and recovery of each partition of each killed processor, in seconds after the kill.

    Detection ends at the next assignment, recovery at its first result. Partitions without either are left out.
    `alone`: no other fault began in that time.
    """
    results = {
        partition: [execution.at for execution in group]
        for partition, group in _by_partition(history.executions).items()
    }
    rows = []
    owned = history.ownerships()
    alone = _alone(faults)
    for worker, killed_at in kills(faults):
        for partition, owner in owners_at(history, killed_at).items():
            if owner != worker:
                continue
            taken = next((one.at for one in owned if one.partition == partition and one.at > killed_at), None)
            if taken is None:
                continue
            moment = _first_after(results.get(partition, []), taken)
            if moment is not None:
                without_other_faults = alone(killed_at, moment)
                rows.append((worker, partition, killed_at, taken - killed_at, moment - killed_at, without_other_faults))
    columns = ["worker", "partition", "killed_at", "detection_seconds", "recovery_seconds", "alone"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["killed_at"] = moments(frame["killed_at"].astype(float))
    frame["alone"] = frame["alone"].astype(bool)  # also where there is no row
    return frame


def catch_up_times(history: TopicHistory, faults: Sequence[JournalEntry]) -> pd.DataFrame:
    """Seconds from each kill of a processor until all earlier records had results.

    It needs no partition owners, so it also applies to share groups. A kill with a record that never ended is left out.
    `alone`: no other fault began in that time.
    """
    finished = history.finished()
    alone = _alone(faults)
    rows = []
    for worker, killed_at in kills(faults):
        ends = [
            finished.get(history.position_of(request), NEVER) for request in history.requests if request.at <= killed_at
        ]
        until = max(ends, default=NEVER)
        if killed_at < until < NEVER:
            rows.append((worker, until - killed_at, alone(killed_at, until)))
    return pd.DataFrame(rows, columns=["worker", "caught_up_seconds", "alone"]).astype({"alone": bool})


def _alone(faults: Sequence[JournalEntry]) -> Callable[[float, float], bool]:
    """A function of two moments: whether no fault or kill began between them."""
    begins = {entry.began for entry in faults} | {at for _, at in kills(faults)}
    return lambda since, until: not any(since < began < until for began in begins)


def kills(faults: Iterable[JournalEntry]) -> list[tuple[str, float]]:
    """Each killed processor, and the moment."""
    found: list[tuple[str, float]] = []
    for entry in faults:
        if "kills" in entry.detail:
            found += [(str(worker), float(at)) for worker, at in entry.detail["kills"]]
        elif entry.code == FaultCode.PROCESSOR_KILLED:
            found.append((entry.target, float(entry.detail.get("killed_at", entry.began))))
    return found


def in_flight_at(history: TopicHistory, moment: float) -> int:
    """The number of records in progress, by the last heartbeat of each worker before a moment."""
    last: dict[str, int] = {}
    for stored in history.events:
        if not moment - HEARTBEAT_VALID_SECONDS < stored.at <= moment:
            continue
        if stored.event.vitals is not None:
            last[stored.event.worker_id] = stored.event.vitals.in_flight
        elif stored.event.kind is EventKind.STOPPED:
            last.pop(stored.event.worker_id, None)
    return sum(last.values())


def repetitions(history: TopicHistory) -> dict[str, float]:
    """The number of repeated executions of records, and the seconds that they took."""
    seen: set[RecordPosition] = set()
    count, rework = 0, 0.0
    for execution, place in zip(history.executions, history.executed_positions(), strict=True):
        if place in seen:
            count += 1
            if execution.started_at is not None and execution.published_at is not None:
                # Both are by the worker's clock.
                rework += max(0.0, (execution.published_at - execution.started_at).total_seconds())
        seen.add(place)
    return {"executions": len(history.executions), "executed_again": count, "rework_seconds": round(rework, 3)}


def fairness(executions: pd.DataFrame) -> dict[str, float]:
    """Jain's index over workers and partitions: 1 for equal shares, 1/n if one had all."""
    return {
        f"fairness_{by}s": _jain(executions.groupby(by).size().astype(float).tolist()) for by in ("worker", "partition")
    }


def cost(events: pd.DataFrame, files: int, payload_bytes: Mapping[str, int]) -> dict[str, float]:
    """The cost of a file: CPU microseconds of the processors and bytes on Kafka, including worker events.

    Also the greatest memory of a processor in MB. CPU and memory come from heartbeats.
    """
    beats = events[events["kind"] == "heartbeat"]
    if beats.empty or not files:
        return {"cpu_us_per_file": float("nan"), "kafka_bytes_per_file": float("nan"), "rss_mb": float("nan")}
    cpu = 0.0
    for _, group in beats.groupby("worker"):
        used = group["cpu_seconds"].astype(float)
        cpu += used.diff().clip(lower=0).sum()  # a restarted worker counts from 0
    return {
        "cpu_us_per_file": cpu / files * 1e6,
        "kafka_bytes_per_file": sum(payload_bytes.values()) / files,
        "rss_mb": float(beats["rss_bytes"].max()) / 2**20,
    }


def _jain(values: Sequence[float]) -> float:
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else float("nan")


def _by_partition(executions: Iterable[Execution]) -> dict[int, list[Execution]]:
    groups: dict[int, list[Execution]] = {}
    for execution in executions:
        groups.setdefault(execution.partition, []).append(execution)
    return groups


def _group(requests: Iterable["RequestRecord"]) -> dict[int, list["RequestRecord"]]:
    groups: dict[int, list[RequestRecord]] = {}
    for request in requests:
        groups.setdefault(request.partition, []).append(request)
    return groups


def _changes(history: TopicHistory) -> dict[int, list["OwnershipPeriod"]]:
    """The successive owners of each partition; consecutive periods of one worker count once."""
    owners: dict[int, list[OwnershipPeriod]] = {}
    for one in history.ownerships():
        periods = owners.setdefault(one.partition, [])
        if not periods or periods[-1].worker != one.worker:
            periods.append(one)
    return owners


def _first_after(times: Sequence[float], moment: float) -> float | None:
    index = bisect_right(times, moment)
    found = times[index] if index < len(times) else NEVER
    return None if found == NEVER else found
