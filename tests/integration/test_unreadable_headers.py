"""Records whose header names are not UTF-8: the Kafka client cannot read them, and no process may crash."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from filemill.adapters.kafka.commits import read_commits
from filemill.adapters.kafka.topic_browser import BrowseQuery, browse
from filemill.config.settings import Settings, as_environment
from filemill.domain.messages import encode
from filemill.entrypoints import bootstrap
from filemill.lab.raw_records import RawRecord, publish_raw
from filemill.queries.dead_letters import read_dead_letters
from filemill.verification.topic_history import read_history
from tests.integration import topics
from tests.integration.harness import PipelineHarness, open_harness
from tests.integration.processes import Process, wait_until
from tests.servers import RunningServers

BAD_NAME = b"caf\xe9"
BAD_HEADERS = [(b"fine", b"1"), (BAD_NAME, b"1")]
REASON = "headers unreadable: a name is not UTF-8: b'caf\\xe9'"
NOW = "2026-01-04T12:00:00.000Z"
REPEATED = 3000
READ_ALL = """
import gc, sys
from confluent_kafka import Consumer, TopicPartition
from filemill.adapters.kafka.client import UnreadableHeaders, headers_of
from filemill.adapters.kafka.reader import to_record

broker, topic, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
consumer = Consumer({"bootstrap.servers": broker, "group.id": "a-child", "auto.offset.reset": "earliest"})
consumer.assign([TopicPartition(topic, 0, 0)])
messages = []
while len(messages) < count:
    messages += [message for message in consumer.consume(500, timeout=1) if message.error() is None]
records = [to_record(message) for message in messages]
gc.collect()
assert all(message.headers() == [] for message in messages), "the message keeps no incomplete list"
print(sum(record.headers_error is not None for record in records), records[0].headers_error)
del messages, records
gc.collect()
consumer.close()
"""


def test_reading_thousands_of_unreadable_headers_does_not_crash(settings: Settings) -> None:
    publish_raw(settings, settings.topic_created, [RawRecord(b"{}", None, BAD_HEADERS)] * REPEATED)
    argv = [sys.executable, "-c", READ_ALL, settings.kafka_broker, settings.topic_created, str(REPEATED)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, f"{REPEATED} {REASON}"), done.stderr


def join(harness: PipelineHarness) -> Process:
    """One processor that has joined its group."""
    if harness.settings.group_protocol != "share":
        return harness.start("processor")[0]
    member = harness.processes.start("processor", None)
    wait_until(lambda: member.has_logged("Joined"), 40, f"{member.name} has joined")
    return member


@pytest.mark.parametrize("protocol", ["classic-eager", "classic-cooperative", "consumer", "share"])
def test_a_request_with_unreadable_headers_is_dead_lettered(
    protocol: str, servers: RunningServers, tmp_path: Path
) -> None:
    with open_harness(servers, tmp_path, group_protocol=protocol) as harness:
        settings = harness.settings
        harness.run_in_threads("sync")
        processor = join(harness)
        (request,) = harness.insert_rows(1)
        values = [encode(request), b'{"a": 1}', None]
        offsets = publish_raw(
            settings, settings.topic_create, [RawRecord(value, b"\xff", BAD_HEADERS) for value in values]
        )
        harness.wait_for(harness.publish_requests(0, 2))
        harness.wait_for([request.file_id], "failed")
        assert harness.file(request.file_id).error == REASON
        letters = topics.read(settings, settings.topic_dead_letters)
        found = {int(letter.headers["filemill-offset"]): letter for letter in letters}
        assert [found[offset or 0].value for offset in offsets] == values
        for letter in letters:
            assert letter.headers["filemill-code"] == b"headers_unreadable"
            assert letter.headers["filemill-reason"].decode() == REASON
            assert letter.headers["filemill-partition"] == b"0"
        assert processor.alive
        report = harness.assert_clean()
        assert report.notes == [f"{settings.topic_create} has 3 records with unreadable headers"]


@pytest.fixture(scope="module")
def running(servers: RunningServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PipelineHarness]:
    """A pipeline with such a record on each topic."""
    with open_harness(servers, tmp_path_factory.mktemp("logs")) as harness:
        harness.start("sync", "processor")
        settings = harness.settings
        for topic in (settings.topic_created, settings.topic_progress, settings.topic_worker_events):
            publish_raw(settings, topic, [RawRecord(b"{}", None, BAD_HEADERS, partition=2)])
        for topic in (settings.topic_create, settings.topic_dead_letters, settings.topic_worker_commands):
            publish_raw(settings, topic, [RawRecord(b"{}", None, BAD_HEADERS)])
        harness.wait_for(harness.publish_requests(0, 1))
        yield harness
        assert [member.name for member in harness.processes.processes if not member.alive] == []


def test_other_records_with_unreadable_headers_are_skipped_and_counted(running: PipelineHarness) -> None:
    settings = running.settings
    names = {settings.topic_created, settings.topic_progress, settings.topic_worker_events}
    wait_until(
        lambda: {row["topic"] for row in running.rejected() if row["reason"] == REASON} == names, 10, "each is counted"
    )


def test_a_command_with_unreadable_headers_is_skipped(running: PipelineHarness) -> None:
    settings = running.settings
    processor = next(member for member in running.processes.processes if member.name.startswith("processor"))
    wait_until(lambda: processor.has_logged("Skipped a command", reason=REASON), 10, "the command is skipped")
    (request,) = running.insert_rows(1)
    cancel = json.dumps({"order": "cancel", "timestamp": NOW, "files": [[request.file_id, 1]]}).encode()
    topics.publish(settings, settings.topic_worker_commands, [cancel], partition=0)
    topics.publish(settings, settings.topic_create, [encode(request)], partition=0)
    wait_until(lambda: processor.has_logged("Cancelled", file=request.file_id), 10, "the file is cancelled")


def test_every_reader_handles_unreadable_headers(running: PipelineHarness) -> None:
    settings, admin = running.settings, bootstrap.kafka_admin(running.settings)
    report = running.verify()
    assert f"{settings.topic_created} has 1 records with unreadable headers" in report.notes
    assert len(report.notes) == 4, "all topics except progress and commands"
    assert read_history(settings, admin).requests
    assert read_commits(settings)

    def codes() -> set[str | None]:
        return {letter.code for letter in read_dead_letters(settings, admin, running.engine)}

    wait_until(
        lambda: codes() == {None, "headers_unreadable"}, 10, "the dead letter of the worker and the unreadable one"
    )


def test_the_cli_handles_unreadable_headers(harness: PipelineHarness) -> None:
    settings = harness.settings
    for topic in (settings.topic_create, settings.topic_dead_letters):
        publish_raw(settings, topic, [RawRecord(b"{}", None, BAD_HEADERS)])
    environment = as_environment(settings)
    for arguments in (["verify"], ["dlq", "list"], ["offsets", "preview", "--to", "latest"]):
        process = harness.processes.run(arguments[0], [sys.executable, "-m", "filemill", *arguments], environment)
        assert process.wait_for_exit(60) == 0, process.tail(50)


def test_the_topic_browser_reports_unreadable_headers(running: PipelineHarness) -> None:
    settings = running.settings
    partitions = bootstrap.kafka_admin(settings).offsets(None, settings.topic_created)
    result = browse(settings, partitions, BrowseQuery(settings.topic_created, 2, None, "unreadable", 10))
    (record,) = result.records
    assert (record.headers, record.headers_error, record.value) == ([], REASON, b"{}")
