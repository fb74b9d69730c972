"""One violation of each kind is planted in a pipeline at rest; `verify` reports exactly these."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import File, OutboxRow, Publication, PublishCounter, SyncPosition
from filemill.domain.content import render, sha256_hex
from filemill.domain.files import object_key, truncate_to_milliseconds
from filemill.domain.messages import FileCreate, FileCreated, create_headers, encode, new_traceparent
from filemill.entrypoints import bootstrap
from filemill.services.audit import record
from filemill.verification.findings import VERIFY_CODES, FindingCode
from filemill.verification.report import VerificationReport
from tests.integration import topics
from tests.integration.audit import audit_commits
from tests.integration.group_samples import insert_samples
from tests.integration.harness import PipelineHarness, open_harness
from tests.principals import TEST
from tests.servers import RunningServers, patient_engine


class Ledger(PipelineHarness):
    """A pipeline without processes: the test does each of their steps, or leaves it out."""

    next_number = 1

    def make(self, count: int = 1) -> list[FileCreate]:
        """Files on their whole way: row, publication, object, result, applied."""
        requests = self.insert_rows(count)
        for request in requests:
            self.publish(request)
            self.store(request)
            self.announce(request)
        return requests

    def publish(self, request: FileCreate, **wrong: int) -> tuple[int, int]:
        """Onto `file.create`, under the next number; returns partition and offset. `wrong`: number, partition."""
        number = wrong.get("number", self.next_number)
        self.next_number = max(self.next_number, number + 1)
        partition = wrong.get("partition", (number - 1) % 3)
        (offset,) = topics.publish(
            self.settings,
            self.settings.topic_create,
            [encode(request)],
            partition=partition,
            headers=create_headers(number, 1, new_traceparent()),
        )
        with self.engine.begin() as connection:
            row = {"publish_number": number, "file_id": request.file_id, "run": 1}
            known = sa.select(Publication.publish_number).where(Publication.publish_number == number)
            if connection.execute(known).first() is None:
                place = {"partition": partition, "offset": offset}
                connection.execute(sa.insert(Publication).values(**row, **place))
            connection.execute(sa.update(PublishCounter).values(next_number=self.next_number))
        return partition, offset

    def note_published(self, request: FileCreate, partition: int, offset: int) -> None:
        """A publication whose record is not there, as after a restore of an older Kafka."""
        number, self.next_number = self.next_number, self.next_number + 1
        row = {"publish_number": number, "file_id": request.file_id, "run": 1}
        with self.engine.begin() as connection:
            connection.execute(sa.insert(Publication).values(**row, partition=partition, offset=offset))
            connection.execute(sa.update(PublishCounter).values(next_number=self.next_number))

    def claim_number(self, request: FileCreate, number: int) -> None:
        """Onto `file.create` under a number that was never given, as anybody could."""
        headers = create_headers(number, 1, new_traceparent())
        topics.publish(self.settings, self.settings.topic_create, [encode(request)], partition=0, headers=headers)

    def store(self, request: FileCreate) -> None:
        self.put(object_key(request.file_id, request.timestamp), body_of(request))

    def put(self, key: str, body: bytes) -> None:
        client = bootstrap.s3_client(self.settings)
        client.put_object(Bucket=self.settings.s3_bucket, Key=key, Body=body)

    def announce(self, request: FileCreate, **given: object) -> None:
        """Its result onto `file.created`, and into its row as the sync would put it. `given`: fields of the result."""
        body = body_of(request)
        facts = {
            "file_id": request.file_id,
            "s3_location": object_key(request.file_id, request.timestamp),
            "status": "completed",
            "timestamp": truncate_to_milliseconds(datetime.now(UTC)),
            "run": 1,
            "sha256": sha256_hex(body),
            "size": len(body),
            "worker_id": "honest",
            **given,
        }
        self.tell(**facts)
        shown = {name: facts[name] for name in ("s3_location", "status", "sha256", "size", "worker_id")}
        self.change(request, **shown)

    def tell(self, **facts: object) -> None:
        """A result on `file.created` that no row shows, though the sync has read it."""
        event = encode(FileCreated(**facts))  # type: ignore[arg-type]
        (offset,) = topics.publish(self.settings, self.settings.topic_created, [event], partition=0)
        with self.engine.begin() as connection:
            position = {"topic": self.settings.topic_created, "partition": 0, "next_offset": offset + 1}
            connection.execute(sa.delete(SyncPosition))
            connection.execute(sa.insert(SyncPosition).values(**position))

    def change(self, request: FileCreate, **columns: object) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.update(File).where(File.id == request.file_id).values(**columns))

    def commit_all(self) -> None:
        """Commit each partition to its end, as workers do once everything is finished."""
        ends: dict[int, int] = {}
        for one in topics.read(self.settings, self.settings.topic_create):
            ends[one.partition] = one.offset + 1
        for partition, end in ends.items():
            topics.commit(self.settings, partition, end, '{"worker":"honest","epoch":1}')


def body_of(request: FileCreate) -> bytes:
    return render(request.title, request.description, request.timestamp)


class Planted(NamedTuple):
    """What was found before anything was planted, and after; and what should have been, by check."""

    clean: VerificationReport
    report: VerificationReport
    expected: dict[str, list[str]]


@pytest.fixture(scope="module")
def ledger(servers: RunningServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with open_harness(servers, tmp_path_factory.mktemp("logs")) as harness:
        yield Ledger(harness.settings, harness.engine, harness.processes)


@pytest.fixture(scope="module")
def planted(ledger: Ledger) -> Planted:
    """A clean pipeline, then one violation of each kind on a file of its own, and one verification of all."""
    ledger.make(6)
    # What is counted and is no finding: an object beyond the row's, a request that was published twice.
    superseded, repeated, failed = ledger.make(3)
    ledger.put(f"file-{superseded.file_id}-1.txt", b"of an earlier run")
    ledger.publish(repeated, number=ledger.next_number - 2)
    ledger.claim_number(repeated, 2**62)
    ledger.tell(file_id=failed.file_id, status="failed", timestamp=failed.timestamp, run=1)
    ledger.commit_all()
    clean = ledger.verify()
    expected = plant(ledger)
    return Planted(clean, ledger.verify(), expected)


def plant(ledger: Ledger) -> dict[str, list[str]]:
    """One violation of each check, and the ids that its finding must give."""
    expected: dict[str, list[str]] = {}
    client, bucket = bootstrap.s3_client(ledger.settings), ledger.settings.s3_bucket

    (missing,) = ledger.make()
    client.delete_object(Bucket=bucket, Key=object_key(missing.file_id, missing.timestamp))
    expected["object-missing"] = [str(missing.file_id)]

    (altered,) = ledger.make()
    # Its row is what another body would have, so that the render is still right: hash and object differ.
    ledger.change(altered, sha256=sha256_hex(b"other"), size=5)
    expected["object-differs"] = [str(altered.file_id)]

    (misrendered,) = ledger.make()
    ledger.put(object_key(misrendered.file_id, misrendered.timestamp), b"other")
    ledger.change(misrendered, sha256=sha256_hex(b"other"), size=5)
    (misplaced,) = ledger.make()
    ledger.put(f"file-{misplaced.file_id}-2.txt", body_of(misplaced))
    ledger.change(misplaced, s3_location=f"file-{misplaced.file_id}-2.txt")
    key = f"{misplaced.file_id} (key file-{misplaced.file_id}-2.txt)"
    expected["render-differs"] = [str(misrendered.file_id), key]

    ledger.put("file-999999-1.txt", b"nobody's")
    ledger.put("notes/nobody.txt", b"nobody's")
    expected["orphan-object"] = ["file-999999-1.txt", "notes/nobody.txt"]

    (without_dead_letter,) = ledger.insert_rows(1)
    ledger.publish(without_dead_letter)
    ledger.announce(without_dead_letter, status="failed", s3_location=None, sha256=None, size=None)
    expected["failed-without-dead-letter"] = [str(without_dead_letter.file_id)]

    (unsupported,) = ledger.insert_rows(1)
    ledger.publish(unsupported)
    ledger.announce(unsupported, status="failed", worker_id=None, s3_location=None, sha256=None, size=None)
    ledger.store(unsupported)
    body, at = body_of(unsupported), object_key(unsupported.file_id, unsupported.timestamp)
    ledger.change(unsupported, status="completed", s3_location=at, sha256=sha256_hex(body), size=len(body))
    expected["status-unsupported"] = [f"{unsupported.file_id} (completed)"]

    (unapplied,) = ledger.make()
    ledger.change(unapplied, status="processing", s3_location=None, sha256=None, size=None)
    expected["status-not-applied"] = [f"{unapplied.file_id} (processing)"]

    (twice,) = ledger.make()
    number = ledger.next_number - 1
    ledger.publish(twice, number=number, partition=number % 3)
    expected["publish-number-twice"] = [str(number)]

    ledger.next_number += 1
    expected["publish-number-missing"] = [str(ledger.next_number - 1)]

    turned, number = ledger.insert_rows(1)[0], ledger.next_number
    ledger.publish(turned, partition=number % 3)
    ledger.store(turned)
    ledger.announce(turned)
    expected["publish-out-of-turn"] = [str(number)]

    ledger.make(2)
    ledger.commit_all()
    nowhere, uncommitted, passed = ledger.insert_rows(3)
    partition, offset = ledger.publish(passed)
    topics.commit(ledger.settings, partition, offset + 1)
    expected["committed-unfinished"] = [f"partition {partition}, offset {offset}"]
    expected["lost"] = [
        f"{nowhere.file_id} (neither in the outbox nor published)",
        f"{passed.file_id} (partition {partition}, offset {offset}: committed without a result)",
    ]
    with ledger.engine.begin() as connection:  # of the next half minute too, so that they are fresh when it is checked
        insert_samples(connection, {2: 993}, since=100, upto=-30, owner="kafkajs", group=ledger.settings.group_id)
    standing = "partition 2: the committed offset 993 has not advanced for 130 s, with a lag of 7"
    expected["partition-stalled"] = [f"{standing}: its owner kafkajs sends no heartbeats"]
    owner = patient_engine(ledger.settings.as_owner())
    with owner.begin() as connection:
        record(connection, TEST, "quiet", {"worker": "a"})
        connection.exec_driver_sql("ALTER TABLE operations DISABLE TRIGGER USER; UPDATE operations SET actor = 'eve'")
    owner.dispose()
    expected["audit-changed"] = ["audit-row-edited: 1"]
    (restored,) = ledger.insert_rows(1)
    ledger.note_published(restored, 0, 10**6)
    where = "partition 0, offset 1000000: the partition ends before it"
    expected["request-gone"] = [f"{restored.file_id} ({where})"]
    # In the backlog, or in the outbox, a file is not lost.
    ledger.publish(uncommitted)
    (waiting,) = ledger.insert_rows(1)
    with ledger.engine.begin() as connection:
        row = {"file_id": waiting.file_id, "run": 1, "traceparent": new_traceparent()}
        connection.execute(sa.insert(OutboxRow).values(**row))
    return expected


def test_a_clean_pipeline_has_no_findings(planted: Planted) -> None:
    report = planted.clean
    assert report.findings == {}
    assert (report.submitted, report.completed, report.in_flight, report.lost) == (9, 9, 0, 0)
    assert (report.objects, report.superseded, report.repeats, report.duplicate_results) == (10, 1, 1, 1)
    assert (report.leftovers, report.open_uploads) == (1, 0)
    sequences, leftover = sorted(report.notes)
    assert sequences.startswith("1 records of ")
    assert leftover.startswith("objects that nothing needs: 1 × superseded (file-")
    assert "`filemill objects clean` lists them all" in leftover


@pytest.mark.parametrize("check", VERIFY_CODES)
def test_a_planted_violation_is_found_with_its_ids(planted: Planted, check: str) -> None:
    assert check in planted.report.findings, f"nothing found; {sorted(planted.report.findings)} were"
    found = set(planted.report.findings[FindingCode(check)].examples)
    if check == "publish-out-of-turn":
        # A number on two partitions is out of turn on one of them.
        found -= set(planted.expected["publish-number-twice"])
    assert found == set(planted.expected[check])


def test_no_other_violations_are_found(planted: Planted) -> None:
    assert set(planted.report.findings) == set(planted.expected) == set(VERIFY_CODES)
    assert planted.report.in_flight == 6
    assert planted.report.lost == 3


def test_the_commit_audit_finds_a_commit_that_passed_an_unfinished_record(planted: Planted, ledger: Ledger) -> None:
    with pytest.raises(AssertionError, match="passed a record that was not finished"):
        audit_commits(ledger, [])
