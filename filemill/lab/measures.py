"""What followed from what was done: pauses, moves, recovery, repetitions, latencies, fairness, cost.

From the history (the topics, by the broker's clock) and the rows; each function says what exactly it counts.
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
    """Percentiles in seconds of each stage, over the files that have completed.

    queue: intended → begun by a worker; processing: → its result; staleness: → the row shows it; end to end: all of it.
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
    """With the number of each row's repetition, from 0 on: each is of `size` files, asked for one after the other."""
    order = frame[by].rank(method="dense").astype(int) - 1
    return frame.assign(repeat=order // size)


def rates(executions: pd.DataFrame, size: int) -> pd.DataFrame:
    """Files per second of each repetition of `size` files, over the time from its first result to its last."""
    first = with_repetition(executions[~executions["again"]], size, "file_id")
    found = first.groupby("repeat")["at"].agg(["min", "max", "size"]).reset_index()
    seconds = (found["max"] - found["min"]).dt.total_seconds()
    return found.assign(files_per_second=(found["size"] - 1) / seconds)[["repeat", "files_per_second"]]


def spread(frame: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """Over the repetitions in each group: median, least and greatest of each value, and how many there were."""
    groups = frame.groupby(list(by), sort=False)
    found = groups[list(values)].agg(["median", "min", "max"]).rename(columns={"min": "least", "max": "greatest"})
    found["repetitions", ""] = groups.size()
    return found


def throughput(executions: pd.DataFrame, seconds: float = 1.0) -> pd.DataFrame:
    """First results per second, in slots of so many seconds, by worker."""
    first = executions[~executions["again"]]
    slots = first.groupby([pd.Grouper(key="at", freq=f"{seconds}s"), "worker"]).size()
    return slots.div(seconds).rename("files_per_second").reset_index()


def unfinished(files: pd.DataFrame, seconds: float = 0.5) -> pd.DataFrame:
    """Requests that were intended and that no row shows as ended yet, over time."""
    ended = files["updated_at"].where(files["status"].isin(["completed", "failed", "cancelled"]))
    steps = pd.concat(
        [pd.Series(1, index=files["intended_at"]), pd.Series(-1, index=pd.DatetimeIndex(ended.dropna()))]
    ).sort_index()
    curve = steps.cumsum().resample(f"{int(seconds * 1000)}ms").last().ffill()
    return curve.rename("unseen").rename_axis("at").reset_index()


def pauses(history: TopicHistory) -> pd.DataFrame:
    """Each change of a partition's owner: its last result by the former, the first by the new, and the time between.

    `waiting`: whether a record was there to be worked on at the new owner's first result, or it was idleness.
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
    """The times between two results of a partition, before, during and after one change of the group.

    A row each, of those that end between `begin` and `end`; `when`: steady, for those after `settled`, or rebalance.
    `partition` moved, or stayed with its owner; those of a share group are nobody's, and stay.
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
    """Seconds from a fault's end until all that had been asked for by then was seen to have ended; never below 0."""
    ended = pd.Timestamp(fault.ended or fault.began, unit="s", tz="UTC")
    asked = files[files["intended_at"] <= ended]
    return max(0.0, float((asked["updated_at"].max() - ended).total_seconds()))


def owners_at(history: TopicHistory, moment: float) -> dict[int, str]:
    """Who was the last to take each partition by a moment, as the workers said."""
    owned: dict[int, str] = {}
    for one in history.ownerships():
        if one.at <= moment:
            owned[one.partition] = one.worker
    return owned


def moves(history: TopicHistory, begin: float, end: float) -> dict[str, int]:
    """A rebalance between two moments: partitions that changed owner, and the least that had to.

    The least: those of members that left, and what members hold above their even share. `survivors_revoked`: partitions
    that were taken from workers which stayed.
    """
    before, after = owners_at(history, begin), owners_at(history, end)
    moved = sum(after.get(partition) != owner for partition, owner in before.items())
    stayed = set(before.values()) & set(after.values())
    revoked = sum(
        len(heard.event.partitions)
        for heard in history.events
        if begin < heard.at <= end and heard.event.kind is EventKind.REVOKED and heard.event.worker_id in stayed
    )
    return {"moved": moved, "least": least_moves(before, set(after.values())), "survivors_revoked": revoked}


def least_moves(before: Mapping[int, str], members: set[str]) -> int:
    """How many of these partitions must change owner for the members to share them evenly."""
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
    """For each kill of a processor and each of its partitions: how long until others had it, and worked on it.

    Seconds from the kill: detection until the assignment, recovery until the first result in it. A partition that
    nobody took or finished anything on before the end is left out. `alone`: no other fault began meanwhile.
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
                lone = alone(killed_at, moment)
                rows.append((worker, partition, killed_at, taken - killed_at, moment - killed_at, lone))
    columns = ["worker", "partition", "killed_at", "detection_seconds", "recovery_seconds", "alone"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["killed_at"] = moments(frame["killed_at"].astype(float))
    frame["alone"] = frame["alone"].astype(bool)  # also where there is no row
    return frame


def catch_up_times(history: TopicHistory, faults: Sequence[JournalEntry]) -> pd.DataFrame:
    """For each kill of a processor: seconds until the last record that had come by then had its result.

    It needs no owners of partitions, and so compares share groups with the others. A kill after which a record never
    ended is left out. `alone`: no other fault began meanwhile.
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
    """Says of two moments whether no fault began between them, a kill among several counting as one."""
    begins = {entry.began for entry in faults} | {at for _, at in kills(faults)}
    return lambda since, until: not any(since < began < until for began in begins)


def kills(faults: Iterable[JournalEntry]) -> list[tuple[str, float]]:
    """Each processor that was killed, and when."""
    found: list[tuple[str, float]] = []
    for entry in faults:
        if "kills" in entry.detail:
            found += [(str(worker), float(at)) for worker, at in entry.detail["kills"]]
        elif entry.code == FaultCode.PROCESSOR_KILLED:
            found.append((entry.target, float(entry.detail.get("killed_at", entry.began))))
    return found


def in_flight_at(history: TopicHistory, moment: float) -> int:
    """Records that the workers held, by the last heartbeat of each before the moment (every 2 s)."""
    last: dict[str, int] = {}
    for heard in history.events:
        if not moment - HEARTBEAT_VALID_SECONDS < heard.at <= moment:
            continue
        if heard.event.vitals is not None:
            last[heard.event.worker_id] = heard.event.vitals.in_flight
        elif heard.event.kind is EventKind.STOPPED:
            last.pop(heard.event.worker_id, None)
    return sum(last.values())


def repetitions(history: TopicHistory) -> dict[str, float]:
    """Executions beyond the first of each record, and the seconds that they took."""
    seen: set[RecordPosition] = set()
    count, rework = 0, 0.0
    for execution, place in zip(history.executions, history.executed_positions(), strict=True):
        if place in seen:
            count += 1
            if execution.started_at is not None and execution.published_at is not None:
                # Both by the worker's own clock.
                rework += max(0.0, (execution.published_at - execution.started_at).total_seconds())
        seen.add(place)
    return {"executions": len(history.executions), "executed_again": count, "rework_seconds": round(rework, 3)}


def fairness(executions: pd.DataFrame) -> dict[str, float]:
    """Jain's index over workers and over partitions: 1 where all did the same, 1/n where one did it all."""
    return {
        f"fairness_{by}s": _jain(executions.groupby(by).size().astype(float).tolist()) for by in ("worker", "partition")
    }


def cost(events: pd.DataFrame, files: int, payload_bytes: Mapping[str, int]) -> dict[str, float]:
    """What a file costs: the processors' CPU microseconds, and bytes of records, those about workers included.

    And the greatest memory of a processor, in MB. CPU and memory are by the heartbeats.
    """
    beats = events[events["kind"] == "heartbeat"]
    if beats.empty or not files:
        return {"cpu_us_per_file": float("nan"), "kafka_bytes_per_file": float("nan"), "rss_mb": float("nan")}
    cpu = 0.0
    for _, group in beats.groupby("worker"):
        used = group["cpu_seconds"].astype(float)
        cpu += used.diff().clip(lower=0).sum()  # a restarted worker counts from nothing
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
    """The owners of each partition in turn; one that got it back at once is one owner."""
    owners: dict[int, list[OwnershipPeriod]] = {}
    for one in history.ownerships():
        turns = owners.setdefault(one.partition, [])
        if not turns or turns[-1].worker != one.worker:
            turns.append(one)
    return owners


def _first_after(times: Sequence[float], moment: float) -> float | None:
    index = bisect_right(times, moment)
    found = times[index] if index < len(times) else NEVER
    return None if found == NEVER else found
