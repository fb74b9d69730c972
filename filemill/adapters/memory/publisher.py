"""In-memory Publisher, for tests."""

import itertools
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable

import msgspec

from filemill.adapters.memory.broker import MemoryBroker
from filemill.domain.messages import Headers
from filemill.errors import DeadLetterCode, PermanentError, Unavailable
from filemill.ports import DeliveryReport

MESSAGE_MAX_BYTES = 2 * 1024 * 1024
QUEUE_FULL = "memory-queue-full"


class _Queued(msgspec.Struct, frozen=True):
    topic: str
    partition: int
    value: bytes | None
    headers: Headers | None
    on_delivery: Callable[[DeliveryReport], None] | None


class MemoryPublisher:
    """A producer. (port: Publisher). Any thread.

    A record is stored at once unless the broker has an outage; its delivery report waits for `poll`. A test that drops
    the publisher before `poll` simulates a crash between the two.
    """

    def __init__(self, broker: MemoryBroker, queue_records: int = 100_000) -> None:
        self._broker = broker
        self._queue_records = queue_records
        self._queue: deque[_Queued] = deque()
        self._reports: deque[tuple[Callable[[DeliveryReport], None], DeliveryReport]] = deque()
        self._round_robin = itertools.count()
        self._lock = threading.RLock()

    def publish(
        self,
        topic: str,
        value: bytes | None,
        on_delivery: Callable[[DeliveryReport], None] | None = None,
        *,
        key: str | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
    ) -> None:
        """Queue a record, and send it unless the broker has an outage."""
        if len(value or b"") > MESSAGE_MAX_BYTES:
            raise PermanentError(
                f"a record of {len(value or b'')} bytes is too large for Kafka", DeadLetterCode.RECORD_TOO_LARGE
            )
        if len(self._queue) + len(self._reports) >= self._queue_records:
            raise Unavailable("the producer's queue is full", code=QUEUE_FULL)
        if partition is None:
            choice = next(self._round_robin) if key is None else zlib.crc32(key.encode())
            partition = choice % max(1, self._broker.partitions(topic))
        with self._lock:
            self._queue.append(_Queued(topic, partition, value, headers, on_delivery))
            self._send()

    def poll(self, seconds: float = 0) -> int:
        """Deliver reports; without any, waits the whole time."""
        self._send()
        if not self._reports and seconds:
            time.sleep(seconds)
            self._send()
        due = len(self._reports)
        for _ in range(due):
            on_delivery, report = self._reports.popleft()
            on_delivery(report)
        return due

    def flush(self, seconds: float) -> int:
        """Send the queued records and deliver the reports; returns the number of records still queued."""
        self.poll(seconds if self._queue else 0)
        return len(self._queue)

    def partitions(self, topic: str) -> int:
        """Ask the broker."""
        if self._broker.outage is not None:
            raise Unavailable(self._broker.outage)
        return self._broker.partitions(topic)

    def _send(self) -> None:
        with self._lock:
            while self._queue and self._broker.outage is None:
                queued = self._queue.popleft()
                report = self._store(queued)
                if queued.on_delivery is not None:
                    self._reports.append((queued.on_delivery, report))

    def _store(self, queued: _Queued) -> DeliveryReport:
        if self._broker.reject_reason is not None:
            self._broker.rejected += 1
            return DeliveryReport(-1, -1, error=self._broker.reject_reason)
        if queued.partition >= self._broker.partitions(queued.topic):
            return DeliveryReport(-1, -1, error="Local: Unknown partition")
        offset = self._broker.append(queued.topic, queued.partition, queued.value, queued.headers)
        return DeliveryReport(queued.partition, offset)
