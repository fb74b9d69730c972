"""Outbox relay.

Reads   the `outbox` table (accepted requests).
Writes  the topics of the queues, each in strict round robin; `publications`; deletes from the outbox what the broker
        acknowledged.
Dies    between numbering and producing: the next leader finds the numbered rows and produces them.
        between producing and deleting: the next leader produces them again, with the same number to the same
        partition. The record is duplicated, and the processors find the existing object.
        after numbering, if the topic is then recreated: the next leader discards the numbers, which is recorded, and
        the rows get new ones for the partitions of the new topic.

Several may run, in the dashboard's process or alone. The lease makes one the leader; the others are standbys.
"""

import enum
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from datetime import UTC, datetime
from typing import Protocol

import msgspec
import structlog

from filemill.domain.handlers import TEXT_HANDLER
from filemill.domain.messages import NO_PARAMETERS, FileCreate, create_headers, encode
from filemill.domain.records import TopicIdentity
from filemill.errors import NotLeader, Unavailable
from filemill.ports import ClaimedRow, Clock, DeliveryReport, Lease, Outbox, PublishedRow, Publisher

log = structlog.get_logger("relay")

PARTITIONS_REFRESH_SECONDS = 3.0
FLUSH_SECONDS = 2.0
POLL_SECONDS = 0.002
# The time between claims while records are in flight, if the last claim was not full. Without it, at hundreds of
# requests a second, each request would need its own transaction, and most claims would find nothing.
CLAIM_SECONDS = 0.01
# Batches that are produced but not marked as published: enough for the throughput, few enough to repeat after a crash.
IN_FLIGHT_BATCHES = 4


# Runs a call, on this or another thread, and returns its future.
Submit = Callable[[Callable[[], None]], Future[None]]


def run_inline(call: Callable[[], None]) -> Future[None]:
    """Run the call on the caller's thread."""
    done: Future[None] = Future()
    try:
        call()
    except Exception as error:  # noqa: BLE001 - the future raises it
        done.set_exception(error)
    else:
        done.set_result(None)
    return done


class RelayIntervals(msgspec.Struct, frozen=True, kw_only=True):
    """How long a relay sleeps, in seconds: idle (from the minimum to the maximum), as a standby, and after an outage.

    A relay in the process that accepts requests is woken; any other finds new requests by polling. One that is woken
    begins a little later: the client gets its answer first, instead of after the relay's turn on the same interpreter.
    """

    idle_min: float = 0.01
    idle_max: float = 0.2
    woken: float = 0.002
    standby: float = 0.5
    backoff_max: float = 2.0


class RelayState(enum.StrEnum):
    """The state of a relay. While it is waiting, its `problem` says what for."""

    STARTING = "starting"
    ACTIVE = "active"
    STANDBY = "standby"
    WAITING = "waiting"


class OutboxRelay:
    """Moves the requests of one queue from the outbox to its topic.

    `wake` and `state` are for any thread, all else is for one.
    """

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
        clock: Clock = time.monotonic,
        submit: Submit = run_inline,
        intervals: RelayIntervals | None = None,
        among_others: bool = False,
    ) -> None:
        """`identity` asks the broker for the topic's identity; None if it does not exist. It may raise Unavailable.

        `submit` runs the calls that mark rows as published, one at a time, while this thread produces others.
        `among_others`: other queues use the same thread, so the outbox is not read in every cycle.
        """
        self._among_others = among_others
        self._intervals = intervals or RelayIntervals()
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
        self._publishing: list[PublishedRow] = []  # the rows of `_publish_future`
        self._publish_future: Future[None] | None = None
        self._unsent: list[ClaimedRow] = []
        self._ask_identity = identity
        self._identity: TopicIdentity | None = None
        self._generation = 0
        self._partitions = 0
        self._partitions_at = self._renewed_at = self._claim_at = float("-inf")
        self._leading = False
        self._term: int | None = None  # the fencing token of the current term
        self.state = RelayState.STARTING
        self.problem: str | None = None

    def wake(self) -> None:
        """Check the outbox now. Call it after a commit."""
        self._wake.set()

    def read_outbox_now(self) -> None:
        """Read the outbox in the next cycle, however short the last read was before it."""
        self._claim_at = float("-inf")

    def run(self, stop: threading.Event, on_cycle: Callable[[], None] = lambda: None) -> None:
        """Relay until `stop` is set (then call `wake`); unreachable servers are retried.

        `on_cycle` is called in each cycle.
        """
        run_relay(self, self._wake, self._intervals, stop, on_cycle)

    @property
    def leading(self) -> bool:
        """Whether this relay is the leader."""
        return self._leading

    def report_outage(self, error: Unavailable) -> None:
        """Set the state of a relay whose step raised this error."""
        self._set_state(RelayState.WAITING, str(error))

    def step(self) -> bool:
        """Run one cycle; returns whether there was anything to do. Raises Unavailable."""
        try:
            if not self._lead():
                return False
            moved = self._produce_unsent() or self._produce_new()
        except NotLeader as error:
            self._become_standby(str(error))
            return False
        self._publisher.poll(0 if moved else POLL_SECONDS if self._in_flight else 0)
        # A transaction is expensive: while there is more to produce, rows are marked in whole batches.
        wait_seconds = 0 if moved or self._in_flight else POLL_SECONDS
        marked = self._mark_published(wait_seconds, least=self._batch if moved else 1)
        return marked or moved or bool(self._in_flight or self._publishing)

    def close(self) -> None:
        """Mark the acknowledged rows as published and release the lease. The next leader repeats the others."""
        self._publisher.flush(FLUSH_SECONDS)
        try:
            while self._acknowledged or self._publishing:
                self._mark_published(wait_seconds=FLUSH_SECONDS)
            self._lease.release()
        except Unavailable as error:
            log.warning("Stopped with unmarked rows; the next leader will repeat some requests", error=str(error))

    def _lead(self) -> bool:
        now = self._clock()
        if self._leading and now - self._renewed_at < self._renew_seconds:
            return True
        if not self._lease.acquire():
            self._become_standby("another relay is active")
            return False
        self._renewed_at = now
        # After a pause of this process the lease may be free, although another leader numbered requests meanwhile.
        self._leading = self._leading and self._lease.fencing == self._term
        if not self._leading:
            self._recover()  # before it counts as leading, so that it is retried if Postgres fails in between
            self._leading, self._term = True, self._lease.fencing
            self._set_state(RelayState.ACTIVE)
        return True

    def _become_standby(self, reason: str) -> None:
        self._leading = False
        self._unsent.clear()  # they are numbered: the next leader finds them
        self._set_state(RelayState.STANDBY, reason=reason)

    def _recover(self) -> None:
        """Find the rows that were numbered in an earlier term, by any leader, but not marked as published."""
        known = {*self._in_flight, *(row.claimed.sequence for row in (*self._acknowledged, *self._publishing))}
        last, self._unsent = 0, []
        while rows := self._outbox.unpublished(self._batch, after=last):
            last = rows[-1].sequence
            self._unsent += [row for row in rows if row.sequence not in known]
        if self._unsent:
            log.info("Repeating requests that were numbered but not published", requests=len(self._unsent))

    def _produce_unsent(self) -> bool:
        if not self._unsent:
            return False
        self._refresh_partitions()
        if gone := [row for row in self._unsent if row.generation != self._generation]:
            self._discard_sequences(gone)
        rows, self._unsent = self._unsent, []
        for index, row in enumerate(rows):
            if not self._produce(row):
                self._unsent += rows[index + 1 :]
                break
        return len(self._unsent) < len(rows)

    def _discard_sequences(self, gone: list[ClaimedRow]) -> None:
        """Discard the numbers of rows of a deleted topic, so that they get new ones for the current topic."""
        count = self._outbox.discard_sequences(gone)
        self._unsent = [row for row in self._unsent if row.generation == self._generation]
        self._claim_at = float("-inf")
        log.warning("The topic was recreated: requests get new sequence numbers", topic=self._topic, requests=count)

    def _produce_new(self) -> bool:
        pending = len(self._in_flight) + len(self._acknowledged) + len(self._publishing)
        if self._unsent or pending >= self._batch * IN_FLIGHT_BATCHES:
            return False
        if (pending or self._among_others) and self._clock() < self._claim_at:
            return False
        partitions = self._refresh_partitions()
        try:
            rows = self._outbox.claim(self._batch, partitions, self._generation)
        except Unavailable:
            self._leading = False  # perhaps only the response was lost: recovery finds the numbered rows
            raise
        if len(rows) < self._batch:
            self._claim_at = self._clock() + CLAIM_SECONDS
        self._renewed_at = self._clock() if rows else self._renewed_at  # a claim renews the lease
        for index, row in enumerate(rows):
            if not self._produce(row):
                self._unsent += rows[index + 1 :]
                break
        return bool(rows)

    def _refresh_partitions(self) -> int:
        now = self._clock()
        if now - self._partitions_at >= PARTITIONS_REFRESH_SECONDS or not self._partitions:
            identity = self._ask_identity()
            # Updates the producer's metadata, too: it rejects partitions that it does not know.
            self._partitions = self._publisher.partitions(self._topic) if identity is not None else 0
            if identity is not None and not identity.is_same_topic(self._identity):
                self._generation = self._outbox.topic_generation(self._topic, identity)
                self._identity = identity
            self._partitions_at = now
        if not self._partitions:
            raise Unavailable(f"Kafka has no topic {self._topic}: run `filemill topics create`")
        return self._partitions

    def _produce(self, row: ClaimedRow) -> bool:
        """Pass a row to the producer; returns False and keeps the row for later if the queue is full."""
        message = _message(row)
        self._in_flight[row.sequence] = row
        try:
            self._publisher.publish(
                self._topic,
                encode(message),
                lambda report: self._on_delivery(row, report),
                partition=row.partition,
                headers=create_headers(row.sequence, row.run, row.traceparent),
            )
        except Unavailable as error:
            del self._in_flight[row.sequence]
            self._unsent.append(row)
            self._set_state(RelayState.WAITING, str(error))
            return False
        return True

    def _on_delivery(self, row: ClaimedRow, report: DeliveryReport) -> None:
        self._in_flight.pop(row.sequence, None)
        if report.error is None:
            self._acknowledged.append(PublishedRow(row, report.offset))
            if self._leading:
                self._set_state(RelayState.ACTIVE)
        else:
            self._unsent.append(row)
            self._set_state(RelayState.WAITING, f"Kafka rejected a request: {report.error}")

    def _mark_published(self, wait_seconds: float = 0, least: int = 1) -> bool:
        """Mark acknowledged rows as published, at least `least` at a time.

        Returns whether a call that does so has ended; waits up to `wait_seconds` for it.
        """
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


def _message(row: ClaimedRow) -> FileCreate:
    """The request of a row."""
    if row.handler == TEXT_HANDLER and row.parameters is None and row.inputs is None:
        return FileCreate(row.file_id, row.title, row.description, row.requested_at)
    return FileCreate(
        row.file_id,
        row.title,
        row.description,
        row.requested_at,
        row.handler,
        NO_PARAMETERS if row.parameters is None else msgspec.Raw(row.parameters),
        {} if row.inputs is None else msgspec.json.decode(row.inputs, type=dict[str, str]),
    )


class _Steppable(Protocol):
    """What `run_relay` runs: the relay of one queue or of several."""

    @property
    def leading(self) -> bool:
        """Whether it is the leader."""

    def step(self) -> bool:
        """Run one cycle."""

    def read_outbox_now(self) -> None:
        """Read the outbox in the next cycle."""

    def report_outage(self, error: Unavailable) -> None:
        """Set the state after an error."""

    def close(self) -> None:
        """Stop."""


def run_relay(
    relay: _Steppable,
    wake: threading.Event,
    intervals: RelayIntervals,
    stop: threading.Event,
    on_cycle: Callable[[], None],
) -> None:
    """Step the relay until `stop` is set, then close it. `wake` ends a pause."""
    idle, backoff = intervals.idle_min, intervals.idle_min
    while not stop.is_set():
        on_cycle()
        try:
            busy = relay.step()
            pause = 0.0 if busy else idle if relay.leading else intervals.standby
            idle = intervals.idle_min if busy else min(intervals.idle_max, idle * 1.5)
            backoff = intervals.idle_min
        except Unavailable as error:
            relay.report_outage(error)
            pause = backoff = min(intervals.backoff_max, backoff * 2)
        # Cleared after the wait, not before the step: a wake between the two must not be lost.
        if pause and wake.wait(pause):
            idle = intervals.idle_min
            stop.wait(intervals.woken)
            relay.read_outbox_now()
        wake.clear()
    relay.close()


class QueueRelays:
    """The relays of all queues, on one thread and under one lease.

    An error of one queue, such as a missing topic, does not stop the others. Servers that are unreachable stop all.
    """

    def __init__(
        self, relays: Sequence[OutboxRelay], *, clock: Clock = time.monotonic, intervals: RelayIntervals | None = None
    ) -> None:
        self._relays = list(relays)
        self._clock = clock
        self._intervals = intervals or RelayIntervals()
        self._wake = threading.Event()
        # By relay: when to try again after an error, and the last pause.
        self._due = [float("-inf")] * len(self._relays)
        self._backoff = [self._intervals.idle_min] * len(self._relays)

    @property
    def state(self) -> RelayState:
        """The state of the first relay that waits for something, else of the first one."""
        return self._foremost.state

    @property
    def problem(self) -> str | None:
        """What it waits for; None unless the state is waiting."""
        return self._foremost.problem

    @property
    def _foremost(self) -> OutboxRelay:
        return next((relay for relay in self._relays if relay.problem is not None), self._relays[0])

    @property
    def leading(self) -> bool:
        """Whether this process is the leader."""
        return any(relay.leading for relay in self._relays)

    def wake(self) -> None:
        """Check the outbox now. Call it after a commit. Any thread."""
        self._wake.set()

    def run(self, stop: threading.Event, on_cycle: Callable[[], None] = lambda: None) -> None:
        """Relay until `stop` is set (then call `wake`); unreachable servers are retried."""
        run_relay(self, self._wake, self._intervals, stop, on_cycle)

    def step(self) -> bool:
        """Run one cycle of each queue; returns whether there was anything to do. Raises Unavailable if all failed."""
        busy, failed = False, None
        failures = 0
        for index, relay in enumerate(self._relays):
            if self._clock() < self._due[index]:
                continue
            try:
                busy = relay.step() or busy
                self._backoff[index] = self._intervals.idle_min
            except Unavailable as error:
                failures, failed = failures + 1, error
                relay.report_outage(error)
                self._backoff[index] = min(self._intervals.backoff_max, self._backoff[index] * 2)
                self._due[index] = self._clock() + self._backoff[index]
        if failed is not None and failures == len(self._relays):
            raise failed
        return busy

    def read_outbox_now(self) -> None:
        """Read the outbox in the next cycle, also for queues that wait after an error."""
        self._due = [float("-inf")] * len(self._relays)
        for relay in self._relays:
            relay.read_outbox_now()

    def report_outage(self, error: Unavailable) -> None:
        """Each relay has reported its own error."""

    def close(self) -> None:
        """Mark the acknowledged rows of all queues, then release the lease."""
        for relay in self._relays:
            relay.close()
