"""Signatures of results: who has the deployment's key made them. Pure.

A record of `file.created` is signed whole: HMAC-SHA256 over its topic and its value, in 64 hexadecimal digits.
"""

import hashlib
import hmac

from filemill.domain.messages import FileCreated, Headers, header

SIGNATURE_HEADER = "filemill-signature"
# Shorter keys could be guessed.
RESULT_KEY_MIN_CHARACTERS = 32


class ResultSigner:
    """Signs results and checks signatures. An empty key signs nothing and accepts everything."""

    def __init__(self, key: str = "") -> None:
        self._key = key.encode()

    def headers(self, topic: str, value: bytes) -> Headers:
        """The header with the signature of a result."""
        return [(SIGNATURE_HEADER, self._signature(topic, value).encode())] if self._key else []

    def accepts(self, topic: str, value: bytes, headers: Headers) -> bool:
        """Whether the deployment's own workers made the result."""
        if not self._key:
            return True
        found = header(headers, SIGNATURE_HEADER) or ""
        return hmac.compare_digest(self._signature(topic, value).encode(), found.encode(errors="replace"))

    def _signature(self, topic: str, value: bytes) -> str:
        return hmac.new(self._key, topic.encode() + b"\0" + value, hashlib.sha256).hexdigest()


def as_foreign(result: FileCreated) -> FileCreated:
    """The result without what only the deployment's workers may state: hash, size, worker, record and times."""
    return FileCreated(
        file_id=result.file_id,
        s3_location=result.s3_location,
        status=result.status,
        timestamp=result.timestamp,
        run=result.run,
        error=result.error,
    )
