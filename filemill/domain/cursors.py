"""Cursors: tokens that say where a page of a list ends. Opaque for clients, and checked when they come back.

A token is the list's name with a version, then each number of the place in 16 hexadecimal digits. Every text of that
form is a valid place, so that an API's document can describe cursors by a pattern.
"""

import re

import msgspec

_NUMBER = "[0-7][0-9a-f]{15}"  # up to 2^63 - 1
_NUMBER_DIGITS = 16


class InvalidCursor(ValueError):
    """A text that is not a cursor of the list."""

    def __init__(self) -> None:
        super().__init__("is not a cursor of this list")


class CursorKind(msgspec.Struct, frozen=True):
    """The cursors of one list: `prefix` is its name and version, `count` is how many numbers make a place."""

    prefix: str
    count: int

    @property
    def pattern(self) -> str:
        """What they look like, for documents."""
        return f"{self.prefix}({_NUMBER}){{{self.count}}}"

    def encode(self, *numbers: int) -> str:
        """The cursor of a place; numbers are from 0 to 2^63 - 1."""
        assert len(numbers) == self.count
        return self.prefix + "".join(f"{number:0{_NUMBER_DIGITS}x}" for number in numbers)

    def decode(self, text: str) -> list[int]:
        """The numbers of a cursor. Raises InvalidCursor."""
        if re.fullmatch(self.pattern, text) is None:
            raise InvalidCursor
        digits = text.removeprefix(self.prefix)
        return [int(digits[start : start + _NUMBER_DIGITS], 16) for start in range(0, len(digits), _NUMBER_DIGITS)]


# Of the list of files: those with smaller ids than the place's, or with greater ones.
OLDER_FILES = CursorKind("fo1", 1)
NEWER_FILES = CursorKind("fn1", 1)
# Of the list of workers: how many come before.
WORKERS = CursorKind("wk1", 1)
DEAD_LETTERS = CursorKind("dl1", 3)
