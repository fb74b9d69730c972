"""Secrets in files, as is usual in containers."""

from pathlib import Path

SECRET_MAX_BYTES = 4096


class UnreadableSecret(ValueError):
    """A secret's file cannot be used; the text gives the reason."""


def read_secret(path: Path) -> str:
    """Read a secret's file; white space at both ends is removed. Raises UnreadableSecret."""
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_MAX_BYTES + 1)
        text = content.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableSecret(f"the secret's file {path} cannot be read: {error}") from None
    if not text or len(content) > SECRET_MAX_BYTES:
        raise UnreadableSecret(f"the secret's file {path} must contain 1 to {SECRET_MAX_BYTES} bytes")
    return text
