"""Group monitor.

Reads   end and committed offsets, state, members and assignment of the group of each queue (Kafka's admin API). The
        client cannot describe a share group: its members are the senders of `worker.events`, its lag is unknown.
        The topics' ids: a topic that was recreated has another one.
Writes  `outbox_samples`, `lag_samples`, `group_samples` every 2 s; deletes expired ones and sums up `status_counts`.
        `topic_generations` and `request_losses` every 30 s, and when offsets show that records were lost.
Dies    anywhere: one sample is missing; the next one is complete.

Several may run: the lease makes one the leader. While Kafka is unreachable only the outbox is sampled. A missing sample
means unknown, not zero.
"""

import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog

from filemill.adapters.kafka.admin import KafkaAdmin, all_topics
from filemill.adapters.postgres.monitor_store import MonitorStore
from filemill.config.settings import Settings
from filemill.domain.consumer_groups import GroupDescription, LogOffsets, MemberDescription
from filemill.domain.request_losses import LossBounds
from filemill.errors import Unavailable
from filemill.ports import Clock, Lease

log = structlog.get_logger("monitor")

HOUSEKEEPING_SECONDS = 30.0


class QueueMonitor:
    """Samples the group of one queue. One thread."""

    def __init__(
        self,
        store: MonitorStore,
        admin: KafkaAdmin,
        settings: Settings,
        find_bounds: Callable[[], LossBounds],
    ) -> None:
        """`settings` are those of the queue: its topic and group are `topic_create` and `kafka_group`."""
        self._store = store
        self._admin = admin
        self._group = settings.group_id
        self._is_share_group = settings.offsets_group is None
        self._topic = settings.topic_create
        self._find_bounds = find_bounds
        self._problems: list[str] = []
        self._lost = 0

    @property
    def group(self) -> str:
        """The id of the group."""
        return self._group

    def sample(self, now: datetime) -> bool:
        """Take and store one sample; returns whether it shows that records were lost. Raises Unavailable."""
        if self._is_share_group:
            offsets = self._admin.offsets(None, self._topic)
            group = self._share_group(now)
        else:
            offsets = self._admin.offsets(self._group, self._topic)
            group = self._admin.describe_group(self._group, self._topic)
        topics = self._admin.identities([self._topic])
        self._store.store_sample(now, self._topic, topics, offsets, group)
        return self._check_offsets(offsets)

    def count_losses(self) -> None:
        """Count the lost requests."""
        try:
            bounds = self._find_bounds()
        except Unavailable as error:
            log.debug("Lost requests cannot be counted", group=self._group, error=str(error))
            return
        count = self._store.count_losses(bounds)
        if count != self._lost:
            log.warning("Requests are lost: their records are gone from Kafka", group=self._group, requests=count)
        self._lost = count

    def _check_offsets(self, offsets: Sequence[LogOffsets]) -> bool:
        """Warn once about unprocessed records that are gone; returns whether there is a new problem."""
        problems = [
            f"partition {part.partition}: {part.removed_before_commit} offsets were removed before they were committed"
            for part in offsets
            if part.removed_before_commit
        ] + [
            f"partition {part.partition}: {part.committed} is committed, and it ends at {part.end}"
            for part in offsets
            if part.committed_beyond_end
        ]
        new = bool(problems) and problems != self._problems
        if new:
            log.warning("Unprocessed records are gone", group=self._group, topic=self._topic, problems=problems)
        self._problems = problems
        return new

    def _share_group(self, now: datetime) -> GroupDescription:
        """The description of a share group by its workers' events, because the client cannot describe one."""
        members = [MemberDescription(name, name, "", []) for name in self._store.share_members(now)]
        return GroupDescription("UNKNOWN", "share", None, members)


class GroupMonitor:
    """Samples the outbox and the groups of all queues. One thread."""

    def __init__(
        self,
        store: MonitorStore,
        admin: KafkaAdmin,
        lease: Lease,
        queues: Sequence[QueueMonitor],
        *,
        settings: Settings,
        interval_seconds: float,
        clock: Clock = time.monotonic,
    ) -> None:
        self._store = store
        self._admin = admin
        self._lease = lease
        self._queues = list(queues)
        self._settings = settings
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._housekeeping_at = float("-inf")
        self._state = ""

    def run(self, stop: threading.Event, on_cycle: Callable[[], None] = lambda: None) -> None:
        """Sample until `stop` is set; unreachable servers are retried. `on_cycle` is called in each cycle."""
        due = self._clock()
        while not stop.is_set():
            on_cycle()
            try:
                if self._lease.acquire():
                    self.sample()
                    self._set_state("active")
                    self._run_housekeeping()
                else:
                    self._set_state("standby")
            except Unavailable as error:
                self._set_state(f"waiting: {error}")
            # A fixed rate, not a fixed pause; after a gap it starts again now.
            due = max(due + self._interval_seconds, self._clock())
            stop.wait(due - self._clock())
        try:
            self._lease.release()
        except Unavailable as error:
            log.warning("Stopped without releasing the lease; it will expire", error=str(error))

    def sample(self) -> None:
        """Take and store one sample. Raises Unavailable.

        The outbox is first, because its depth matters most while Kafka is unreachable.
        """
        now = self._store.sample_outbox()
        for queue in self._queues:
            if queue.sample(now):
                self._housekeeping_at = float("-inf")  # count the lost requests at once

    def _count_losses(self) -> None:
        """Register the topics' identities and count the lost requests."""
        try:
            self._store.register_topics(self._admin.identities(all_topics(self._settings)))
        except Unavailable as error:
            log.debug("Lost requests cannot be counted", error=str(error))
            return
        for queue in self._queues:
            queue.count_losses()

    def _run_housekeeping(self) -> None:
        now = self._clock()
        if now - self._housekeeping_at < HOUSEKEEPING_SECONDS:
            return
        self._housekeeping_at = now
        self._count_losses()
        self._store.delete_expired()

    def _set_state(self, state: str) -> None:
        if state != self._state:
            self._state = state
            log.info("Monitor", state=state, groups=[queue.group for queue in self._queues])
