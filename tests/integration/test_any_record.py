"""Random bytes in every field of a record, on every topic: the pipeline goes on, and every reader reads to the end."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from filemill.adapters.kafka.commits import read_commits
from filemill.adapters.kafka.topic_browser import BrowseQuery, browse
from filemill.config.settings import Settings
from filemill.entrypoints import bootstrap
from filemill.lab.raw_records import RawRecord, publish_raw
from filemill.queries.dead_letters import read_dead_letters
from filemill.queries.history import ownership
from filemill.queries.performance import performance
from filemill.queries.workers import list_workers
from filemill.verification.topic_history import read_history
from tests.integration import topics
from tests.integration.harness import PipelineHarness, open_harness
from tests.servers import RunningServers

BATCHES = 12
PARTITIONS = 3
UNKNOWN_ID = 2**61
NOW = "2026-01-04T12:00:00.000Z"
TOPICS = ("create", "created", "progress", "dead_letters", "worker_events", "worker_commands")
# A good record of each kind; no command that a worker would follow.
GOOD: dict[str, dict[str, Any]] = {
    "create": {"fileId": UNKNOWN_ID, "title": "t", "description": "", "timestamp": NOW},
    "created": {
        "fileId": UNKNOWN_ID,
        "s3Location": "k",
        "status": "completed",
        "timestamp": NOW,
        "run": 1,
        "size": 1,
        "startedAt": NOW,
        "attempt": 1,
        "partition": 0,
        "offset": 0,
        "workerId": "w",
        "uploadMs": 1.0,
        "stageMs": {"read": 1.0},
        "error": None,
        "sha256": "x",
    },
    "progress": {
        "fileId": UNKNOWN_ID,
        "workerId": "w",
        "partition": 0,
        "offset": 0,
        "attempt": 1,
        "step": 1,
        "steps": 6,
        "timestamp": NOW,
        "run": 1,
    },
    "dead_letters": {"fileId": UNKNOWN_ID, "title": "t", "description": "", "timestamp": NOW},
    "worker_events": {
        "kind": "heartbeat",
        "workerId": "w",
        "timestamp": NOW,
        "epoch": 1,
        "owned": [0],
        "partitions": [1],
        "vitals": {"inFlight": 1, "busySeconds": 1.0, "headroomSeconds": 1.0},
        "processingSeconds": 1.0,
        "pid": 1,
        "delaySeconds": 1.0,
        "stageMs": {"read": 1.0},
        "cause": "c",
        "stage": "s",
        "host": "h",
        "version": "v",
    },
    "worker_commands": {"order": "cancel", "timestamp": NOW, "files": [[UNKNOWN_ID, 1]]},
}
ODD: list[Any] = [
    *(None, True, 0, -1, 2**15, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64, 1.5, 1e308, -1e308, "", " ", "\0", "\ud800"),
    *("x" * 300, "=1+1", "<a href=//x>", [], [[]], {}, {"a": 1e308}, [2**31 - 1], "assigned", "stopped", "failed"),
    *("9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z", "2026-01-04T12:00:00"),
]
NAMES = ["filemill-run", "filemill-publish-number", "traceparent", "filemill-partition", "filemill-offset"]


def values(kind: str) -> st.SearchStrategy[bytes | None]:
    """Any bytes, or a good record in which some fields are odd."""
    good = GOOD[kind]
    changed = st.dictionaries(st.sampled_from(sorted(good)), st.sampled_from(ODD), max_size=3)
    documents = changed.map(lambda odd: json.dumps({**good, **odd}).encode())
    return st.one_of(st.none(), st.binary(max_size=60), documents, documents)


def records(kind: str) -> st.SearchStrategy[list[RawRecord]]:
    """Of one topic. Most timestamps that are tried are no moment."""
    names = st.one_of(st.binary(max_size=12), st.sampled_from(NAMES).map(str.encode))
    numbers = st.one_of(st.none(), st.binary(max_size=12), st.integers(-1, 2**70).map(lambda number: b"%d" % number))
    stamps = st.one_of(st.just(0), st.integers(-(2**40), 2**40), st.integers(-(2**62), 2**62))
    record = st.builds(
        RawRecord,
        value=values(kind),
        key=st.none() | st.binary(max_size=12),
        headers=st.lists(st.tuples(names, numbers), max_size=4),
        timestamp_ms=stamps,
        partition=st.integers(0, PARTITIONS - 1),
    )
    return st.lists(record, min_size=1, max_size=8)


def topic(settings: Settings, kind: str) -> str:
    return str(getattr(settings, f"topic_{kind}"))


@pytest.fixture(scope="module")
def running(servers: RunningServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PipelineHarness]:
    with open_harness(servers, tmp_path_factory.mktemp("logs")) as harness:
        topics.keep_producers_timestamps(harness.settings)
        harness.start("sync", "processor")
        yield harness


@given(batch=st.fixed_dictionaries({kind: records(kind) for kind in TOPICS}))
@examples(max_examples=BATCHES, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_record_ends_a_process_or_holds_up_a_good_one(
    running: PipelineHarness, batch: dict[str, list[RawRecord]]
) -> None:
    for kind, some in batch.items():
        for stamps in (False, True):  # what a broker refuses, it refuses with its whole batch
            publish_raw(
                running.settings,
                topic(running.settings, kind),
                [one if stamps else one._replace(timestamp_ms=0) for one in some],
            )
    for partition in range(PARTITIONS):
        running.wait_for(running.publish_requests(partition, 1))
    assert [member.name for member in running.processes.processes if not member.alive] == []


def test_every_reader_reads_what_is_there_by_then(running: PipelineHarness) -> None:
    settings, admin = running.settings, bootstrap.kafka_admin(running.settings)
    report = running.verify()
    assert report.completed >= PARTITIONS
    assert {check for check in report.findings if "orphan" not in check} == set()
    assert read_history(settings, admin).requests
    read_commits(settings)
    assert read_dead_letters(settings, admin, running.engine)
    hour = timedelta(hours=1)
    with running.engine.connect() as connection:
        list_workers(connection)
        performance(connection, hour)
        ownership(connection, settings.group_id, hour)
    for kind in TOPICS:
        name = topic(settings, kind)
        spans = admin.offsets(None, name)
        for start in (0, None):
            assert browse(settings, spans, BrowseQuery(name, None, start, "", 1000)).records
