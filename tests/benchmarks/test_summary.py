"""Medians, spread, and what is promised of them."""

from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from benchmarks import growth
from benchmarks.arm import select_arms
from benchmarks.groups import is_balanced
from benchmarks.meter import Measured
from benchmarks.report import LATEST, save, show
from benchmarks.rounds import Sample
from benchmarks.summary import TARGETS, TargetResult, at_least, check_targets, summarize


def sample(arm: str, rate: float, number: int = 1, **figures: float) -> Sample:
    return Sample(number, arm, Measured(1000, 1000 / rate, 0.5, {"kafka": 0.1, "s3": 0.15}, 2**26, figures))


def test_a_line_is_the_median_of_its_rounds_with_their_spread() -> None:
    (line,) = summarize([sample("relay", rate, number) for number, rate in enumerate((100.0, 400.0, 200.0))])
    assert line.median == pytest.approx(200)
    assert line.least == pytest.approx(100)
    assert line.greatest == pytest.approx(400)
    assert line.spread == pytest.approx(1.5)
    assert line.worker_cpu_us == pytest.approx(500)
    assert line.server_cpu_us == pytest.approx(250)
    assert line.cpu_us_by_server == {"kafka": pytest.approx(100), "s3": pytest.approx(150)}


def test_a_promise_is_judged_only_where_all_of_its_arms_were_measured() -> None:
    alone = [sample("relay", 700.0), sample("raw claim", 1000.0)]
    assert check_targets(summarize(alone)) == []
    (found,) = check_targets(summarize([*alone, sample("raw produce", 5000.0)]))
    assert (found.measure, found.value, found.holds) == ("relay", 0.7, True)


def test_many_submissions_are_held_against_the_quicker_of_the_raw_inserts() -> None:
    measured = [
        sample("submit many", 650.0),
        sample("raw insert (unnest)", 800.0),
        sample("raw insert (copy)", 1000.0),
    ]
    (found,) = check_targets(summarize(measured))
    assert (found.value, found.holds) == (0.65, False)


def test_each_ratio_names_arms_that_exist() -> None:
    names = {arm.name for arm in select_arms()}
    for ratio in TARGETS:
        assert {ratio.arm, *ratio.of} <= names


def test_a_bench_of_one_name_takes_only_that() -> None:
    assert [arm.name for arm in select_arms("relay")] == ["relay"]
    assert {arm.kind for arm in select_arms("peer")} == {"peer"}
    with pytest.raises(ValueError, match="no arm has 'nothing'"):
        select_arms("nothing")


def test_every_arm_says_what_it_counts() -> None:
    for arm in [*select_arms(), *growth.points()]:
        assert arm.counts.startswith("Counts "), arm.name


def test_growth_is_judged_from_its_points() -> None:
    found = growth.check_targets(
        [
            sample("10,000 files", 1000.0, verify_seconds=6.0, verify_rss_mb=100.0),
            sample("100,000 files", 850.0, verify_seconds=61.0, verify_rss_mb=120.0),
            sample("API, busy", 200.0, p99_ms=12.5),
        ]
    )
    assert [(one.value, one.holds) for one in found] == [(0.85, False), (12.5, True), (61.0, False), (1.2, True)]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_table_says_its_figures_whole_however_narrow_the_terminal(width: int) -> None:
    found = summarize(
        [sample("10,000 files beside a million rows", 12_345.0, verify_seconds=92.4), sample("relay", 700.0)]
    )
    console = Console(width=width, record=True, file=StringIO())
    show(console, found, [])
    text = console.export_text()
    expected = ("10,000 files beside a million rows", "12,345", "verify_seconds", "92.40", "relay")
    assert all(words in text for words in expected)
    assert text.index("12,345") < text.index("700")
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert ("PostgreSQL" in text) == (width == 200)


def test_what_a_run_did_not_measure_stays_on_record(tmp_path: Path) -> None:
    save(
        tmp_path, "ratios", [sample("relay", 1.0)], [at_least("relay", "raw", 0.5, 0.6), at_least("sync", "raw", 1, 1)]
    )
    save(tmp_path, "ratios", [sample("relay", 2.0)], [at_least("relay", "raw", 0.7, 0.6)])
    kept = msgspec.json.decode((tmp_path / LATEST).read_bytes(), type=list[TargetResult])
    assert [(one.measure, one.value, one.holds) for one in kept] == [("relay", 0.7, True), ("sync", 1, True)]
    assert "relay" in (tmp_path / "ratios.html").read_text()
    assert "| relay | raw | 0.7 | 0.6 | yes |" in (tmp_path / "ratios.md").read_text()
    drawn = (tmp_path / "ratios.svg").read_text()
    assert ">relay</text>" in drawn
    assert ">2</text>" in drawn, "its median"


@pytest.mark.parametrize(
    ("owned", "members", "expected"),
    [
        ({"a": [0, 1, 2]}, 1, True),
        ({"a": [0], "b": [1], "c": [2]}, 3, True),
        ({"a": [0, 1, 2], "b": []}, 2, False),
        ({"a": [0, 1], "b": [1, 2]}, 2, False),
        ({"a": [0, 1]}, 1, False),
        ({"a": [0], "b": [1], "c": [2], "d": []}, 4, True),
    ],
)
def test_a_group_is_whole_when_all_partitions_are_owned_once(
    owned: dict[str, list[int]], members: int, expected: bool
) -> None:
    assert is_balanced(owned, members, 3) is expected
