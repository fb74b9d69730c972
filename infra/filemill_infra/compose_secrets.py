"""The secrets of a composed stack: drawn once, into volumes that its services read.

Run as `python -m filemill_infra.compose_secrets`.
Each volume holds what one kind of service needs, so a processor, for example, has no password of the database. What is
there is kept. What .env gives (`FILEMILL_DATABASE_PASSWORD` and its like) takes the place of what was drawn.
"""

from collections.abc import Mapping
from pathlib import Path

from filemill.config.settings import Settings, load
from filemill.runtime.stack_state import replace_private_file
from filemill_infra.embedded.credentials import Credentials
from filemill_infra.seaweed_security import SECURITY, draw_security
from filemill_infra.superuser import superuser_statements

ROOT = Path("/secrets")
# The volumes: folders below the root.
ADMIN, DATABASE, S3_KEYS, S3_SECURITY = "database-admin", "database", "s3-keys", "s3-security"
VOLUMES = (ADMIN, DATABASE, S3_KEYS, S3_SECURITY)
# Where the S3 service looks for its security.toml, and what its parts call each other.
S3_SECURITY_PLACE = "/usr/local/etc/seaweedfs"
S3_HOST = "127.0.0.1"
# The groups of the official images' users. The service that draws is a member, so it need not be root.
POSTGRES_GROUP = 999
SEAWEED_GROUP = 1000

# The file, the credential in it, and the group that reads it beside filemill's own user.
_FILES: tuple[tuple[str, str, int | None], ...] = (
    (f"{ADMIN}/superuser_password", "database_superuser_password", POSTGRES_GROUP),
    (f"{ADMIN}/owner_password", "database_owner_password", None),
    (f"{DATABASE}/password", "database_password", None),
    (f"{DATABASE}/reader_password", "database_reader_password", None),
    (f"{S3_KEYS}/access_key_id", "s3_access_key_id", SEAWEED_GROUP),
    (f"{S3_KEYS}/secret_access_key", "s3_secret_access_key", SEAWEED_GROUP),
)
# What data of PostgreSQL that was made with another password is told, in single-user mode.
_TAKE_OVER = f"{ADMIN}/superuser.sql"
# What .env may give, by the setting that brings it.
_GIVEN = {
    "database_password": "database_password",
    "aws_access_key_id": "s3_access_key_id",
    "aws_secret_access_key": "s3_secret_access_key",
}


def draw(root: Path, given: Mapping[str, str], *, mode: int | None = None) -> list[str]:
    """Write what is missing, and what is given and differs; returns the files that were written.

    `given` are credentials by the names of `Credentials`. Files are 0400 or, for a server's group, 0440; `mode` stands
    in for both, where the root itself is closed, and leaves groups alone. Raises OSError.
    """
    fresh = Credentials()
    written = []

    def put(name: str, content: bytes, group: int | None) -> None:
        if _content(root / name) != content:
            closed = 0o400 if group is None else 0o440
            replace_private_file(root / name, content, mode or closed, None if mode else group)
            written.append(name)

    for volume in VOLUMES:
        (root / volume).mkdir(parents=True, exist_ok=True)
    for name, credential, group in _FILES:
        value = given.get(credential, "").encode() or _content(root / name) or getattr(fresh, credential).encode()
        put(name, value, group)
    superuser = _content(root / f"{ADMIN}/superuser_password").decode()
    put(_TAKE_OVER, superuser_statements(superuser).encode(), POSTGRES_GROUP)
    if not _content(root / S3_SECURITY / SECURITY):
        for file, content in draw_security(S3_SECURITY_PLACE, S3_HOST).items():
            put(f"{S3_SECURITY}/{file}", content, SEAWEED_GROUP)
    return written


def given_by(settings: Settings) -> dict[str, str]:
    """The credentials that these settings bring, by the names of `Credentials`."""
    set_here = settings.model_fields_set & _GIVEN.keys()
    return {_GIVEN[name]: getattr(settings, name).get_secret_value() for name in set_here}


def main() -> None:
    """Draw into the volumes of the container."""
    written = draw(ROOT, given_by(load()))
    print(f"Written: {', '.join(written)}." if written else "All secrets are there.")


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


if __name__ == "__main__":
    main()
