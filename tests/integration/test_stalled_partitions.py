"""A partition whose committed offset does not move is reported, with the reason."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from filemill.adapters.memory.object_store import MemoryObjectStore
from filemill.adapters.postgres.worker_events import store_events
from filemill.config.settings import as_environment
from filemill.domain.worker_events import EventKind, Vitals, WorkerEvent
from filemill.entrypoints import bootstrap
from filemill.entrypoints.processor import Processor
from filemill.ports import PutMode, ReceivedEvent
from filemill.queries.overview import overview
from filemill.verification.findings import FindingCode
from tests.integration.group_samples import GROUP, insert_samples
from tests.integration.harness import PipelineHarness
from tests.integration.processes import wait_until

# --- by samples and heartbeats


def tell(connection: sa.Connection, kind: EventKind = EventKind.HEARTBEAT, *, ago: float = 0, **vitals: Any) -> None:
    """Store an event of worker w, whose records take 5 s: a partition is allowed 21 s in all."""
    event = WorkerEvent(
        kind=kind,
        worker_id="w",
        timestamp=datetime.now(UTC) - timedelta(seconds=ago),
        processing_seconds=5.0,
        vitals=msgspec.convert(vitals, Vitals) if kind is EventKind.HEARTBEAT else None,
    )
    place = connection.execute(sa.text("SELECT count(*) FROM worker_events")).scalar_one()
    store_events(connection, [ReceivedEvent(0, place, event)])


def stalled(connection: sa.Connection) -> dict[int, str]:
    found = overview(connection, GROUP, processing_seconds=60.0, session_seconds=6.0).stalled
    return {one.partition: f"{one.reason.value}: {one.sentence}" for one in found}


def test_a_partition_that_stands_still_is_reported(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        insert_samples(connection, {0: 7, 1: 10, 2: 1000}, upto=6)
        insert_samples(connection, {0: 7, 1: 40, 2: 1000}, since=4)
        tell(connection, inFlight=1, oldestRecords=[{"partition": 0, "offset": 7, "seconds": 59.0}])
        found = stalled(connection)
    assert list(found) == [0]
    assert found[0].startswith(
        "record: partition 0: the committed offset 7 has not advanced for 60 s, with a lag of 993"
    )
    assert found[0].endswith("its owner w is stuck on record P0·7 for 59 s")


def test_the_allowed_time_starts_again_after_a_gap_a_new_owner_or_an_open_breaker(engine: sa.Engine) -> None:
    oldest = [{"partition": 0, "offset": 7, "seconds": 59.0}]
    with engine.connect() as connection:
        with connection.begin() as short:
            insert_samples(connection, {0: 7}, since=20)
            tell(connection, inFlight=1, oldestRecords=oldest)
            assert stalled(connection) == {}, "the samples are not old enough"
            short.rollback()
        with connection.begin() as gap:
            insert_samples(connection, {0: 7}, upto=40)
            insert_samples(connection, {0: 7}, since=16)
            tell(connection, inFlight=1, oldestRecords=oldest)
            assert stalled(connection) == {}, "no sample for 24 s"
            gap.rollback()
        with connection.begin() as moved:
            insert_samples(connection, {0: 7}, upto=18, owner="another")
            insert_samples(connection, {0: 7}, since=16)
            tell(connection, inFlight=1, oldestRecords=oldest)
            assert stalled(connection) == {}, "it has had its owner for 16 s"
            moved.rollback()
        with connection.begin() as closed:
            insert_samples(connection, {0: 7})
            tell(connection, EventKind.BREAKER_CLOSED, ago=10)
            tell(connection, inFlight=1, oldestRecords=oldest)
            assert stalled(connection) == {}, "S3 has been back for 10 s"
            closed.rollback()
        with connection.begin() as silent:
            insert_samples(connection, {0: 7}, since=120, upto=40)
            tell(connection, inFlight=1, oldestRecords=oldest)
            assert stalled(connection) == {}, "no sample for 40 s"
            silent.rollback()


@pytest.mark.parametrize(
    ("vitals", "reason"),
    [({"quiet": True}, "quiet"), ({"breaker": "S3: away"}, "breaker"), ({}, "unknown")],
)
def test_the_reason_comes_from_the_owners_events(vitals: dict[str, Any], reason: str, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        insert_samples(connection, {0: 7})
        tell(connection, **vitals)
        assert stalled(connection)[0].startswith(f"{reason}: ")


def test_a_foreign_owner_is_reported_too(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        insert_samples(connection, {0: 7}, since=100, owner="kafkajs")
        assert stalled(connection)[0].endswith("its owner kafkajs sends no heartbeats")


# --- on real servers


class HangingStore(MemoryObjectStore):
    """A bucket that never responds."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = threading.Event()

    async def put(self, key: str, body: bytes, metadata: Mapping[str, str], mode: PutMode = "overwrite") -> None:
        del key, body, metadata, mode
        self.hangs.set()
        await asyncio.Event().wait()


@contextmanager
def run_processor_with(harness: PipelineHarness, store: HangingStore) -> Iterator[None]:
    """A monitor and a processor on threads of this process."""
    stop = threading.Event()
    monitor = threading.Thread(target=bootstrap.monitor(harness.settings, harness.engine).run, args=(stop,))
    processor = Processor(harness.settings, store=store)
    worker = threading.Thread(target=processor.run)
    monitor.start()
    worker.start()
    try:
        yield
    finally:
        processor.stop()
        stop.set()
        worker.join(30)
        monitor.join(30)


@pytest.mark.timeout(120)
def test_a_record_that_never_finishes_is_reported_by_verify_and_workers_list(harness: PipelineHarness) -> None:
    store = HangingStore()
    with run_processor_with(harness, store):
        harness.run_in_threads("sync")
        harness.publish_requests(1, 3)
        assert store.hangs.wait(40)

        def found() -> list[str]:
            finding = harness.verify().findings.get(FindingCode.PARTITION_STALLED)
            return finding.examples if finding else []

        (sentence,) = wait_until(found, 40, "verify reports the partition", every=1.0)
        assert sentence.startswith("partition 1: nothing is committed for ")
        assert "is stuck on record P1·0 for" in sentence
        environment = os.environ | as_environment(harness.settings)
        listed = subprocess.run(
            [sys.executable, "-m", "filemill", "workers", "list", "--json"],
            env=environment,
            capture_output=True,
            check=True,
        )
        (worker,) = json.loads(listed.stdout)
        assert [(one["partition"], one["reason"]) for one in worker["stalled"]] == [(1, "record")]
        (oldest,) = worker["vitals"]["oldestRecords"]
        assert (oldest["partition"], oldest["offset"]) == (1, 0)
        assert oldest["seconds"] > 10
