"""Random passwords and keys of a home's servers, kept in a file that only its owner can read."""

import secrets
import threading
from pathlib import Path

import msgspec

from filemill.runtime.stack_state import replace_private_file
from filemill_infra.embedded.errors import HomeError

CREDENTIALS_FILE = "credentials.json"

_SECRET_BYTES = 24
# Published values of the reference design, for programs that have them built in. They protect nothing.
_REFERENCE = {"s3_access_key_id": "test", "s3_secret_access_key": "test", "database_password": "filepass"}
_lock = threading.Lock()


def _password() -> str:
    return secrets.token_urlsafe(_SECRET_BYTES)


def _access_key_id() -> str:
    return "FM" + secrets.token_hex(9).upper()


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """The credentials of a home's servers. The superuser's password never leaves the supervisor."""

    s3_access_key_id: str = msgspec.field(default_factory=_access_key_id)
    s3_secret_access_key: str = msgspec.field(default_factory=_password)
    database_superuser_password: str = msgspec.field(default_factory=_password)
    database_owner_password: str = msgspec.field(default_factory=_password)
    database_password: str = msgspec.field(default_factory=_password)
    database_reader_password: str = msgspec.field(default_factory=_password)


def credentials_of(home: Path, *, reference: bool = False) -> Credentials:
    """The credentials of a home; missing ones are created and stored. Safe to call from several threads.

    With `reference`, the S3 keys and the database password are those that the reference design published; the file is
    not changed. Raises HomeError if the file cannot be read.
    """
    with _lock:
        found = _stored(home)
    return msgspec.structs.replace(found, **_REFERENCE) if reference else found


def _stored(home: Path) -> Credentials:
    path = home / CREDENTIALS_FILE
    try:
        content = path.read_bytes() if path.exists() else b"{}"
        found = msgspec.json.decode(content, type=Credentials)
    except (OSError, msgspec.DecodeError) as error:
        raise HomeError(
            f"The credentials of this home cannot be read: {error}",
            where=str(path),
            advice="restore the file, or delete it: the next start creates new credentials.",
        ) from error
    complete = msgspec.json.format(msgspec.json.encode(found), indent=2)
    if complete != content:
        replace_private_file(path, complete)
    return found
