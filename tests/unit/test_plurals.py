"""The grammar of counts."""

import re
from pathlib import Path

import pytest

import filemill_dashboard
from filemill_dashboard.views.plurals import counted, inflect

# A count in front of a plural that no helper wrote: `{n:,} files`.
FIXED_PLURAL = re.compile(
    r"\{(?:[^{}]*\blen\([^{}]*|count|requests)(?::,)?\} "
    r"(?:files|records|workers|partitions|requests|members|runs|events|topics|bytes|attempts)\b"
)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (1234, "1,234 files"), (1000, "1,000 files")]
)
def test_a_count_has_the_form_of_its_noun(count: int, text: str) -> None:
    assert counted(count, "file") == text


def test_an_irregular_form_is_given() -> None:
    assert counted(1, "entry", "entries") == "1 entry"
    assert counted(3, "entry", "entries") == "3 entries"
    assert inflect(1, "has", "have") == "has"
    assert inflect(2, "has", "have") == "have"


def test_the_dashboard_writes_no_plural_beside_a_variable_count() -> None:
    folder = Path(filemill_dashboard.__file__).parent
    found = [
        f"{file.relative_to(folder)}: {match.group()}"
        for file in sorted(folder.rglob("*.py"))
        for match in FIXED_PLURAL.finditer(file.read_text(encoding="utf-8"))
    ]
    assert found == []
