"""Group monitor.

Reads   end and committed offsets, state, members and assignment of the processors' group (Kafka's admin API). Of a
        share group the client knows neither: its members are those that speak on `worker.events`, its lag is unknown.
        Which topics there are: one that was deleted and created anew has another id.
Writes  `outbox_samples`, `lag_samples`, `group_samples` every 2 s, and removes those past their retention; folds up
        `status_counts`. `topic_generations` and `request_losses` every 30 s, and when offsets say that something is
        gone.
Dies    anywhere: a sample is missing; the next one is whole.

Many may run: the lease makes one active. While Kafka is away only the outbox is sampled: an absent sample is unknown,
not zero.
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
from filemill.ports import Lease

log = structlog.get_logger("monitor")

HOUSEKEEPING_SECONDS = 30.0


class GroupMonitor:
    """Samples one group. One thread."""

    def __init__(
        self,
        store: MonitorStore,
        admin: KafkaAdmin,
        lease: Lease,
        *,
        settings: Settings,
        interval_seconds: float,
        find_bounds: Callable[[], LossBounds],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._admin = admin
        self._lease = lease
        self._settings = settings
        self._group = settings.group_id
        self._shares = settings.offsets_group is None
        self._topic = settings.topic_create
        self._interval_seconds = interval_seconds
        self._find_bounds = find_bounds
        self._clock = clock
        self._kept_house_at = float("-inf")
        self._state = ""
        self._trouble: list[str] = []
        self._lost = 0

    def run(self, stop: threading.Event, on_cycle: Callable[[], None] = lambda: None) -> None:
        """Sample until `stop` is set; unreachable servers are retried. `on_cycle` is called in each cycle."""
        due = self._clock()
        while not stop.is_set():
            on_cycle()
            try:
                if self._lease.acquire():
                    self.sample()
                    self._say("active")
                    self._keep_house()
                else:
                    self._say("standby")
            except Unavailable as error:
                self._say(f"waiting: {error}")
            # A fixed rate, not a fixed pause; after a gap, from now on.
            due = max(due + self._interval_seconds, self._clock())
            stop.wait(due - self._clock())
        try:
            self._lease.release()
        except Unavailable as error:
            log.warning("Left without giving up the lease; it expires", error=str(error))

    def sample(self) -> None:
        """Take and store one sample. Raises Unavailable; then, of a broker that is away nothing is stored.

        The outbox comes first: what piles up in there while Kafka is away is the one thing to see then.
        """
        now = self._store.sample_outbox()
        if self._shares:
            offsets = self._admin.offsets(None, self._topic)
            group = self._share_group(now)
        else:
            offsets = self._admin.offsets(self._group, self._topic)
            group = self._admin.describe_group(self._group, self._topic)
        topics = self._admin.identities([self._topic])
        self._store.store_sample(now, self._topic, topics, offsets, group)
        self._watch(offsets)

    def _watch(self, offsets: Sequence[LogOffsets]) -> None:
        """Say, once, that records are gone which were not processed; and count those requests soon."""
        trouble = [
            f"partition {part.partition}: {part.removed_before_commit} offsets were removed before they were committed"
            for part in offsets
            if part.removed_before_commit
        ] + [
            f"partition {part.partition}: {part.committed} is committed, and it ends at {part.end}"
            for part in offsets
            if part.committed_beyond_end
        ]
        if trouble and trouble != self._trouble:
            log.warning("Records are gone that were not processed", group=self._group, topic=self._topic, what=trouble)
            self._kept_house_at = float("-inf")
        self._trouble = trouble

    def _count_losses(self) -> None:
        """Which topics there are, and how many requests are gone with those that are no more."""
        try:
            self._store.register_topics(self._admin.identities(all_topics(self._settings)))
            bounds = self._find_bounds()
        except Unavailable as error:
            log.debug("What is gone cannot be counted now", error=str(error))
            return
        count = self._store.count_losses(bounds)
        if count != self._lost:
            log.warning("Unfinished requests whose records are gone from Kafka", requests=count)
        self._lost = count

    def _share_group(self, now: datetime) -> GroupDescription:
        """The share group by what its workers say: the client cannot describe one."""
        members = [MemberDescription(name, name, "", []) for name in self._store.share_members(now)]
        return GroupDescription("UNKNOWN", "share", None, members)

    def _keep_house(self) -> None:
        now = self._clock()
        if now - self._kept_house_at < HOUSEKEEPING_SECONDS:
            return
        self._kept_house_at = now
        self._count_losses()
        self._store.delete_expired()

    def _say(self, state: str) -> None:
        if state != self._state:
            self._state = state
            log.info("Monitor", state=state, group=self._group)
