"""The pages of docs/decisions have one form, and the index lists each of them."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "decisions"
PAGES = sorted(FOLDER.glob("0*.md"))


def test_decisions_are_numbered_without_gaps() -> None:
    assert [int(page.name[:4]) for page in PAGES] == list(range(1, len(PAGES) + 1))


def test_the_index_lists_each_decision_once_under_its_number() -> None:
    listed = re.findall(r"\[(\d+)\]\((0[\w-]+\.md)\)", (FOLDER / "README.md").read_text())
    assert sorted(name for _, name in listed) == [page.name for page in PAGES]
    assert [(number, name) for number, name in listed if int(number) != int(name[:4])] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_decision_has_a_title_a_date_and_the_decision(page: Path) -> None:
    text = page.read_text()
    assert re.match(r"# \S.*\n\n20\d\d-\d\d-\d\d\n\n", text)
    assert text.count("**Decision.**") == 1
