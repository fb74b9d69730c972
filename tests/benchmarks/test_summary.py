"""Medians, their spread, and the targets for them."""

from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from benchmarks import growth
from benchmarks.catalog import select_arms
from benchmarks.groups import is_balanced
from benchmarks.meter import Measured
from benchmarks.report import LATEST, publish, save, show
from benchmarks.rounds import Sample
from benchmarks.summary import TARGETS, TargetResult, at_least, at_most, check_targets, describe_targets, summarize


def sample(arm: str, rate: float, number: int = 1, **figures: float) -> Sample:
    return Sample(number, arm, Measured(1000, 1000 / rate, 0.5, {"kafka": 0.1, "s3": 0.15}, 2**26, figures))


def test_a_summary_is_the_median_of_the_rounds_with_their_spread() -> None:
    (line,) = summarize([sample("relay", rate, number) for number, rate in enumerate((100.0, 400.0, 200.0))])
    assert line.median == pytest.approx(200)
    assert line.least == pytest.approx(100)
    assert line.greatest == pytest.approx(400)
    assert line.spread == pytest.approx(1.5)
    assert line.worker_cpu_us == pytest.approx(500)
    assert line.server_cpu_us == pytest.approx(250)
    assert line.cpu_us_by_server == {"kafka": pytest.approx(100), "s3": pytest.approx(150)}


def test_a_target_is_checked_only_if_all_its_arms_were_measured() -> None:
    alone = [sample("relay", 700.0), sample("raw claim", 1000.0)]
    assert check_targets(summarize(alone)) == []
    (found,) = check_targets(summarize([*alone, sample("raw produce", 5000.0)]))
    assert (found.measure, found.value, found.holds) == ("relay", 0.7, True)


def test_submissions_are_compared_with_the_faster_raw_insert() -> None:
    measured = [
        sample("submit many", 650.0),
        sample("raw insert (unnest)", 800.0),
        sample("raw insert (copy)", 1000.0),
    ]
    (found,) = check_targets(summarize(measured))
    assert (found.value, found.holds) == (0.65, False)


def test_each_target_names_existing_arms() -> None:
    names = {arm.name for arm in select_arms()}
    for ratio in TARGETS:
        assert {ratio.arm, *ratio.of} <= names


def test_only_selects_arms_by_name_or_kind() -> None:
    assert [arm.name for arm in select_arms("relay")] == ["relay"]
    assert {arm.kind for arm in select_arms("peer")} == {"peer"}
    with pytest.raises(ValueError, match="no arm has 'nothing'"):
        select_arms("nothing")


def test_every_arm_describes_what_it_counts() -> None:
    for arm in [*select_arms(), *growth.points()]:
        assert arm.counts.startswith("Counts "), arm.name


def test_targets_of_growth_come_from_its_points() -> None:
    found = growth.check_targets(
        [
            sample("10,000 files", 1000.0, verify_seconds=6.0, verify_rss_mb=100.0),
            sample("100,000 files", 850.0, verify_seconds=61.0, verify_rss_mb=120.0),
            sample("API, busy", 200.0, p99_ms=12.5),
        ]
    )
    assert [(one.value, one.holds) for one in found] == [(0.85, False), (12.5, True), (61.0, False), (1.2, True)]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_a_table_is_not_truncated_on_a_narrow_terminal(width: int) -> None:
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


def test_targets_that_a_run_did_not_measure_are_kept(tmp_path: Path) -> None:
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
def test_a_group_is_balanced_if_each_partition_has_one_owner(
    owned: dict[str, list[int]], members: int, expected: bool
) -> None:
    assert is_balanced(owned, members, 3) is expected


def test_missed_targets_are_named_with_value_and_target() -> None:
    assert describe_targets([]) == "No targets were measured."
    assert describe_targets([at_least("relay", "raw", 0.7, 0.6)]) == "Targets: 1 of 1 hold."
    text = describe_targets([at_least("relay", "raw", 0.7, 0.6), at_most("p99 in ms", "", 61.0, 50.0)])
    assert text == "Targets: 1 of 2 hold.\nMissed: p99 in ms (61, target 50)."


def test_publishing_copies_results_and_merges_their_targets(tmp_path: Path) -> None:
    source, target = tmp_path / "measured", tmp_path / "committed"
    save(target, "growth", [sample("10,000 files", 9.0)], [at_least("sync", "raw", 1, 1)])
    save(source, "ratios", [sample("relay", 1.0)], [at_least("relay", "raw", 0.5, 0.6)])
    assert publish(source, target) == ["latest.json", "ratios.json", "ratios.md", "ratios.svg"]
    assert (target / "ratios.json").read_bytes() == (source / "ratios.json").read_bytes()
    assert (target / "growth.json").exists()
    merged = msgspec.json.decode((target / LATEST).read_bytes(), type=list[TargetResult])
    assert [(one.measure, one.holds) for one in merged] == [("sync", True), ("relay", False)]
    assert publish(tmp_path / "nothing", target) == []
