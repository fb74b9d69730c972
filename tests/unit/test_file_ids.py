"""File ids and cursors as texts: which are accepted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filemill.domain.cursors import DEAD_LETTERS, NEWER_FILES, OLDER_FILES, InvalidCursor
from filemill.domain.files import FILE_ID_MAX, parse_file_id
from filemill.errors import FileIdOutOfRange, InvalidRequest


@given(st.integers(1, FILE_ID_MAX), st.integers(0, 30))
def test_digits_are_an_id(number: int, zeros: int) -> None:
    assert parse_file_id("0" * zeros + str(number)) == number


@pytest.mark.parametrize(
    "text", ["", " ", " 1", "1 ", "1\n", "+1", "1.0", "1_0", "1e3", "0x1", "٣", "１", "²", "--1", "1\0"]
)
def test_other_texts_are_no_ids(text: str) -> None:
    with pytest.raises(InvalidRequest, match="digits") as raised:
        parse_file_id(text)
    assert not isinstance(raised.value, FileIdOutOfRange)


@pytest.mark.parametrize("text", ["0", "00", "-1", "-0", str(FILE_ID_MAX + 1), "9" * 10_000, "0" * 20 + "9" * 30])
def test_numbers_beyond_the_range_are_rejected(text: str) -> None:
    with pytest.raises(FileIdOutOfRange):
        parse_file_id(text)


@given(st.lists(st.integers(0, FILE_ID_MAX), min_size=3, max_size=3))
def test_a_cursor_survives_encoding_and_decoding(numbers: list[int]) -> None:
    assert DEAD_LETTERS.decode(DEAD_LETTERS.encode(*numbers)) == numbers


@given(st.from_regex(OLDER_FILES.pattern, fullmatch=True))
def test_every_text_that_matches_the_pattern_is_a_cursor(text: str) -> None:
    assert OLDER_FILES.encode(*OLDER_FILES.decode(text)) == text
    with pytest.raises(InvalidCursor):
        NEWER_FILES.decode(text)


@given(st.text(max_size=60))
def test_any_other_text_is_no_cursor(text: str) -> None:
    with pytest.raises(InvalidCursor):
        DEAD_LETTERS.decode(text)
