"""Comparison of an object with its row: key, size and hash. Pure."""

import hashlib
from typing import ClassVar

from filemill.domain.files import InvalidObjectKey, check_key_owner


class ObjectMismatch(Exception):
    """An object does not match its row."""

    code: ClassVar[str] = "object-mismatch"


class ExpectedObject:
    """The object that a row describes. `sha256` and `size` are None until those of a foreign result are known."""

    def __init__(self, file_id: int, key: str, sha256: str | None, size: int | None) -> None:
        self.key = key
        self.size = size
        self._sha256 = sha256
        self._name = f"the object {key} is not the one of file {file_id}"
        try:
            check_key_owner(file_id, key)
        except InvalidObjectKey as error:  # the row is from a version that accepted every key
            raise ObjectMismatch(f"{self._name}: {error}") from None

    def check_size(self, size: int) -> None:
        """Compare the size in bytes. Raises ObjectMismatch."""
        if self.size is not None and size != self.size:
            raise ObjectMismatch(
                f"{self._name}: it has {size:,} bytes, not {self.size:,}. `filemill verify` lists such files"
            )

    def check(self, body: bytes) -> None:
        """Check a whole object. Raises ObjectMismatch."""
        self.check_size(len(body))
        digest = self.digest()
        digest.update(body)
        digest.finish()

    def digest(self) -> "DigestCheck":
        """The check of an object that is read in parts."""
        return DigestCheck(self._sha256, self._name)


class DigestCheck:
    """Computes the hash of an object part by part and compares it."""

    def __init__(self, expected: str | None, name: str) -> None:
        self._expected = expected
        self._name = name
        self._hash = hashlib.sha256()

    def update(self, part: bytes) -> None:
        """Add the next part."""
        if self._expected is not None:
            self._hash.update(part)

    def finish(self) -> None:
        """Compare the hash after the last part. Raises ObjectMismatch."""
        if self._expected is not None and self._hash.hexdigest() != self._expected:
            raise ObjectMismatch(
                f"{self._name}: its SHA-256 begins with {self._hash.hexdigest()[:12]}, not with {self._expected[:12]}."
                " `filemill verify` lists such files"
            )
