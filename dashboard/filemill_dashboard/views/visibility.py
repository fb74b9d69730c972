"""What a page or a command can know now.

Workers, the group, offsets and results are learned through Kafka, by the status sync and the group monitor, and are
read from PostgreSQL. While one of these does not work, what is learned through it is unknown: a worker that is not
heard of need not be dead. After an outage, clients need some seconds to reconnect, and silence still means nothing.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

from filemill.domain.worker_events import DEAD_AFTER_SECONDS, WorkerCondition
from filemill.queries.workers import WorkerView
from filemill.runtime.stack_state import StackState

# After an outage, clients reconnect within seconds, and a group may need a session (6 s) to settle.
SETTLE_SECONDS = 15.0
# A check finds an outage within this time.
DETECTION_SECONDS = 6.0
SERVERS = {"postgres": "PostgreSQL", "kafka": "Kafka", "s3": "S3"}
_EVENT_SERVERS = frozenset({"postgres", "kafka"})


class ShownState(StrEnum):
    """The state of a worker on a page: its condition, or what is known beyond its events."""

    BUSY = "busy"
    IDLE = "idle"
    STUCK = "stuck"
    DEAD = "dead"
    STOPPED = "stopped"
    STARTING = "starting"
    SUSPENDED = "suspended"
    SILENT = "silent"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class LocalProcess:
    """The process of a worker that this machine's stack has started; None for `pid`: it has ended."""

    pid: int | None
    suspended: bool = False


def local_processes(stack: StackState | None) -> dict[str, LocalProcess]:
    """The processes of the workers of this machine's stack, by worker id; empty without such a stack."""
    return {
        worker.id: LocalProcess(
            worker.process.pid if worker.process.process() is not None else None, worker.process.suspended
        )
        for worker in (stack.workers if stack is not None else ())
    }


@dataclass(frozen=True)
class Visibility:
    """Which servers are unreachable, and for how long nothing has obstructed the view.

    `reachable_seconds`: for how long all servers have been reachable. `served_seconds`: for how long PostgreSQL and
    Kafka have been. `events_seconds`: for how long these have been reachable and a status sync active. All are infinite
    if the dashboard has seen no outage.
    `checked_seconds_ago`: the age of the latest check of Kafka. `sync_missing_seconds`: for how long no status sync has
    been active.
    """

    unreachable: frozenset[str] = frozenset()
    reachable_seconds: float = float("inf")
    events_seconds: float = float("inf")
    served_seconds: float = float("inf")
    checked_seconds_ago: float = 0.0
    sync_missing_seconds: float = float("inf")

    @property
    def events_known(self) -> bool:
        """Whether what is learned through Kafka is known."""
        return not self.unreachable & _EVENT_SERVERS

    def group_known(self, sampled_seconds_ago: float | None) -> bool:
        """Whether the latest sample of the group describes the present: it is not one from before an outage."""
        return self.events_known and (sampled_seconds_ago is None or sampled_seconds_ago <= self.served_seconds)

    @property
    def sync_missing(self) -> bool:
        """Whether no status sync is active, and not only because of an outage that no check has found yet."""
        return self.settled and self.sync_missing_seconds >= DETECTION_SECONDS

    @property
    def settled(self) -> bool:
        """Whether all servers have been reachable long enough for every client to reconnect."""
        return not self.unreachable and self.reachable_seconds >= SETTLE_SECONDS

    @property
    def cause(self) -> str:
        """The unreachable servers through which events are learned, such as "Kafka"; empty if there are none."""
        return " and ".join(SERVERS[name] for name in SERVERS if name in self.unreachable & _EVENT_SERVERS)

    @property
    def obstacle(self) -> str:
        """Why something is unknown, as the end of a sentence."""
        if self.cause:
            return f"{self.cause} {'are' if ' and ' in self.cause else 'is'} unreachable"
        return "no events have arrived since the last outage" if not self.silence_known else ""

    @property
    def silence_known(self) -> bool:
        """Whether the silence of a worker means that it sends nothing."""
        return self.events_known and self.events_seconds >= SETTLE_SECONDS

    def worker_state(self, worker: WorkerView, process: LocalProcess | None = None) -> ShownState:
        """The state of a worker. `process` is the one that this machine's stack has started for it, if any."""
        local = _local_state(worker, process) if process is not None else None
        if local is not None:
            return local
        if not self.events_known:
            return ShownState.UNKNOWN
        if worker.condition is not WorkerCondition.DEAD:
            return ShownState(worker.condition.value)
        # Before the latest check of Kafka, the silence may have had another cause.
        if not self.silence_known or worker.heard_seconds_ago - self.checked_seconds_ago < DEAD_AFTER_SECONDS:
            return ShownState.UNKNOWN
        return ShownState.DEAD if process is None else ShownState.SILENT


CLEAR = Visibility()


def _local_state(worker: WorkerView, process: LocalProcess) -> ShownState | None:
    if worker.condition is WorkerCondition.STOPPED and process.pid == worker.pid:
        return None
    if process.pid is None:
        return ShownState.DEAD
    if process.suspended:
        return ShownState.SUSPENDED
    return ShownState.STARTING if worker.pid is not None and process.pid != worker.pid else None


def shown_counts(
    counts: Mapping[WorkerCondition, int], shown: Mapping[str, ShownState], workers: Collection[WorkerView]
) -> dict[ShownState, int]:
    """The number of workers by shown state: `counts` of all workers, corrected by those that are shown otherwise."""
    found = {ShownState(condition.value): number for condition, number in counts.items()}
    for worker in workers:
        found[ShownState(worker.condition.value)] -= 1
        found[shown[worker.id]] = found.get(shown[worker.id], 0) + 1
    return found


class ViewTracker:
    """Follows the checks of one dashboard: since when nothing has obstructed the view. One thread at a time."""

    def __init__(self) -> None:
        self._unreachable_at = self._obstructed_at = self._unserved_at = float("-inf")
        self._sync_at: float | None = None

    def observe(
        self, now: float, unreachable: frozenset[str], *, sync_active: bool, checked_seconds_ago: float = 0.0
    ) -> Visibility:
        """The visibility at `now`, in monotonic seconds."""
        if unreachable:
            self._unreachable_at = now
        if unreachable & _EVENT_SERVERS:
            self._unserved_at = now
        if unreachable & _EVENT_SERVERS or not sync_active:
            self._obstructed_at = now
        if sync_active:
            self._sync_at = now
        missing = float("inf") if self._sync_at is None else now - self._sync_at
        return Visibility(
            unreachable,
            now - self._unreachable_at,
            now - self._obstructed_at,
            now - self._unserved_at,
            checked_seconds_ago,
            missing,
        )
