"""The rules of accounts: names, passwords, and how long a session lasts."""

import re
from datetime import timedelta

from filemill.errors import InvalidRequest

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
# Names that the audit log has for programs and for people without an account.
RESERVED_NAMES = frozenset({"cli", "lab", "nobody", "page", "rest", "token"})
PASSWORD_MIN_CHARACTERS = 10
# Longer ones would let a client choose how long a hash takes.
PASSWORD_MAX_CHARACTERS = 256

# Of somebody who signs in at a provider: the provider's name, and a name there (`filemill.domain.federation`).
PROVIDER_NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,31}/[a-z0-9][a-z0-9._@-]{0,63}(~[0-9a-f]{16})?")

# Before the name of a person whom a trusted proxy signed in.
PROXY_PREFIX = "proxy:"

SESSION_IDLE = timedelta(hours=12)
SESSION_MAX = timedelta(days=7)
# At a provider somebody may have lost a role meanwhile, which only the next sign-in shows.
PROVIDER_SESSION_MAX = timedelta(hours=12)
# Between the click on the sign-in page and the return from the provider.
ATTEMPT_MAX = timedelta(minutes=10)
# Attempts to sign in within a minute: for one account from one address, and for all accounts from one address.
TRIES_PER_ACCOUNT = 5
TRIES_PER_ADDRESS = 30
TRIES_PERIOD = timedelta(minutes=1)


def account_name(text: str) -> str:
    """The name of an account; capitals do not count. Raises InvalidRequest."""
    name = text.strip().lower()
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidRequest("name", "must be 1 to 64 of a-z, 0-9, . _ @ -, and begin with a letter or digit")
    if name in RESERVED_NAMES:
        raise InvalidRequest("name", f"{name} is reserved for the audit log")
    return name


def known_name(text: str) -> str:
    """The name of an account that may exist: one with a password, or one of a provider. Raises InvalidRequest."""
    name = text.strip().lower()
    return name if PROVIDER_NAME_PATTERN.fullmatch(name) else account_name(name)


def is_account_name(name: str) -> bool:
    """Whether a principal's name is that of an account."""
    known = NAME_PATTERN.fullmatch(name) or PROVIDER_NAME_PATTERN.fullmatch(name)
    return known is not None and name not in RESERVED_NAMES


def is_person(name: str) -> bool:
    """Whether a principal's name is that of one person: of an account, or as a proxy says."""
    return is_account_name(name) or name.startswith(PROXY_PREFIX)


def check_password(password: str) -> str:
    """A new password. Raises InvalidRequest."""
    if not PASSWORD_MIN_CHARACTERS <= len(password) <= PASSWORD_MAX_CHARACTERS:
        limits = f"{PASSWORD_MIN_CHARACTERS} to {PASSWORD_MAX_CHARACTERS}"
        raise InvalidRequest("password", f"must have {limits} characters")
    return password
