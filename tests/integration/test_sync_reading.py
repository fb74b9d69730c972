"""The sync's reader fails after it has given out events that are not in the rows yet."""

import contextlib
import json

from filemill.adapters.kafka.topic_reader import KafkaTopicReader
from filemill.adapters.postgres.lease import PostgresLease
from filemill.adapters.postgres.status_store import PostgresStatusStore
from filemill.domain.records import Record
from filemill.errors import Unavailable
from filemill_workers.status_sync import StatusSync
from tests.integration import topics
from tests.integration.harness import PipelineHarness
from tests.integration.processes import wait_until


class Failing(KafkaTopicReader):
    """Returns the records, and then fails once."""

    failed = False
    has_read = False

    def read(self, limit: int, seconds: float) -> list[Record]:
        if self.has_read and not Failing.failed:
            Failing.failed = True
            raise Unavailable("the client cannot continue")
        records = super().read(limit, seconds)
        self.has_read = self.has_read or bool(records)
        return records


def test_records_of_a_failed_reader_are_read_again(harness: PipelineHarness) -> None:
    settings = harness.settings
    ids = [request.file_id for request in harness.insert_rows(3)]
    for file_id in ids:
        key = f"made elsewhere/{file_id}"
        result = {"fileId": file_id, "s3Location": key, "status": "completed", "timestamp": "2026-01-04T12:00:00Z"}
        topics.publish(settings, settings.topic_created, [json.dumps(result).encode()], partition=0)
    lease = PostgresLease(harness.engine, "sync", "test", seconds=30)
    sync = StatusSync(
        PostgresStatusStore(harness.engine, lease),
        lease,
        lambda: Failing(settings, [settings.topic_created], "status-sync"),
        topic_created=settings.topic_created,
        topic_worker_events=settings.topic_worker_events,
        batch=100,
        lease_seconds=30,
        batching_seconds=2.0,  # long enough to read twice for one batch on a slow machine
    )

    def completed() -> bool:
        with contextlib.suppress(Unavailable):
            sync.step()
        return set(harness.statuses(ids).values()) == {"completed"}

    wait_until(completed, 20, "all events are in the rows")
    assert Failing.failed
    sync.close()
