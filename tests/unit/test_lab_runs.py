"""Folders of runs, read again: whole, half-written, damaged, hostile."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from filemill.lab.results import RUN, VERDICT
from filemill.lab.runs import list_runs, read_journal, read_series
from filemill.runtime.journal import Journal, read_entries
from tests.runs import BEGAN, planted


def test_a_complete_run_has_facts_invariants_and_series(tmp_path: Path) -> None:
    results = planted(tmp_path, "rates", files_per_second=120.0)
    (run,) = list_runs(tmp_path)
    assert (run.title, run.problems, run.measures["files_per_second"]) == ("rates", [], 120.0)
    assert run.parameters == {"workers": 3}
    assert run.invariants is not None
    assert (run.invariants.ok, [check.number for check in run.invariants.checks]) == (True, ["1"])
    course = read_series(results.folder)
    # Ten files a second for three seconds, each done a second after it was asked for.
    assert course.lines["Results per second"].seconds == pytest.approx([1, 2, 3])
    assert course.lines["Results per second"].values == [10, 10, 10]
    assert max(course.lines["Unfinished requests"].values) == 10
    assert [(one.began, one.ended, one.text) for one in course.faults] == [(1.0, 2.5, "kafka killed · kafka")]
    assert [entry.name for entry in read_journal(results.folder)] == ["kafka killed"]


def test_runs_are_listed_newest_first_without_other_folders(tmp_path: Path) -> None:
    planted(tmp_path, "older", began=datetime(2026, 1, 1, tzinfo=UTC))
    planted(tmp_path, "newer", began=datetime(2026, 2, 1, tzinfo=UTC))
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notes.txt").write_text("not a run")
    assert [run.title for run in list_runs(tmp_path)] == ["newer", "older"]
    assert list_runs(tmp_path / "nowhere") == []


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b'["checks"]', b"\xff\xfe", b"null"])
def test_a_damaged_run_is_listed_with_its_problems(body: bytes, tmp_path: Path) -> None:
    folder = planted(tmp_path, "hurt").folder
    for part in (RUN, VERDICT, "summary.parquet", "executions.parquet"):
        (folder / part).write_bytes(body)
    (run,) = list_runs(tmp_path)
    assert run.problems == ["run.json cannot be read", "verdict.json cannot be read", "the summary cannot be read"]
    assert (run.invariants, run.measures, run.parameters) == (None, {}, {})
    assert set(read_series(folder).lines) == {"Unfinished requests"}


def test_a_run_in_progress_is_listed(tmp_path: Path) -> None:
    (tmp_path / "soak-consumer-7-20261122-120000-42").mkdir()
    (run,) = list_runs(tmp_path)
    assert run.problems == ["run.json is missing", "verdict.json is missing", "the summary is missing"]
    assert read_series(tmp_path / run.name).lines == {}
    assert read_journal(tmp_path / run.name) == []


def test_invalid_frames_have_no_series(tmp_path: Path) -> None:
    folder = planted(tmp_path, "odd").folder
    pd.DataFrame({"at": ["yesterday"], "again": [False], "worker": ["w"]}).to_parquet(folder / "executions.parquet")
    pd.DataFrame({"began": pd.to_datetime([], utc=True)}).to_parquet(folder / "faults.parquet")
    course = read_series(folder)
    assert (set(course.lines), course.faults) == ({"Unfinished requests"}, [])


def test_a_changed_run_is_read_again(tmp_path: Path) -> None:
    folder = planted(tmp_path, "goes on").folder
    (folder / VERDICT).unlink()
    assert list_runs(tmp_path)[0].problems == ["verdict.json is missing"]
    planted(tmp_path, "goes on", folder=folder)
    assert list_runs(tmp_path)[0].problems == []


def test_a_truncated_journal_is_read_up_to_its_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    with journal.record_interval("fault", "kafka killed", "kafka", key="k1") as entry:
        entry.detail = {**entry.detail, "learned": 7}
        lasting = read_entries(tmp_path / "journal.jsonl")
    journal.record_event("note", "something", by="somebody")
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"moment": "begin", "kind": "fau')
    first, second = read_entries(tmp_path / "journal.jsonl")
    assert (lasting[0].ended, first.ended is not None) == (None, True)
    assert (first.name, first.detail) == ("kafka killed", {"key": "k1", "learned": 7})
    assert second.detail == {"by": "somebody"}
    assert read_entries(tmp_path / "missing.jsonl") == []


def test_the_times_of_a_run_come_from_its_files(tmp_path: Path) -> None:
    planted(tmp_path, "dated")
    assert list_runs(tmp_path)[0].began == BEGAN
