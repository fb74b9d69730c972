"""`python -m filemill_infra.compose_secrets`: create the secrets of a composed stack in volumes, at its first start.

Each volume has the secrets of one kind of service; a processor, for example, has no database password. Existing secrets
are kept. Values in .env, such as `FILEMILL_DATABASE_PASSWORD`, replace the random ones. The service `secrets` is a
member of the groups that read the files, so it need not be root.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

from filemill.config.settings import Settings, load
from filemill_infra.embedded.credentials import Credentials
from filemill_infra.seaweed_security import SECURITY, create_security_files
from filemill_infra.secret_files import SecretFiles
from filemill_infra.secure_secrets import POSTGRES_GROUP, SEAWEED_GROUP, write_secure_secrets
from filemill_infra.superuser import superuser_statements

ROOT = Path("/secrets")
# The volumes, as folders in the root.
ADMIN, DATABASE, S3_KEYS, S3_SECURITY = "database-admin", "database", "s3-keys", "s3-security"
VOLUMES = (ADMIN, DATABASE, S3_KEYS, S3_SECURITY)
# The S3 service reads security.toml from this folder; its components connect to this host.
S3_SECURITY_FOLDER = "/usr/local/etc/seaweedfs"
S3_HOST = "127.0.0.1"

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


def write_secrets(root: Path, given: Mapping[str, str], *, mode: int | None = None, s3_keys: bool = True) -> list[str]:
    """Write missing secrets, and given ones that differ; returns the names of the files written.

    `given` are credentials by the field names of `Credentials`. Files have mode 0400, or 0440 with a group. `mode`, for
    a root that is itself private, replaces both and sets no group. `s3_keys`: also the S3 keys that all roles share.
    Raises OSError.
    """
    files = SecretFiles(root, mode=mode)
    random = Credentials()
    for name, credential, group in _FILES:
        if name.startswith(f"{S3_KEYS}/") and not s3_keys:
            continue
        value = given.get(credential, "").encode() or files.read(name) or getattr(random, credential).encode()
        files.put(name, value, group)
    superuser = files.read(f"{ADMIN}/superuser_password").decode()
    files.put(_SUPERUSER_SQL, superuser_statements(superuser).encode(), POSTGRES_GROUP)
    if not files.read(f"{S3_SECURITY}/{SECURITY}"):
        for file, content in create_security_files(S3_SECURITY_FOLDER, S3_HOST).items():
            files.put(f"{S3_SECURITY}/{file}", content, SEAWEED_GROUP)
    return files.written


def credentials_from(settings: Settings) -> dict[str, str]:
    """The credentials that the settings contain, by the field names of `Credentials`."""
    set_here = settings.model_fields_set & _GIVEN.keys()
    return {_GIVEN[name]: getattr(settings, name).get_secret_value() for name in set_here}


def main() -> None:
    """Create the secrets in the container's volumes."""
    parser = argparse.ArgumentParser(prog="filemill_infra.compose_secrets", description="Create missing secrets.")
    parser.add_argument("--secure", action="store_true", help="also certificates, Kafka users and S3 keys of the roles")
    parser.add_argument("--renew", action="store_true", help="with --secure: replace the certificates and their CA")
    options = parser.parse_args()
    settings = load()
    written = write_secrets(ROOT, credentials_from(settings), s3_keys=not options.secure)
    if options.secure:
        files = SecretFiles(ROOT)
        until = write_secure_secrets(files, settings.s3_bucket, renew=options.renew)
        written += files.written
        print(f"The certificates are valid until {until}.")
    print(f"Written: {', '.join(written)}." if written else "All secrets exist already.")


if __name__ == "__main__":
    main()
