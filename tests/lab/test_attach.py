"""The lab on a pipeline that runs already, and the consumer that it is compared with."""

import itertools
import threading

from filemill.lab import LoadStep, attach
from filemill.lab.blocking_consumer import run_blocking_consumer
from tests.integration.harness import PipelineHarness


def test_a_running_pipeline_can_be_loaded_and_checked(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    harness.start("processor")
    given = {name: getattr(harness.settings, name) for name in harness.settings.model_fields_set}
    with attach(**given) as session:
        session.load.closed_loop(in_flight=5, seconds=1)
        session.load.open_loop([LoadStep(0.5, 20), LoadStep(0.5, 40)])
        session.drain(20)
        assert session.load.unfinished() == 0
        report = session.check_invariants()
    assert report.ok, str(report)
    assert report.report.completed == len(session.load.submitted) >= 30 + 5
    intended = [sent.intended for sent in session.load.submitted[-30:]]
    gaps = [later - earlier for earlier, later in itertools.pairwise(intended)]
    assert [round(gap, 3) for gap in gaps] == [0.05] * 10 + [0.025] * 19
    assert all(sent.accepted >= sent.intended for sent in session.load.submitted)


def test_the_blocking_consumer_is_evicted_during_a_long_job(
    harness: PipelineHarness,
) -> None:
    harness.publish_requests(0, 2)
    report = run_blocking_consumer(
        harness.settings, job_seconds=8, max_poll_seconds=6, seconds=12, stop=threading.Event()
    )
    assert report.evictions >= 1
    assert report.commit_errors >= 1
    assert report.committed == 0
