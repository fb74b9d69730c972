"""Outbox relay.

Reads   the `outbox` table (accepted requests).
Writes  `file.create`, in strict round robin; `publications`; deletes from the outbox what the broker acknowledged.
Dies    between numbering and producing: the successor finds the numbered rows and produces them.
        between producing and deleting: the successor produces them once more, under the same number, to the same
        partition; whoever counts sees a repeat, and the processors find the object that they made.
        after numbering, and the topic is deleted and created anew: the successor gives the numbers up, on record, and
        the rows get new ones for the partitions that there are.

Many may run, in the dashboard's process or alone: the lease makes one active, the others stand by.
"""

import enum
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import UTC, datetime

import structlog

from filemill.domain.messages import FileCreate, create_headers, encode
from filemill.domain.records import TopicIdentity
from filemill.errors import NotLeader, Unavailable
from filemill.ports import ClaimedRow, DeliveryReport, Lease, Outbox, PublishedRow, Publisher

log = structlog.get_logger("relay")

# How long an idle relay sleeps. One in the process that accepts requests is woken; one elsewhere finds them by asking.
IDLE_MIN_SECONDS = 0.01
IDLE_MAX_SECONDS = 0.2
STANDBY_SECONDS = 0.5
BACKOFF_MAX_SECONDS = 2.0
PARTITIONS_REFRESH_SECONDS = 3.0
FLUSH_SECONDS = 2.0
POLL_SECONDS = 0.002
# From a claim that took all there was to the next, while some are on their way: at hundreds of requests a second each
# would be claimed by a transaction of its own otherwise, and most claims would find nothing.
CLAIM_SECONDS = 0.01
# Produced and not settled: enough to fill the broker's pipe, little enough to repeat after a crash.
IN_FLIGHT_BATCHES = 4


# Runs a call, now or beside, and gives its future.
Submit = Callable[[Callable[[], None]], Future[None]]


def run_inline(call: Callable[[], None]) -> Future[None]:
    """Run a call on the caller's thread."""
    done: Future[None] = Future()
    try:
        call()
    except Exception as error:  # noqa: BLE001 - it is raised to whoever asks for the result
        done.set_exception(error)
    else:
        done.set_result(None)
    return done


class RelayState(enum.StrEnum):
    """The state of a relay. While it is waiting, its `problem` says what for."""

    STARTING = "starting"
    ACTIVE = "active"
    STANDBY = "standby"
    WAITING = "waiting"


class OutboxRelay:
    """Moves requests from the outbox to Kafka. `run` belongs to one thread; `wake` and `state` to any."""

    def __init__(
        self,
        outbox: Outbox,
        lease: Lease,
        publisher: Publisher,
        *,
        topic: str,
        identity: Callable[[], TopicIdentity | None],
        batch: int,
        lease_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        submit: Submit = run_inline,
    ) -> None:
        """`identity` asks the broker which topic has the name now; None for none. Raises Unavailable.

        `beside`: where requests are settled, one call at a time, while this thread claims and produces others.
        """
        self._outbox = outbox
        self._lease = lease
        self._publisher = publisher
        self._topic = topic
        self._batch = batch
        self._renew_seconds = lease_seconds / 3
        self._clock = clock
        self._wake = threading.Event()
        self._in_flight: dict[int, ClaimedRow] = {}
        self._submit = submit
        self._acknowledged: list[PublishedRow] = []
        self._publishing: list[PublishedRow] = []  # what `_settled` is about
        self._publish_future: Future[None] | None = None
        self._unsent: list[ClaimedRow] = []
        self._ask_identity = identity
        self._identity: TopicIdentity | None = None
        self._generation = 0
        self._partitions = 0
        self._partitions_at = self._renewed_at = self._claim_at = float("-inf")
        self._leading = False
        self._term: int | None = None  # the fencing number that it leads under
        self.state = RelayState.STARTING
        self.problem: str | None = None

    def wake(self) -> None:
        """Look at the outbox now: call it after a commit."""
        self._wake.set()

    def run(self, stop: threading.Event, on_cycle: Callable[[], None] = lambda: None) -> None:
        """Relay until `stop` is set (then call `wake`); unreachable servers are retried.

        `on_cycle` is called in each cycle.
        """
        idle, trouble = IDLE_MIN_SECONDS, IDLE_MIN_SECONDS
        while not stop.is_set():
            on_cycle()
            try:
                busy = self.step()
                pause = 0.0 if busy else idle if self._leading else STANDBY_SECONDS
                idle = IDLE_MIN_SECONDS if busy else min(IDLE_MAX_SECONDS, idle * 1.5)
                trouble = IDLE_MIN_SECONDS
            except Unavailable as error:
                self._set_state(RelayState.WAITING, str(error))
                pause = trouble = min(BACKOFF_MAX_SECONDS, trouble * 2)
            # Its place in the wait, not before the step: a wake between the two must not be forgotten.
            if pause and self._wake.wait(pause):
                idle, self._claim_at = IDLE_MIN_SECONDS, float("-inf")
            self._wake.clear()
        self.close()

    def step(self) -> bool:
        """One round; whether there was anything to do. Raises Unavailable."""
        try:
            if not self._lead():
                return False
            moved = self._produce_unsent() or self._produce_new()
        except NotLeader as error:
            self._become_standby(str(error))
            return False
        self._publisher.poll(0 if moved else POLL_SECONDS if self._in_flight else 0)
        # A transaction has its price: while there is more to produce, they are settled a batch at a time.
        wait_seconds = 0 if moved or self._in_flight else POLL_SECONDS
        settled = self._mark_published(wait_seconds, least=self._batch if moved else 1)
        return settled or moved or bool(self._in_flight or self._publishing)

    def close(self) -> None:
        """Settle what is acknowledged and give up the lease; what is not settled, the successor repeats."""
        self._publisher.flush(FLUSH_SECONDS)
        try:
            while self._acknowledged or self._publishing:
                self._mark_published(wait_seconds=FLUSH_SECONDS)
            self._lease.release()
        except Unavailable as error:
            log.warning("Left without settling; a successor will repeat some requests", error=str(error))

    def _lead(self) -> bool:
        now = self._clock()
        if self._leading and now - self._renewed_at < self._renew_seconds:
            return True
        if not self._lease.acquire():
            self._become_standby("another relay is active")
            return False
        self._renewed_at = now
        # A leader that slept may find the lease free again: another one led, numbered requests and died meanwhile.
        self._leading = self._leading and self._lease.fencing == self._term
        if not self._leading:
            self._recover()  # before it counts as leading: it is tried again where Postgres goes away in its middle
            self._leading, self._term = True, self._lease.fencing
            self._set_state(RelayState.ACTIVE)
        return True

    def _become_standby(self, reason: str) -> None:
        self._leading = False
        self._unsent.clear()  # they are numbered: whoever leads next finds them
        self._set_state(RelayState.STANDBY, reason=reason)

    def _recover(self) -> None:
        """Take over what a predecessor, or this relay before it lost the lease, had numbered and not settled."""
        known = {*self._in_flight, *(row.claimed.sequence for row in (*self._acknowledged, *self._publishing))}
        last, self._unsent = 0, []
        while rows := self._outbox.unpublished(self._batch, after=last):
            last = rows[-1].sequence
            self._unsent += [row for row in rows if row.sequence not in known]
        if self._unsent:
            log.info("Repeating requests that were numbered but not settled", requests=len(self._unsent))

    def _produce_unsent(self) -> bool:
        if not self._unsent:
            return False
        self._refresh_partitions()
        if gone := [row for row in self._unsent if row.generation != self._generation]:
            self._discard_sequences(gone)
        again, self._unsent = self._unsent, []
        for place, row in enumerate(again):
            if not self._produce(row):
                self._unsent += again[place + 1 :]
                break
        return len(self._unsent) < len(again)

    def _discard_sequences(self, gone: list[ClaimedRow]) -> None:
        """Have rows that were numbered for a topic which is gone numbered anew, for the one that has its name now."""
        count = self._outbox.discard_sequences(gone)
        self._unsent = [row for row in self._unsent if row.generation == self._generation]
        self._claim_at = float("-inf")
        log.warning("The topic is another one: requests are numbered anew", topic=self._topic, requests=count)

    def _produce_new(self) -> bool:
        unsettled = len(self._in_flight) + len(self._acknowledged) + len(self._publishing)
        if self._unsent or unsettled >= self._batch * IN_FLIGHT_BATCHES:
            return False
        if unsettled and self._clock() < self._claim_at:
            return False
        partitions = self._refresh_partitions()
        try:
            rows = self._outbox.claim(self._batch, partitions, self._generation)
        except Unavailable:
            self._leading = False  # the answer may be all that was lost: to lead again is to look for numbered rows
            raise
        if len(rows) < self._batch:
            self._claim_at = self._clock() + CLAIM_SECONDS
        self._renewed_at = self._clock() if rows else self._renewed_at  # a claim proves, and renews, the lease
        for place, row in enumerate(rows):
            if not self._produce(row):
                self._unsent += rows[place + 1 :]
                break
        return bool(rows)

    def _refresh_partitions(self) -> int:
        now = self._clock()
        if now - self._partitions_at >= PARTITIONS_REFRESH_SECONDS or not self._partitions:
            identity = self._ask_identity()
            # Known to the producer too: it would refuse a partition that it has not heard of.
            self._partitions = self._publisher.partitions(self._topic) if identity is not None else 0
            if identity is not None and not identity.is_same_topic(self._identity):
                self._generation = self._outbox.topic_generation(self._topic, identity)
                self._identity = identity
            self._partitions_at = now
        if not self._partitions:
            raise Unavailable(f"Kafka has no topic {self._topic}: run `filemill topics create`")
        return self._partitions

    def _produce(self, row: ClaimedRow) -> bool:
        """Hand a row to the producer; False (and kept for later) where its queue is full."""
        message = FileCreate(row.file_id, row.title, row.description, row.requested_at)
        self._in_flight[row.sequence] = row
        try:
            self._publisher.publish(
                self._topic,
                encode(message),
                lambda receipt: self._on_delivery(row, receipt),
                partition=row.partition,
                headers=create_headers(row.sequence, row.run, row.traceparent),
            )
        except Unavailable as error:
            del self._in_flight[row.sequence]
            self._unsent.append(row)
            self._set_state(RelayState.WAITING, str(error))
            return False
        return True

    def _on_delivery(self, row: ClaimedRow, receipt: DeliveryReport) -> None:
        self._in_flight.pop(row.sequence, None)
        if receipt.error is None:
            self._acknowledged.append(PublishedRow(row, receipt.offset))
            if self._leading:
                self._set_state(RelayState.ACTIVE)
        else:
            self._unsent.append(row)
            self._set_state(RelayState.WAITING, f"Kafka rejected a request: {receipt.error}")

    def _mark_published(self, wait_seconds: float = 0, least: int = 1) -> bool:
        """Have what is acknowledged settled, if it is `least` requests; whether some was, within `wait_seconds`."""
        if self._publish_future is None and len(self._acknowledged) >= least:
            batch = self._publishing = self._acknowledged
            self._acknowledged = []
            self._publish_future = self._submit(lambda: self._outbox.mark_published(batch))
        if self._publish_future is None or not wait([self._publish_future], wait_seconds).done:
            return False
        try:
            self._publish_future.result()
        except Unavailable:
            self._acknowledged[:0] = self._publishing
            self._publish_future, self._publishing = None, []
            raise
        log.debug("Produced to Kafka", topic=self._topic, messages=len(self._publishing))
        self._publish_future, self._publishing = None, []
        return True

    def _set_state(self, state: RelayState, problem: str | None = None, **details: str) -> None:
        """Set the state, and log it if it changed."""
        if (state, problem) != (self.state, self.problem):
            self.state, self.problem = state, problem
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            if problem is not None:
                details["problem"] = problem
            log.info("Relay", state=state.value, at=at, **details)
