"""The problems of a soak test besides violated invariants: it proved too little."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from filemill.lab.chaos import ScheduledFault
from filemill.lab.invariants import InvariantReport
from filemill.lab.load import JobMix
from filemill.lab.soak import SoakParameters, SoakResult, _problems, job_options
from filemill.verification.report import VerificationReport

PLANNED = [ScheduledFault(1.0, "kafka killed", 0), ScheduledFault(2.0, "s3 hanging", 1)]


def result(**given: object) -> SoakResult:
    values = {
        "invariants": InvariantReport([], VerificationReport(), None, datetime.now(UTC)),
        "lost": 0,
        "doubled": 0,
        "jobs": {},
        "accepted": 40_000,
        "accepted_per_second": 310.0,
        "drain_seconds": 5.0,
        "in_flight": {"kafka killed": [120], "s3 hanging": [90, 200]},
        "in_flight_median": 120,
        "recovery_median": 7.0,
        "recovery_alone_median": 7.0,
        "recovery_max": 9.0,
        "detection_median": 6.0,
        "executed_again": 3,
        "rework_seconds": 2.0,
        "problems": [],
        "folder": "results/one",
    }
    return SoakResult(**{**values, **given})  # type: ignore[arg-type]


def test_a_soak_test_that_proved_enough_has_no_problems() -> None:
    assert list(_problems(result(), PLANNED, drained=5.0)) == []


@pytest.mark.parametrize(
    ("given", "drained", "problem"),
    [
        ({"in_flight": {"kafka killed": [120]}}, 5.0, "s3 hanging was scheduled but not injected"),
        ({"in_flight": {"kafka killed": [120], "s3 hanging": [90, 0]}}, 5.0, "s3 hanging hit an idle pipeline"),
        ({"in_flight_median": 49}, 5.0, "the median of records in flight at a fault was 49"),
        ({"accepted_per_second": 299.9}, 5.0, "299.9 requests per second were accepted"),
        ({}, None, "the backlog did not drain within 300 s"),
    ],
)
def test_proving_too_little_is_a_problem(given: dict[str, object], drained: float | None, problem: str) -> None:
    one = result(**given)
    assert list(_problems(one, PLANNED, drained)) == [problem]
    one.problems = [problem]
    assert not one.ok


def test_jobs_are_spread_over_the_load() -> None:
    assert SoakParameters().mix is None
    mix = SoakParameters(minutes=2, rate=100, jobs=200, parameters='{"markdown": "text"}').mix
    assert mix == JobMix("pdf", count=200, every=48, parameters='{"markdown": "text"}')
    assert SoakParameters(minutes=0.5, rate=1, jobs=200).mix == JobMix("pdf", 200, 1)


def test_the_options_of_jobs_name_the_module_and_the_parameters(tmp_path: Path) -> None:
    given = tmp_path / "given.json"
    given.write_text('{"text": "hello"}')
    assert job_options(3, "echo", given, "tests.handlers.misbehaving") == {
        "jobs": 3,
        "handler": "echo",
        "parameters": '{"text":"hello"}',
        "handlers": "tests.handlers.misbehaving",
    }


@pytest.mark.parametrize(
    ("handler", "text", "reason"),
    [
        ("missing", "{}", "there is no handler 'missing' here; there are: allocate"),
        ("echo", '{"text": 7}', r"\$.parameters.text: 7 is not of type"),
        ("echo", "[]", "must be a JSON object"),
        ("echo", "", "must be a JSON object"),
    ],
)
def test_jobs_that_no_worker_could_do_are_refused(tmp_path: Path, handler: str, text: str, reason: str) -> None:
    given = tmp_path / "given.json"
    given.write_text(text)
    with pytest.raises(ValueError, match=reason):
        job_options(3, handler, given, "tests.handlers.misbehaving")
