"""`python -m filemill_infra.compose_secrets`: create the secrets of a composed stack in volumes, at its first start.

Each volume has the secrets of one kind of service; a processor, for example, has no database password. Existing secrets
are kept. Values in .env, such as `FILEMILL_DATABASE_PASSWORD`, replace the random ones.
"""

from collections.abc import Mapping
from pathlib import Path

from filemill.config.settings import Settings, load
from filemill.runtime.stack_state import replace_private_file
from filemill_infra.embedded.credentials import Credentials
from filemill_infra.seaweed_security import SECURITY, create_security_files
from filemill_infra.superuser import superuser_statements

ROOT = Path("/secrets")
# The volumes, as folders in the root.
ADMIN, DATABASE, S3_KEYS, S3_SECURITY = "database-admin", "database", "s3-keys", "s3-security"
VOLUMES = (ADMIN, DATABASE, S3_KEYS, S3_SECURITY)
# The S3 service reads security.toml from this folder; its components connect to this host.
S3_SECURITY_FOLDER = "/usr/local/etc/seaweedfs"
S3_HOST = "127.0.0.1"
# The groups of the users in the official images. The service `secrets` is a member of both, so it need not be root.
POSTGRES_GROUP = 999
SEAWEED_GROUP = 1000

# A file, the credential in it, and a group that may read it in addition to filemill's user.
_FILES: tuple[tuple[str, str, int | None], ...] = (
    (f"{ADMIN}/superuser_password", "database_superuser_password", POSTGRES_GROUP),
    (f"{ADMIN}/owner_password", "database_owner_password", None),
    (f"{DATABASE}/password", "database_password", None),
    (f"{DATABASE}/reader_password", "database_reader_password", None),
    (f"{S3_KEYS}/access_key_id", "s3_access_key_id", SEAWEED_GROUP),
    (f"{S3_KEYS}/secret_access_key", "s3_secret_access_key", SEAWEED_GROUP),
)
# Statements for existing PostgreSQL data with another password, executed in single-user mode.
_SUPERUSER_SQL = f"{ADMIN}/superuser.sql"
# Credentials that .env can set, by the name of the setting.
_GIVEN = {
    "database_password": "database_password",
    "aws_access_key_id": "s3_access_key_id",
    "aws_secret_access_key": "s3_secret_access_key",
}


def write_secrets(root: Path, given: Mapping[str, str], *, mode: int | None = None) -> list[str]:
    """Write missing secrets, and given ones that differ; returns the names of the files written.

    `given` are credentials by the field names of `Credentials`. Files have mode 0400, or 0440 with a group. `mode`, for
    a root that is itself private, replaces both and sets no group. Raises OSError.
    """
    random = Credentials()
    written = []

    def put(name: str, content: bytes, group: int | None) -> None:
        if _content(root / name) != content:
            closed = 0o400 if group is None else 0o440
            replace_private_file(root / name, content, mode or closed, None if mode else group)
            written.append(name)

    for volume in VOLUMES:
        (root / volume).mkdir(parents=True, exist_ok=True)
    for name, credential, group in _FILES:
        value = given.get(credential, "").encode() or _content(root / name) or getattr(random, credential).encode()
        put(name, value, group)
    superuser = _content(root / f"{ADMIN}/superuser_password").decode()
    put(_SUPERUSER_SQL, superuser_statements(superuser).encode(), POSTGRES_GROUP)
    if not _content(root / S3_SECURITY / SECURITY):
        for file, content in create_security_files(S3_SECURITY_FOLDER, S3_HOST).items():
            put(f"{S3_SECURITY}/{file}", content, SEAWEED_GROUP)
    return written


def credentials_from(settings: Settings) -> dict[str, str]:
    """The credentials that the settings contain, by the field names of `Credentials`."""
    set_here = settings.model_fields_set & _GIVEN.keys()
    return {_GIVEN[name]: getattr(settings, name).get_secret_value() for name in set_here}


def main() -> None:
    """Create the secrets in the container's volumes."""
    written = write_secrets(ROOT, credentials_from(load()))
    print(f"Written: {', '.join(written)}." if written else "All secrets exist already.")


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


if __name__ == "__main__":
    main()
