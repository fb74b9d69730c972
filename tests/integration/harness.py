"""The harness of a pipeline for one test: its settings, its processes, and queries about its state."""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from filemill.adapters.postgres.file_rows import FileRow
from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.postgres.tables import File, OutboxRow, RejectedMessage
from filemill.config.settings import Settings
from filemill.domain.content import render
from filemill.domain.files import new_file, truncate_to_milliseconds
from filemill.domain.messages import FileCreate, FileCreated, decode, encode
from filemill.entrypoints import bootstrap
from filemill.queries.files import get_file
from filemill.verification.report import VerificationReport
from tests.integration import topics
from tests.integration.processes import START_SECONDS, Process, ProcessGroup, wait_until
from tests.servers import RunningServers, isolated_settings, patient_engine, watch


class PipelineHarness:
    """An empty pipeline and the processes that a test starts in it."""

    def __init__(self, settings: Settings, engine: sa.Engine, processes: ProcessGroup) -> None:
        self.settings = settings
        self.engine = engine
        self.processes = processes
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    # --- processes

    def run_in_threads(self, *roles: str) -> None:
        """Run relay or sync on threads of this process, which is faster, if the test is not about them."""
        for role in roles:
            relay = role == "relay"
            worker = (
                bootstrap.relay(self.settings, self.engine) if relay else bootstrap.sync(self.settings, self.engine)
            )
            self._threads.append(threading.Thread(target=worker.run, args=(self._stop,), name=role))
            self._threads[-1].start()

    def close(self) -> None:
        """Stop the threads."""
        self._stop.set()
        for thread in self._threads:
            thread.join(START_SECONDS)

    def start(self, *roles: str, **given: object) -> list[Process]:
        """Start one process of each role, all at once, and wait until each is active."""
        processes = [self.processes.start(role, None, **given) for role in roles]
        for role, process in zip(roles, processes, strict=True):
            self.wait_for_process(process, role)
        return processes

    def wait_for_process(self, process: Process, role: str) -> None:
        """Wait until a relay, sync or monitor is active, or a processor owns partitions."""
        active = {
            "processor": lambda: process.has_logged("Partitions assigned", queue=None),
            "relay": lambda: process.has_logged("Relay", state="active"),
            "sync": lambda: process.has_logged("Sync", state="active"),
            "monitor": lambda: process.has_logged("Monitor", state="active"),
        }[role]
        wait_until(active, START_SECONDS, f"{process.name} is active\n{process.tail()}")

    def wait_for_assignment(self, *counts: int, seconds: float = START_SECONDS) -> dict[str, list[int]]:
        """Wait until the members own these numbers of partitions, in descending order; returns them by member."""

        def assigned() -> dict[str, list[int]] | None:
            found = topics.owners(self.settings)
            return found if sorted((len(owned) for owned in found.values()), reverse=True) == list(counts) else None

        found = wait_until(assigned, seconds, f"the partitions are assigned as {counts}", every=0.2)
        assert found is not None
        return found

    # --- files

    def submit(self, count: int = 1, title: str = "A file", description: str = "Made by a test.") -> list[int]:
        with self.engine.begin() as connection:
            return insert_many(connection, [new_file(f"{title} {number}", description) for number in range(count)])

    def outbox_depth(self) -> int:
        """The number of requests in the outbox."""
        with self.engine.connect() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(OutboxRow)).scalar_one()

    def insert_rows(self, count: int) -> list[FileCreate]:
        """Insert rows without outbox rows; returns the requests, which a test may publish itself."""
        now = truncate_to_milliseconds(datetime.now(UTC))
        titles = [f"Request {number}" for number in range(count)]
        with self.engine.begin() as connection:
            rows = [{"title": title, "created_at": now} for title in titles]
            ids = connection.execute(sa.insert(File).returning(File.id), rows).scalars()
            return [FileCreate(file_id, title, "", now) for file_id, title in zip(ids, titles, strict=True)]

    def publish_requests(self, partition: int, count: int) -> list[int]:
        """Publish new requests to one partition as a foreign producer does, without outbox and headers."""
        requests = self.insert_rows(count)
        values = [encode(request) for request in requests]
        topics.publish(self.settings, self.settings.topic_create, values, partition=partition)
        return [request.file_id for request in requests]

    def file(self, file_id: int) -> FileRow:
        with self.engine.connect() as connection:
            row = get_file(connection, file_id)
        assert row is not None, f"there is no file {file_id}"
        return row

    def statuses(self, ids: Iterable[int]) -> dict[int, str]:
        wanted = sa.select(File.id, File.status).where(File.id.in_(list(ids)))
        with self.engine.connect() as connection:
            return {row.id: row.status for row in connection.execute(wanted)}

    def wait_for(self, ids: Iterable[int], status: str = "completed", seconds: float = 30.0) -> None:
        """Wait until all these files have the status."""
        wanted = list(ids)

        def left() -> dict[int, str]:
            return {file_id: was for file_id, was in self.statuses(wanted).items() if was != status}

        wait_until(lambda: not left(), seconds, f"all of {len(wanted)} files are {status}: {list(left().items())[:5]}")

    def download(self, file_id: int) -> bytes:
        row = self.file(file_id)
        assert row.s3_location is not None
        answer = bootstrap.s3_client(self.settings).get_object(Bucket=self.settings.s3_bucket, Key=row.s3_location)
        return answer["Body"].read()

    def expected_content(self, file_id: int) -> bytes:
        row = self.file(file_id)
        return render(row.title, row.description, row.created_at)

    # --- results

    def results(self) -> dict[int, list[FileCreated]]:
        """The results of each file in `file.created`, in order."""
        found: dict[int, list[FileCreated]] = {}
        for record in topics.read(self.settings, self.settings.topic_created):
            event = decode(record.value, FileCreated)
            found.setdefault(event.file_id, []).append(event)
        return found

    def rejected(self) -> list[dict[str, Any]]:
        """The rows of `rejected_messages`, in order."""
        columns = RejectedMessage.__table__
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(columns).order_by(*columns.primary_key)).mappings()
            return [dict(row) for row in rows]

    def verify(self) -> VerificationReport:
        return bootstrap.verify(self.settings, self.engine)

    def assert_clean(self) -> VerificationReport:
        """Check that no invariant is violated; returns the report."""
        report = self.verify()
        assert report.findings == {}, list(report.findings.values())
        return report


@contextlib.contextmanager
def open_harness(servers: RunningServers, folder: Path, **given: object) -> Iterator[PipelineHarness]:
    """A harness on these servers. Its processes and connections end with the context."""
    settings = isolated_settings(servers, **given)
    engine = patient_engine(settings.as_owner())
    try:
        with (
            ProcessGroup(settings, folder, lambda pid: watch(servers, pid)) as processes,
            contextlib.closing(PipelineHarness(settings, engine, processes)) as harness,
        ):
            yield harness
    finally:
        engine.dispose()
