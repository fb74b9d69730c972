"""A workshop on fakes: records in, files and events out, without a server and without waiting."""

import asyncio
import json
import queue
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from filemill.adapters.memory.broker import MemoryBroker
from filemill.adapters.memory.object_store import MemoryObjectStore
from filemill.adapters.memory.publisher import MemoryPublisher
from filemill.domain.messages import RUN_HEADER, TRACEPARENT_HEADER, Headers
from filemill.domain.records import Record
from filemill.domain.retry import RetryPolicy
from filemill.domain.worker_events import EventKind
from filemill.errors import Unavailable
from filemill.ports import PutMode
from filemill_workers.file_processor.circuit import CircuitBreaker
from filemill_workers.file_processor.executor import Executor, FinishedRecord
from filemill_workers.file_processor.record_task import OutputTopics, ProcessingContext

CREATE = "file.create"
TOPICS = OutputTopics("file.created", "file.progress", "file.create.dlq", "worker.events")
DEADLINE_SECONDS = 20.0
# Quick enough that an outage of some milliseconds is met by many tries.
POLICY = RetryPolicy(max_attempts=3, base_seconds=0.001, cap_seconds=0.004)
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


def request(file_id: int, **fields: object) -> bytes:
    """A `file.create` with the seed's four fields."""
    seed = {"fileId": file_id, "title": f"File {file_id}", "description": "d", "timestamp": "2026-01-04T12:00:00.000Z"}
    return json.dumps({**seed, **fields}).encode()


def record(
    offset: int, *, partition: int = 0, file_id: int | None = None, value: bytes | None = None, run: bytes | None = b"1"
) -> Record:
    """A record of `file.create`; by default of the file `offset + 1`."""
    headers: Headers = [(TRACEPARENT_HEADER, TRACE.encode())]
    if run is not None:
        headers.append((RUN_HEADER, run))
    body = request(file_id or offset + 1) if value is None else value
    return Record(CREATE, partition, offset, body, headers, 0)


def eventually(
    condition: Callable[[], object], what: str = "it did not come about", seconds: float = DEADLINE_SECONDS
) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


class HeldStore(MemoryObjectStore):
    """A bucket whose PUTs can be made to fail or to hang, by key."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: dict[str, BaseException] = {}
        self.holding: set[str] = set()
        self.tries: list[str] = []
        self.losing_answers = False  # the next PUT arrives, and its answer does not
        self.vanishing = False  # whatever is asked for was deleted just before

    async def put(self, key: str, body: bytes, metadata: Mapping[str, str], mode: PutMode = "overwrite") -> None:
        self.tries.append(key)
        while key in self.holding:  # noqa: ASYNC110 - the test's thread lets go
            await asyncio.sleep(0.001)
        if key in self.failing:
            raise self.failing[key]
        await super().put(key, body, metadata, mode)
        if self.losing_answers:
            self.losing_answers = False
            raise Unavailable("no answer")

    async def get(self, key: str) -> bytes:
        if self.vanishing:
            self.objects.pop(key, None)
        return await super().get(key)


class Bench:
    """A workshop, its fakes, and what came of the records."""

    def __init__(self, **given: Any) -> None:
        options = {"one_at_a_time": False, "membership_ttl_seconds": 1e9, "uploads": 64, "gates": False, **given}
        self.store = HeldStore()
        self.broker = MemoryBroker(
            dict.fromkeys([CREATE, TOPICS.created, TOPICS.progress, TOPICS.dead_letters, TOPICS.worker_events], 3)
        )
        self.publisher: MemoryPublisher = options.get("publisher") or MemoryPublisher(self.broker)
        self.cancelled: set[tuple[int, int | None]] = set()
        self.said: list[tuple[EventKind, str]] = []
        jitter = random.Random(1)
        self.gates = {
            name: CircuitBreaker(name, lambda kind, why: self.said.append((kind, why)), jitter)
            for name in ("S3", "Kafka")
        }
        ways: dict[str, Any] = {"call_store": self.gates["S3"].call, "call_broker": self.gates["Kafka"].call}
        self.workshop: Executor = options.get("workshop", Executor)(
            self.publisher,
            lambda workshop: ProcessingContext(
                worker_id="worker-1",
                store=self.store,
                publish=workshop.publish,
                publish_nowait=workshop.publish_nowait,
                wait_for_membership=workshop.wait_for_membership,
                upload_slots=asyncio.Semaphore(options["uploads"]),
                topics=TOPICS,
                retry_policy=options.get("policy", POLICY),
                processing_seconds=options.get("processing_seconds", 0),
                processing_steps=options.get("processing_steps", 6),
                long_job_every=options.get("long_job_every", 0),
                long_job_seconds=options.get("long_job_seconds", 0),
                jitter=jitter,
                is_cancelled=lambda file_id, run: (file_id, run) in self.cancelled,
                reporter=options.get("report"),
                **(ways if options["gates"] else {}),
            ),
            one_at_a_time=options["one_at_a_time"],
            membership_ttl_seconds=options["membership_ttl_seconds"],
        )

    def start(self, *records: Record, epoch: int = 1) -> None:
        self.workshop.start(records, {each.partition: epoch for each in records})

    def finished(self, count: int, seconds: float = DEADLINE_SECONDS) -> list[FinishedRecord]:
        """The next so many, in the order in which they finished."""
        deadline = time.monotonic() + seconds
        return [self.workshop.finished.get(timeout=max(0.001, deadline - time.monotonic())) for _ in range(count)]

    def nothing_finished(self) -> bool:
        try:
            self.workshop.finished.get_nowait()
        except queue.Empty:
            return True
        return False

    def events(self, topic: str = TOPICS.created) -> list[dict[str, Any]]:
        return [msgspec.json.decode(each.value or b"null") for each in self.broker.records(topic)]

    def results(self) -> dict[int, str]:
        return {event["fileId"]: event["status"] for event in self.events()}


@contextmanager
def bench(**given: Any) -> Iterator[Bench]:
    """A workshop that is shut at the end."""
    made = Bench(**given)
    try:
        yield made
    finally:
        made.workshop.close()
