"""Hashes of passwords: Argon2id, with the parameters of argon2-cffi (RFC 9106, low memory)."""

import secrets
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

_HASHER = PasswordHasher()


def hash_password(password: str) -> str:
    """A hash with its parameters and its salt. Takes tens of milliseconds and 64 MiB."""
    return _HASHER.hash(password)


@cache
def _hash_of_nothing() -> str:
    return hash_password(secrets.token_hex(16))


def verify_password(stored: str | None, password: str) -> bool:
    """Whether the password is right. Without a stored hash it takes as long, so that the time tells nothing."""
    try:
        _HASHER.verify(_hash_of_nothing() if stored is None else stored, password)
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None


def needs_rehash(stored: str) -> bool:
    """Whether a hash was made with other parameters than those of today."""
    return _HASHER.check_needs_rehash(stored)
