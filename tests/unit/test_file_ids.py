"""Ids and cursors as texts: what is accepted, and that nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemill.cursors import InvalidCursor, decode_cursor, encode_cursor
from filemill.files import FILE_ID_MAX, FileIdOutOfRange, InvalidRequest, parse_file_id

_numbers = st.integers(-(2**63), 2**64 - 1)


@given(st.integers(1, FILE_ID_MAX), st.integers(0, 30))
def test_digits_are_an_id(number: int, zeros: int) -> None:
    assert parse_file_id("0" * zeros + str(number)) == number


@pytest.mark.parametrize(
    "text", ["", " ", " 1", "1 ", "1\n", "+1", "1.0", "1_0", "1e3", "0x1", "٣", "１", "²", "--1", "1\0"]
)
def test_what_is_not_written_in_digits_is_no_id(text: str) -> None:
    with pytest.raises(InvalidRequest, match="digits") as raised:
        parse_file_id(text)
    assert not isinstance(raised.value, FileIdOutOfRange)


@pytest.mark.parametrize("text", ["0", "00", "-1", "-0", str(FILE_ID_MAX + 1), "9" * 10_000, "0" * 20 + "9" * 30])
def test_numbers_that_no_file_has_are_out_of_range(text: str) -> None:
    with pytest.raises(FileIdOutOfRange):
        parse_file_id(text)


@given(st.text(max_size=20), st.lists(_numbers, max_size=4))
def test_a_cursor_comes_back_as_it_was_given_out(kind: str, numbers: list[int]) -> None:
    assert decode_cursor(kind, encode_cursor(kind, *numbers), len(numbers)) == numbers


@given(
    st.lists(_numbers, min_size=2, max_size=2), st.integers(0, 30), st.characters(min_codepoint=33, max_codepoint=126)
)
def test_a_cursor_that_was_changed_is_refused(numbers: list[int], at: int, character: str) -> None:
    cursor = encode_cursor("files", *numbers)
    changed = cursor[:at] + character + cursor[at + 1 :]
    if changed != cursor:
        with pytest.raises(InvalidCursor):
            decode_cursor("files", changed, 2)


@given(st.text(max_size=300))
def test_any_other_text_is_no_cursor(text: str) -> None:
    with pytest.raises(InvalidCursor):
        decode_cursor("files", text, 2)
