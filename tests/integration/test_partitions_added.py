"""Partitions are added to the topic during work."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from filemill.config.settings import as_environment
from tests.integration import topics
from tests.integration.harness import PipelineHarness
from tests.integration.processes import wait_until

INTERVAL_SECONDS = 0.1


@contextmanager
def steady_requests(harness: PipelineHarness, ids: list[int]) -> Iterator[None]:
    """Submit a few requests at a time until the context ends, and add their ids to `ids`."""
    enough = threading.Event()

    def feed() -> None:
        while not enough.wait(INTERVAL_SECONDS):
            ids.extend(harness.submit(4))

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        yield
    finally:
        enough.set()
        feeder.join()


def test_added_partitions_are_used_and_consumed_during_work(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    harness.start("processor", "processor")
    harness.wait_for_assignment(2, 1)
    ids: list[int] = []

    def partitions_used() -> set[int | None]:
        return {event.partition for events in harness.results().values() for event in events} - {None}

    with steady_requests(harness, ids):
        wait_until(lambda: partitions_used() == {0, 1, 2}, 20, "the first three are in use")
        command = [sys.executable, "-m", "filemill", "topics", "add-partitions", "6"]
        subprocess.run(command, env=os.environ | as_environment(harness.settings), check=True, timeout=30)
        wait_until(lambda: partitions_used() == set(range(6)), 30, "all six are in use", every=0.5)
        # The invariants hold during work too.
        assert harness.verify().findings == {}
    harness.wait_for_assignment(3, 3)
    harness.wait_for(ids)
    numbers = {}
    for record in topics.read(harness.settings, harness.settings.topic_create):
        numbers[int(record.headers["filemill-publish-number"])] = record.partition
    # By three up to some number, by six from there on.
    grown_at = next(number for number in sorted(numbers) if numbers[number] != (number - 1) % 3)
    assert numbers == {number: (number - 1) % (3 if number < grown_at else 6) for number in numbers}
    report = harness.assert_clean()
    assert report.completed == len(ids)
