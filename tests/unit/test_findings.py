"""Findings and invariants have codes; nothing has to be read out of a sentence."""

import re
from pathlib import Path

import pytest

from filemill.verification.findings import (
    EXAMPLES_MAX,
    LOST_CODES,
    VERIFY_CODES,
    FindingCode,
    FindingCollection,
    Invariant,
    new_finding,
)
from filemill.verification.report import VerificationReport

GUARANTEES = Path(__file__).resolve().parents[2] / "docs" / "guarantees.md"


@pytest.mark.parametrize("code", FindingCode)
def test_every_code_has_an_invariant_and_a_meaning(code: FindingCode) -> None:
    finding = new_finding(code, ["a", "b"])
    assert (finding.check, finding.invariant, finding.count) == (code, code.invariant, 2)
    assert finding.title == f"invariant {code.invariant.number}: {code.meaning}"


def test_every_invariant_has_a_finding_and_its_number_in_the_guarantees() -> None:
    assert {code.invariant for code in FindingCode} == set(Invariant)
    assert [invariant.number for invariant in Invariant] == [str(number) for number in range(1, 11)]
    documented = re.findall(r"^\| (\d+) \| ", GUARANTEES.read_text(), flags=re.MULTILINE)
    assert [invariant.number for invariant in Invariant] == documented[: len(Invariant)]


def test_the_guarantees_list_the_codes_of_verify_with_their_invariants() -> None:
    rows = re.findall(r"^\| (\d+) \| .* \| (.*`verify`: .*) \|$", GUARANTEES.read_text(), flags=re.MULTILINE)[
        : len(Invariant)
    ]
    for code in VERIFY_CODES:
        assert [number for number, checks in rows if code.value in re.findall(r"[a-z-]+", checks)] == [
            code.invariant.number
        ], code


def test_the_codes_of_verify_are_the_first_ones() -> None:
    assert VERIFY_CODES[0] is FindingCode.LOST
    assert VERIFY_CODES[-1] is FindingCode.AUDIT_CHANGED
    assert set(VERIFY_CODES) > LOST_CODES


def test_a_finding_counts_all_cases_and_lists_the_first() -> None:
    found = FindingCollection()
    assert found.ok
    for number in range(EXAMPLES_MAX + 5):
        found.add_finding(FindingCode.OBJECT_MISSING, number, number)
    finding = found.findings[FindingCode.OBJECT_MISSING]
    assert finding.count == EXAMPLES_MAX + 5
    assert finding.file_ids == list(range(EXAMPLES_MAX))
    assert finding.examples == [str(number) for number in range(EXAMPLES_MAX)]
    assert not found.ok


def test_lost_requests_are_counted_over_both_codes() -> None:
    report = VerificationReport()
    report.add_finding(FindingCode.LOST, "1 (nowhere)", 1)
    report.add_finding(FindingCode.REQUEST_GONE, "2 (removed)", 2)
    report.add_finding(FindingCode.OBJECT_MISSING, 3, 3)
    assert report.lost == 2
