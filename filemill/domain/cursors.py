"""Cursors: tokens that mark the end of a page of a list. Opaque for clients, and validated when they come back.

A token is the list's prefix with a version, then each number of the position in 16 hexadecimal digits. Every text of
this form is valid, so a pattern in the API's document describes cursors completely.
"""

import re
from typing import ClassVar

import msgspec

_NUMBER = "[0-7][0-9a-f]{15}"  # up to 2^63 - 1
_NUMBER_DIGITS = 16


class InvalidCursor(ValueError):
    """A text that is not a cursor of the list."""

    code: ClassVar[str] = "invalid-cursor"

    def __init__(self) -> None:
        super().__init__("is not a cursor of this list")


class CursorKind(msgspec.Struct, frozen=True):
    """The cursors of one list. `prefix`: its name and version; `count`: the number of numbers in a position."""

    prefix: str
    count: int

    @property
    def pattern(self) -> str:
        """A regular expression that matches them, for documents."""
        return f"{self.prefix}({_NUMBER}){{{self.count}}}"

    def encode(self, *numbers: int) -> str:
        """The cursor of a position; numbers are from 0 to 2^63 - 1."""
        assert len(numbers) == self.count
        return self.prefix + "".join(f"{number:0{_NUMBER_DIGITS}x}" for number in numbers)

    def decode(self, text: str) -> list[int]:
        """The numbers of a cursor. Raises InvalidCursor."""
        if re.fullmatch(self.pattern, text) is None:
            raise InvalidCursor
        digits = text.removeprefix(self.prefix)
        return [int(digits[start : start + _NUMBER_DIGITS], 16) for start in range(0, len(digits), _NUMBER_DIGITS)]


# Of the list of files: those with smaller ids than the position's, or with greater ones.
OLDER_FILES = CursorKind("fo1", 1)
NEWER_FILES = CursorKind("fn1", 1)
# Of the list of workers: how many precede the page.
WORKERS = CursorKind("wk1", 1)
DEAD_LETTERS = CursorKind("dl1", 3)
# Of the audit log: rows with lower sequence numbers.
AUDIT = CursorKind("au1", 1)
