"""The hash chain of the audit log."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemill.domain.audit_chain import (
    EMPTY,
    AuditFindingCode,
    AuditHead,
    AuditRow,
    ChainCheck,
    parse_head,
    row_hash,
)
from filemill.errors import InvalidRequest

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
DIFFERENT = {
    "at": datetime(2026, 1, 2, tzinfo=UTC),
    "actor": "eve",
    "action": "delete",
    "detail": "{}",
    "authentication": None,
    "address": "",
    "request_id": "r",
    "follows": 1,
    "previous_hash": b"\1" * 32,
    "id": 99,
}


def chain(texts: list[str]) -> list[AuditRow]:
    rows, previous = [], EMPTY.hash
    for number, text in enumerate(texts, 1):
        row = AuditRow(
            number, number, datetime(2026, 1, 1, tzinfo=UTC), text, text, text, text, text, None, None, previous, b""
        )
        row = msgspec.structs.replace(row, hash=row_hash(row))
        rows.append(row)
        previous = row.hash
    return rows


def codes(rows: list[AuditRow], head: AuditHead | None, known: AuditHead | None = None) -> set[AuditFindingCode]:
    check = ChainCheck(known)
    check.add(rows)
    check.finish(head)
    return set(check.findings)


def head_of(rows: list[AuditRow]) -> AuditHead:
    return AuditHead(rows[-1].sequence, rows[-1].hash) if rows else EMPTY


@given(st.lists(TEXT, max_size=6))
def test_a_chain_is_intact(texts: list[str]) -> None:
    rows = chain(texts)
    assert codes(rows, head_of(rows)) == set()


@given(st.lists(TEXT, min_size=2, max_size=6), st.data())
def test_any_missing_row_is_found(texts: list[str], data: st.DataObject) -> None:
    rows = chain(texts)
    gone = data.draw(st.integers(0, len(rows) - 1))
    assert codes(rows[:gone] + rows[gone + 1 :], head_of(rows))


@given(st.lists(TEXT, min_size=2, max_size=5), st.data())
def test_any_other_order_is_found(texts: list[str], data: st.DataObject) -> None:
    rows = chain(texts)
    order = data.draw(st.permutations(rows).filter(lambda one: one != rows))
    renumbered = [msgspec.structs.replace(row, sequence=number) for number, row in enumerate(order, 1)]
    assert codes(order, head_of(rows))
    assert codes(renumbered, head_of(rows))


@pytest.mark.parametrize("field", DIFFERENT)
def test_each_field_is_part_of_the_hash(field: str) -> None:
    rows = chain(["a", "b", "c"])
    rows[1] = msgspec.structs.replace(rows[1], **{field: DIFFERENT[field]})
    assert AuditFindingCode.EDITED in codes(rows, head_of(rows))


def test_text_cannot_move_from_one_field_to_the_next() -> None:
    (row,) = chain(["a"])
    moved = msgspec.structs.replace(row, actor="a1:a,", action="")
    assert row_hash(row) != row_hash(moved)
    missing, empty = (msgspec.structs.replace(row, request_id=value) for value in (None, ""))
    assert row_hash(missing) != row_hash(empty)


def test_a_head_that_was_kept_must_be_in_the_chain() -> None:
    rows = chain(["a", "b", "c"])
    assert codes(rows, head_of(rows), head_of(rows[:2])) == set()
    assert codes(rows, head_of(rows), EMPTY) == set()
    other = chain(["x", "b", "c"])
    assert codes(other, head_of(other), head_of(rows[:2])) == {AuditFindingCode.KNOWN_HEAD_DIFFERS}
    assert codes([], EMPTY, head_of(rows)) == {AuditFindingCode.KNOWN_HEAD_DIFFERS}


def test_a_head_is_read_as_it_is_printed() -> None:
    head = head_of(chain(["a"]))
    assert parse_head(f" {head}\n") == head
    for wrong in ("", "1", "1:ab", f"-{head}", f"{head}0", "x:" + "0" * 64):
        with pytest.raises(InvalidRequest):
            parse_head(wrong)
