"""Servers that die and come back, under a pipeline that works: nothing is lost, and people can go on asking.

One stack and one set of processes for all of it; each test leaves the servers up and the pipeline at rest.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable
from filemill.queries.files import outbox_state
from tests.integration.audit import audit_commits
from tests.integration.harness import PipelineHarness, open_harness
from tests.integration.processes import Process, wait_until
from tests.principals import TEST
from tests.servers import RunningServers

PROCESSING_SECONDS = 1.5
# From a server's return to the last completion: reconnections, backoffs, a rebalance where the session ran out.
RECOVERY_SECONDS = 45.0


@pytest.fixture(scope="module")
def stack(
    start_servers: Callable[[Path], AbstractContextManager[RunningServers]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServers]:
    """Servers of this module's own, to kill."""
    with start_servers(tmp_path_factory.mktemp("outages") / "home") as servers:
        yield servers


@pytest.fixture(scope="module")
def running(stack: RunningServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PipelineHarness]:
    """A pipeline on them, each role a process of its own."""
    folder = tmp_path_factory.mktemp("logs")
    with open_harness(stack, folder, processing_seconds=PROCESSING_SECONDS) as harness:
        harness.start("relay", "sync", "monitor", "processor", "processor")
        harness.wait_for_assignment(2, 1)
        yield harness


@pytest.fixture
def at_rest(running: PipelineHarness) -> Iterator[PipelineHarness]:
    """The pipeline, seen to work before the test, and to have kept every promise after it."""
    running.wait_for(running.submit(3))
    yield running
    assert [member.name for member in running.processes.processes if not member.alive] == []
    running.assert_clean()
    audit_commits(running, processors(running))


def processors(harness: PipelineHarness) -> list[Process]:
    return [member for member in harness.processes.processes if member.name.startswith("processor")]


def open_breakers(harness: PipelineHarness) -> list[str]:
    """The processors whose breaker is open, by what they said last."""
    said = {processor.name: processor.lines("Breaker") for processor in processors(harness)}
    return [name for name, lines in said.items() if lines and lines[-1]["state"] == "breaker-opened"]


def kafka_is_away(stack: RunningServers, harness: PipelineHarness, seconds: float) -> None:
    """Requests before, during, and after; the outbox grows old meanwhile; all complete in the end."""
    ids = harness.submit(30)
    in_progress = wait_until(
        lambda: [file_id for file_id, status in harness.statuses(ids).items() if status == "processing"],
        20,
        "files are in progress",
    )
    assert in_progress
    stack.server("kafka").kill()
    try:
        ids += harness.submit(30)
        wait_until(lambda: outbox_age(harness) > seconds, seconds + 10, "the outbox has grown old")
        ids += harness.submit(30)
        with harness.engine.connect() as connection:
            assert outbox_state(connection).depth >= 60
    finally:
        stack.server("kafka").start()
    ids += harness.submit(30)
    harness.wait_for(ids, seconds=RECOVERY_SECONDS)
    wait_until(lambda: outbox_age(harness) == 0, 10, "the outbox is empty")


def outbox_age(harness: PipelineHarness) -> float:
    with harness.engine.connect() as connection:
        return outbox_state(connection).oldest_age_seconds or 0.0


def test_requests_are_accepted_while_kafka_is_away_and_complete_when_it_is_back(
    stack: RunningServers, at_rest: PipelineHarness
) -> None:
    kafka_is_away(stack, at_rest, 8)


@pytest.mark.slow(reason="takes a minute; a shorter outage of Kafka is tested as well")
def test_kafka_may_be_away_for_half_a_minute(stack: RunningServers, at_rest: PipelineHarness) -> None:
    kafka_is_away(stack, at_rest, 31)


def test_a_killed_postgres_costs_nothing_that_was_accepted(stack: RunningServers, at_rest: PipelineHarness) -> None:
    ids = at_rest.submit(30)
    wait_until(lambda: "processing" in at_rest.statuses(ids).values(), 20, "files are in progress")
    stack.server("postgres").kill()
    try:
        with pytest.raises(Unavailable, match="PostgreSQL at"):
            at_rest.submit(1)
    finally:
        stack.server("postgres").start()
    ids += wait_until(lambda: submit_unless_away(at_rest), 20, "requests are accepted again")
    at_rest.wait_for(ids, seconds=RECOVERY_SECONDS)


def submit_unless_away(harness: PipelineHarness) -> list[int]:
    try:
        return harness.submit(30)
    except Unavailable:
        return []


def test_work_waits_for_a_killed_s3_and_goes_on_when_it_is_back(
    stack: RunningServers, at_rest: PipelineHarness
) -> None:
    stack.server("s3").kill()
    try:
        ids = at_rest.submit(30)
        wait_until(lambda: len(open_breakers(at_rest)) == 2, 20, "both breakers are open")
        assert set(at_rest.statuses(ids).values()) <= {"pending", "processing"}
    finally:
        stack.server("s3").start()
    at_rest.wait_for(ids, seconds=RECOVERY_SECONDS)


def test_a_breaker_closes_although_all_that_waited_for_it_was_cancelled(
    stack: RunningServers, at_rest: PipelineHarness
) -> None:
    stack.server("s3").kill()
    try:
        ids = at_rest.submit(12)
        wait_until(lambda: len(open_breakers(at_rest)) == 2, 20, "both breakers are open")
        operations = bootstrap.operations(at_rest.settings, at_rest.engine)
        assert operations.cancel(ids, TEST).done == ids
        wait_until(lambda: sum(len(one.lines("Cancelled")) for one in processors(at_rest)) == 12, 20, "all are let go")
    finally:
        stack.server("s3").start()
    at_rest.wait_for(at_rest.submit(12), seconds=RECOVERY_SECONDS)
    assert open_breakers(at_rest) == []
