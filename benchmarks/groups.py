"""Waits until the consumers of an arm own their partitions: joining a group is not part of the measurement."""

import time
from collections.abc import Mapping, Sequence

from benchmarks.processes import START_SECONDS, BenchmarkProcess, ProcessFailed, WorkerProcesses
from benchmarks.servers import IsolatedPipeline, wait_until
from filemill.adapters.kafka.topic_reader import KafkaTopicReader
from filemill.domain.queues import DEFAULT_QUEUE
from filemill.domain.worker_events import EventKind, decode_event

READ_SECONDS = 0.05
READ_RECORDS = 500
# A group rebalances while its members join, so the reported assignment must be stable for this long.
SETTLED_SECONDS = 1.5
ROLES = ("relay", "sync")


def wait_for_processors(
    pipeline: IsolatedPipeline, processors: Sequence[BenchmarkProcess], queue: str = DEFAULT_QUEUE
) -> None:
    """Wait until these processors own all partitions of a queue, by their worker events."""
    names = {worker.name for worker in processors}
    reader = KafkaTopicReader(pipeline.settings, [pipeline.settings.topic_worker_events], "bench-watch")
    owned: dict[str, list[int]] = {}

    def shared() -> bool:
        for record in reader.read(READ_RECORDS, READ_SECONDS):
            event = decode_event(record.value)
            if (
                event.worker_id in names
                and event.queue == queue
                and event.kind
                in {
                    EventKind.ASSIGNED,
                    EventKind.REVOKED,
                    EventKind.LOST,
                    EventKind.HEARTBEAT,
                }
            ):
                owned[event.worker_id] = event.owned
        return is_balanced(owned, len(names), pipeline.settings.topic_partitions)

    try:
        reader.refresh({})
        wait_until(shared, lambda: f"{len(names)} processors own all partitions: {owned}", START_SECONDS)
    finally:
        reader.close()


def wait_for_leases(pipeline: IsolatedPipeline, processes: WorkerProcesses) -> None:
    """Wait until relay and sync hold their leases: the lease of a killed process lasts for seconds."""
    held = "SELECT count(*) FROM leases WHERE name IN ('relay', 'sync') AND expires_at > now() AND holder = ANY(:names)"
    wait_until(
        lambda: pipeline.scalar(held, names=processes.names) == len(ROLES), "relay and sync are active", START_SECONDS
    )


def wait_for_processes(workers: Sequence[BenchmarkProcess], partitions: int) -> None:
    """Wait until these peers own all partitions and the assignment is stable. Raises ProcessFailed."""
    deadline = time.monotonic() + START_SECONDS
    since = time.monotonic()
    before: dict[str, list[int]] = {}
    while True:
        owned = {worker.name: list(worker.owned) for worker in workers}
        if owned != before:
            since, before = time.monotonic(), owned
        if is_balanced(owned, len(workers), partitions) and time.monotonic() - since >= SETTLED_SECONDS:
            return
        dead = [worker for worker in workers if not worker.alive]
        if dead or time.monotonic() > deadline:
            raise ProcessFailed(
                f"the partitions are not shared: {owned}\n" + "\n".join(worker.log_tail() for worker in dead)
            )
        time.sleep(READ_SECONDS)


def is_balanced(owned: Mapping[str, Sequence[int]], members: int, partitions: int) -> bool:
    """Whether each partition has one owner, and each member owns one if there are enough."""
    everything = sorted(number for numbers in owned.values() for number in numbers)
    busy = sum(map(bool, owned.values()))
    return everything == list(range(partitions)) and busy == min(members, partitions)
