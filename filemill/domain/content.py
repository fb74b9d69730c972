"""The text of a generated file.

This is the template of the reference design, with one difference: `Generated at` is the time of the request, not of the
processing. The bytes depend on the request alone, so reprocessing a record creates the same object
(docs/decisions/0005-content-depends-on-the-request-alone.md).
"""

import hashlib
from datetime import datetime

from filemill.domain.files import iso_milliseconds

CONTENT_TYPE = "text/plain; charset=utf-8"

_RULE = "==================="


def render(title: str, description: str, requested_at: datetime) -> bytes:
    """The bytes of the file, in UTF-8, with a line break at the end."""
    lines = [
        _RULE,
        "GENERATED FILE",
        _RULE,
        f"Title: {title}",
        f"Description: {description}",
        f"Generated at: {iso_milliseconds(requested_at)}",
        "",
    ]
    return "\n".join(lines).encode()


def sha256_hex(body: bytes) -> str:
    """The SHA-256 that rows, events and `verify` compare: 64 hexadecimal digits."""
    return hashlib.sha256(body).hexdigest()
