"""Idempotency keys: they make it safe to repeat a request (draft-ietf-httpapi-idempotency-key-header). Pure.

A client that does not know whether its request was accepted repeats it with the same key. The request is accepted once,
and both responses are the same. A key is stored for 24 hours.
"""

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import ClassVar

import msgspec

from filemill.domain.files import NewFile
from filemill.errors import InvalidRequest

HEADER = "Idempotency-Key"
KEY_RETENTION = timedelta(hours=24)
KEY_MAX_CHARACTERS = 255
# Printable ASCII without blanks at its ends, or such a text in quotation marks.
KEY_PATTERN = r'^([!#-~]([ -~]{0,253}[!-~])?|"[!-~]([ -~]{0,253}[!-~])?")$'


class KeyReused(Exception):
    """The key was used for another request before."""

    code: ClassVar[str] = "idempotency-key-reused"

    def __init__(self) -> None:
        super().__init__(
            f"this {HEADER} was used for another request within the last 24 hours; use a new key for a new request"
        )


def parse_key(text: str) -> str:
    """The key in a header's value, without the quotation marks of an HTTP structured string. Raises InvalidRequest."""
    key = text[1:-1] if len(text) > 2 and text[0] == text[-1] == '"' else text
    if not key.strip():
        raise InvalidRequest(HEADER, "must not be blank")
    if len(key) > KEY_MAX_CHARACTERS:
        raise InvalidRequest(HEADER, f"must have at most {KEY_MAX_CHARACTERS} characters, not {len(key)}")
    if not key.isascii() or not key.isprintable():
        raise InvalidRequest(HEADER, "must consist of printable ASCII characters")
    return key


def key_hash(key: str) -> str:
    """The hash that is stored instead of the key, because the key is a secret of its sender."""
    return hashlib.sha256(key.encode()).hexdigest()


def fingerprint(files: Sequence[NewFile]) -> str:
    """A hash of all requested files, in order: equal for equal requests.

    A request without the fields of handlers has the hash that earlier versions stored.
    """
    return hashlib.sha256(msgspec.msgpack.encode([_fields(file) for file in files])).hexdigest()


def _fields(file: NewFile) -> dict[str, object]:
    fields: dict[str, object] = {"title": file.title, "description": file.description}
    if not file.only_text:
        fields |= {"handler": file.handler, "parameters": file.parameters, "inputs": file.inputs, "queue": file.queue}
    return fields
