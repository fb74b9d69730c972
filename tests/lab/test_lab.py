"""The lab on a stack of its own: load, faults, measures that a plain Kafka client confirms, and saved results."""

import itertools
import json
import time
from pathlib import Path

import msgspec
import pytest

from filemill.config.settings import InvalidSettings
from filemill.lab import LoadStep, StackParameters, faults, measures
from filemill.lab.experiments import ExperimentResult, run_experiment
from filemill.lab.results import Results, compare
from filemill.lab.stack import Lab
from filemill.verification.findings import Invariant
from tests.integration import topics

RATE = 60.0
SECONDS = 16.0
HEARTBEAT_SECONDS = 1.5
# Of a session of six seconds, the part that is left where the last heartbeat was just before its time.
SESSION_LEAST_SECONDS = 4.0


class Run(msgspec.Struct):
    outcome: ExperimentResult
    results: Results
    # What a plain Kafka client saw, polling: moment, and the owner of each partition.
    seen: list[tuple[float, dict[int, str]]]
    # And what it read of `file.created` in the end: of each result, moment, partition and worker.
    results_seen: list[tuple[float, int, str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two workers under load; one is killed, S3 fails for a while."""
    seen: list[tuple[float, dict[int, str]]] = []
    results_seen: list[tuple[float, int, str]] = []
    results = Results.create("a-test", {"why": "a test"}, tmp_path_factory.mktemp("results"))

    def script(lab: Lab) -> None:
        lab.load.start(lambda load: load.open_loop([LoadStep(SECONDS, RATE)]))
        time.sleep(3)
        lab.inject(faults.kill_worker(lab, replace=False))
        deadline = time.monotonic() + 12
        while time.monotonic() < deadline:
            owners = topics.owners(lab.settings)
            seen.append((time.time(), {number: name for name, owned in owners.items() for number in owned}))
            if len(set(seen[-1][1].values())) == 1 and len(seen[-1][1]) == 3:
                break
            time.sleep(0.02)
        lab.inject(faults.s3_answers(lab, 503, seconds=1, share=0.5))
        lab.load.wait()
        lab.drain()
        for record in topics.read(lab.settings, lab.settings.topic_created):
            told = json.loads(record.value or b"")
            results_seen.append((record.at, told["partition"], told["workerId"]))

    outcome = run_experiment(StackParameters(workers=2, processing_seconds=0.3), script, results=results)
    return Run(outcome, results, seen, results_seen)


@pytest.mark.timeout(240)
def test_all_invariants_are_observed_and_kept(run: Run) -> None:
    report = run.outcome.invariants
    assert report.ok, str(report)
    assert [check.ok for check in report.checks] == [True] * len(Invariant)
    assert report.report.completed == RATE * SECONDS


def test_the_open_loop_keeps_its_rate_and_latency_counts_from_the_intended_moment(run: Run) -> None:
    files = run.outcome.files
    span = (files["intended_at"].max() - files["intended_at"].min()).total_seconds()
    assert span == pytest.approx(SECONDS, rel=0.02)
    (whole,) = run.outcome.latencies.query("stage == 'end to end'").to_dict("records")
    assert whole["files"] == RATE * SECONDS
    # Its partitions were nobody's for a session of six seconds: those who asked then waited, and it shows.
    assert whole["p50"] < 5 < whole["max"]


def test_recovery_includes_the_session_timeout_of_the_killed_worker(run: Run) -> None:
    found = measures.recovery(run.outcome.history, run.outcome.faults)
    assert len(found) in (1, 2)
    assert found["detection_seconds"].between(4, 12).all(), found
    assert (found["recovery_seconds"] >= found["detection_seconds"]).all()


def test_the_labs_assignment_equals_that_of_kafka(run: Run) -> None:
    for moment, owners in (run.seen[0], run.seen[-1]):
        assert owners
        # The broker tells what it has decided; the member hears of it with its next heartbeat, a second later at most.
        told = measures.owners_at(run.outcome.history, moment + HEARTBEAT_SECONDS)
        assert {number: told[number] for number in owners} == owners


def test_the_labs_partition_moves_equal_those_of_kafka(run: Run) -> None:
    (_, first), (last, then) = run.seen[0], run.seen[-1]
    elsewhere = {number for number in then if then[number] != first[number]}
    found = measures.moves(run.outcome.history, run.outcome.faults[0].began, last + HEARTBEAT_SECONDS)
    assert elsewhere
    assert found == {"moved": len(elsewhere), "least": len(elsewhere), "survivors_revoked": 0}


def test_the_labs_pauses_equal_those_of_the_brokers_timestamps(run: Run) -> None:
    found = measures.pauses(run.outcome.history)
    killed = found[found["from"] == run.outcome.faults[0].target]
    assert len(killed) in (1, 2)
    for row in killed.to_dict("records"):
        of_it = sorted((at, worker) for at, partition, worker in run.results_seen if partition == row["partition"])
        (pause,) = [
            then - before
            for (before, former), (then, later) in itertools.pairwise(of_it)
            if (former, later) == (row["from"], row["to"])
        ]
        assert pause > SESSION_LEAST_SECONDS
        assert row["pause_seconds"] == pytest.approx(pause, abs=0.1)


def test_a_results_folder_is_complete_and_comparable(run: Run) -> None:
    names = {path.name for path in run.results.folder.iterdir()}
    assert {"run.json", "journal.jsonl", "verdict.json", "files.parquet", "timeline.html", "summary.parquet"} <= names
    facts = run.results.facts
    assert facts["machine"]["cores"] > 0
    assert facts["versions"]["confluent-kafka"]
    lines = (run.results.folder / "journal.jsonl").read_text().splitlines()
    assert [f'"moment": "{moment}"' in line for moment, line in zip(["begin", "end"] * 2, lines, strict=True)]
    assert len(run.results.read("executions")) == len(run.outcome.executions)
    same = compare(run.results, run.results)
    assert same["change_percent"].dropna().abs().max() == 0


def test_invalid_parameters_are_rejected_before_the_start() -> None:
    with pytest.raises(InvalidSettings, match="group_protocol"):
        Lab(StackParameters(protocol="gossip"))


def test_an_unwritable_journal_is_an_error(tmp_path: Path) -> None:
    results = Results(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        results.journal().record_event("fault", "none")
