"""Each fault of the chaos schedule alone, under load: afterwards all requests end and all invariants were kept."""

import time
from collections.abc import Iterator

import pytest

from filemill.lab import StackParameters
from filemill.lab.chaos import FAULTS, ONCE_PER_RUN, ChaosDurations, unavailable_faults
from filemill.lab.stack import Lab

# About fifty files a second, all the time.
IN_FLIGHT = 80
PROCESSING_SECONDS = 1.5
# Outages of two seconds: the soak test has longer ones.
PACE = ChaosDurations(minutes=1)
AT_WORK_SECONDS = 30.0
AFTER_SECONDS = 1.0
DRAIN_SECONDS = 90.0

# Other tests or the soak test cover these, so they run only with the slow tests.
ELSEWHERE = {
    "processor killed between event and commit",
    "processors killed in a row",
    "processor stopped for longer than its session",
    "kafka killed",
    "kafka stopped for long",
    "postgres killed",
    "s3 killed",
    "relay killed",
    "relay stopped",
    "sync killed",
    "sync stopped",
    "poisonous message",
    "records deleted",
    "topic recreated",
    "clock skewed",
}
SLOW = pytest.mark.slow(reason="other tests and the soak test inject this fault as well")
# Those that take away what only a person can ask for again.
PLANTS = {"records deleted", "topic recreated"}
# What stays as it was made comes last.
ORDER = [name for name in FAULTS if name not in ONCE_PER_RUN] + [name for name in FAULTS if name in ONCE_PER_RUN]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three processors, two relays, two syncs on servers of their own."""
    parameters = StackParameters(workers=3, relays=2, syncs=2, processing_seconds=PROCESSING_SECONDS)
    with Lab(parameters) as lab:
        yield lab


def at_work(lab: Lab) -> bool:
    return lab.load.unfinished() >= IN_FLIGHT * 0.8


def test_all_faults_are_available_and_known() -> None:
    assert set(FAULTS) >= ELSEWHERE
    assert not unavailable_faults(), "the clock's fault needs libfaketime"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW if name in ELSEWHERE else ()) for name in ORDER])
def test_nothing_is_lost_by(name: str, lab: Lab) -> None:
    lab.wait_for_group()
    lab.load.start(lambda load: load.closed_loop(IN_FLIGHT, 120))
    deadline = time.monotonic() + AT_WORK_SECONDS
    while not at_work(lab):
        assert time.monotonic() < deadline, "the pipeline is not at work"
        time.sleep(0.1)
    named = lab.losses.reported
    entry = lab.inject(FAULTS[name](lab, 1, PACE))
    time.sleep(AFTER_SECONDS)
    lab.load.stop()
    lab.drain_planted_losses(DRAIN_SECONDS)
    assert entry.ended is not None
    assert (lab.losses.reported > named) == (name in PLANTS), entry.detail
    report = lab.check_invariants()
    assert report.ok, str(report)
    # A check that could not be made proves nothing.
    assert [check.number for check in report.checks if check.ok is None] == []
