"""A simple consumer for comparison: it polls, works, and commits, and does not poll while it works.

It shows the effect of `max.poll.interval.ms`: during a longer job it loses its partitions.
"""

import threading
import time

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException

from filemill.config.settings import Settings

POLL_SECONDS = 0.5
GROUP_SUFFIX = "-blocking"


class BlockingConsumerReport(msgspec.Struct):
    """Counts of a run. `offsets` has the partition and offset of each started job."""

    started: int = 0
    committed: int = 0
    evictions: int = 0
    commit_errors: int = 0
    offsets: list[tuple[int, int]] = []

    @property
    def repeated(self) -> int:
        """The number of repeated starts of a job."""
        return len(self.offsets) - len(set(self.offsets))


def run_blocking_consumer(
    settings: Settings, *, job_seconds: float, max_poll_seconds: float, seconds: float, stop: threading.Event
) -> BlockingConsumerReport:
    """Consume `file.create` in a group of its own for `seconds`. The work is a sleep and creates no file."""
    report = BlockingConsumerReport()
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka_broker,
            "group.id": settings.kafka_group + GROUP_SUFFIX,
            "group.protocol": "classic",
            "session.timeout.ms": 6000,
            "heartbeat.interval.ms": 1000,
            "max.poll.interval.ms": int(max_poll_seconds * 1000),
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([settings.topic_create])
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline and not stop.is_set():
            message = consumer.poll(POLL_SECONDS)
            if message is None:
                continue
            error = message.error()
            if error is not None:
                report.evictions += error.code() == KafkaError._MAX_POLL_EXCEEDED
                continue
            report.started += 1
            report.offsets.append((message.partition() or 0, message.offset() or 0))
            stop.wait(job_seconds)
            try:
                consumer.commit(message=message, asynchronous=False)
                report.committed += 1
            except KafkaException:
                report.commit_errors += 1
    finally:
        consumer.close()
    return report
