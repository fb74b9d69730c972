"""Offset resets during a run, forwards and backwards: the audit recognises them."""

import time

import pytest

from filemill.lab import StackParameters, faults, measures
from filemill.lab.session import wait_until
from filemill.lab.stack import Lab
from filemill.services.offset_reset import ResetTarget
from filemill.verification.findings import Invariant

PARTITIONS = 3
IN_FLIGHT = 40
BACK = 5


@pytest.mark.timeout(240)
def test_recorded_resets_violate_no_invariant_and_are_counted() -> None:
    parameters = StackParameters(workers=2, partitions=PARTITIONS, processing_seconds=1.0)
    with Lab(parameters) as lab:
        lab.load.start(lambda load: load.closed_loop(IN_FLIGHT, 120))
        wait_until(lambda: lab.load.unfinished() >= IN_FLIGHT * 0.8, 30, "the pipeline is at work")
        time.sleep(3)  # something has been committed by then
        forward = lab.inject(faults.reset_offsets(lab, ResetTarget("latest")))
        lab.wait_for_group()
        time.sleep(3)
        back = lab.inject(faults.reset_offsets(lab, ResetTarget("shift", by=-BACK)))
        lab.wait_for_group()
        lab.load.stop()
        lab.drain()
        history = lab.history()
        report = lab.check_invariants(history)
    assert forward.detail["cancelled"] > 0, "it passed over nothing"
    assert back.detail["repeated"] == PARTITIONS * BACK
    assert report.ok, str(report)
    assert [check.ok for check in report.checks] == [True] * len(Invariant)
    assert report.audit is not None
    assert PARTITIONS < report.audit.resets <= 2 * PARTITIONS
    assert measures.repetitions(history)["executed_again"] >= PARTITIONS * BACK
