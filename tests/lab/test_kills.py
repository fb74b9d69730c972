"""Repeated kills of processors under load."""

import time

import pytest

from filemill.lab import Lab, LoadStep, StackParameters, faults, measures

KILLS = 50
RATE = 60.0
OWNED_SECONDS = 30.0


@pytest.mark.slow(reason="takes up to twenty minutes")
@pytest.mark.timeout(1200)
def test_fifty_processors_killed_in_a_row_lose_nothing() -> None:
    with Lab(StackParameters(workers=3, processing_seconds=0.5)) as lab:
        lab.load.start(lambda load: load.open_loop([LoadStep(3600, RATE)]))
        for number in range(KILLS):
            lab.inject(faults.kill_worker(lab, pick_owner(lab, number)))
        lab.load.stop()
        lab.drain(120)
        history = lab.history()
        report = lab.check_invariants(history)
    assert report.ok, str(report)
    assert len(measures.kills(lab.journal.faults())) == KILLS
    assert report.report.completed == len(lab.load.submitted) > 0
    assert measures.repetitions(history)["executed_again"] > 0, "no kill hit work in progress"


def pick_owner(lab: Lab, number: int) -> int:
    """The number of a processor that owns partitions: who has just started is not worth a kill."""
    deadline = time.monotonic() + OWNED_SECONDS
    while time.monotonic() < deadline:
        group = lab.admin().describe_group(lab.settings.kafka_group, lab.settings.topic_create)
        living = lab.workers()
        owners = sorted({member.client_id for member in group.members if member.partitions} & set(living))
        if owners:
            return living.index(owners[number % len(owners)])
        time.sleep(0.2)
    raise AssertionError("nobody owned anything")
