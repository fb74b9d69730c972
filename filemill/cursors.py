"""Cursors: tokens that say where a page of a list ends. Opaque for clients, and checked when they come back.

A token is the base64url form of a checksum and a msgpack list: the version, the list's name, and the numbers of the
place. It is no secret and no proof of anything; the checksum finds what was cut or mistyped.
"""

import base64
import binascii
import zlib

import msgspec

VERSION = 1
# Whatever is longer was never given out.
LENGTH_MAX = 200
_CHECKSUM_BYTES = 4


class InvalidCursor(ValueError):
    """A text that is not a cursor of the list."""

    def __init__(self) -> None:
        super().__init__("is not a cursor of this list")


def encode_cursor(kind: str, *numbers: int) -> str:
    """A cursor of the list `kind` at this place."""
    content = msgspec.msgpack.encode([VERSION, kind, *numbers])
    return base64.urlsafe_b64encode(_checksum(content) + content).decode().rstrip("=")


def decode_cursor(kind: str, text: str, count: int) -> list[int]:
    """The `count` numbers of a cursor of that list. Raises InvalidCursor."""
    if len(text) > LENGTH_MAX or not text.isascii():
        raise InvalidCursor
    try:
        token = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        document = msgspec.msgpack.decode(token[_CHECKSUM_BYTES:])
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError):
        raise InvalidCursor from None
    if not isinstance(document, list) or document[:2] != [VERSION, kind]:
        raise InvalidCursor
    numbers = document[2:]
    # Written anew it must be the same text: base64 leaves bits unused, and msgpack has several forms of a number.
    if len(numbers) != count or any(type(one) is not int for one in numbers) or encode_cursor(kind, *numbers) != text:
        raise InvalidCursor
    return numbers


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "big")
