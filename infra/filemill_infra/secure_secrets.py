"""The secrets that docker-compose.secure.yaml adds: certificates, passwords of Kafka's users, S3 keys of the roles.

Each role has a volume of its own with its credentials, so that it cannot read those of others.
"""

import secrets
from collections.abc import Mapping

from filemill.domain.kafka_access import USER_PREFIX, KafkaRole
from filemill_infra.certificates import expires_at, issue
from filemill_infra.embedded.credentials import Credentials
from filemill_infra.kafka_security import as_pkcs8, plain_login
from filemill_infra.s3_policies import S3Key, S3Role, identities
from filemill_infra.secret_files import SecretFiles

CERTIFICATES, KAFKA_SERVER, POSTGRES_SERVER, S3_SERVER = "certificates", "kafka-server", "postgres-server", "s3-server"
SETUP = "role-setup"
KAFKA_ADMIN = f"{USER_PREFIX}admin"
# The groups of the users in the official images.
KAFKA_GROUP = 1000
POSTGRES_GROUP = 999
SEAWEED_GROUP = 1000

# TCP needs TLS; the socket is in the container only.
_HBA = "local all all scram-sha-256\nhostssl all all all scram-sha-256\n"

CA = f"{CERTIFICATES}/ca.pem"
_ADMIN_PASSWORD = f"{SETUP}/kafka_password"
# Containers connect to a service's name, programs on this machine and health checks to loopback.
_HOSTS = {service: (service, "localhost", "127.0.0.1") for service in ("kafka", "postgres", "s3")}


def role_volume(role: KafkaRole | S3Role) -> str:
    """The volume with the credentials of a role."""
    return f"role-{role.value}"


SECURE_VOLUMES = (
    *(CERTIFICATES, KAFKA_SERVER, POSTGRES_SERVER, S3_SERVER),
    *dict.fromkeys(role_volume(role) for role in (*S3Role, *KafkaRole)),
)


def write_secure_secrets(files: SecretFiles, bucket: str, *, renew: bool = False) -> str:
    """Write missing secrets; with `renew`, also new certificates. Returns until when the certificates are valid."""
    if renew or not all(files.read(name) for name in _certificate_files()):
        _write_certificates(files)
    files.put(f"{POSTGRES_SERVER}/pg_hba.conf", _HBA.encode(), POSTGRES_GROUP)
    _write_kafka_passwords(files)
    _write_s3_keys(files, bucket)
    _write_result_key(files)
    return f"{expires_at(files.read(f'{POSTGRES_SERVER}/certificate.pem')):%Y-%m-%d}"


def _certificate_files() -> tuple[str, ...]:
    pairs = (f"{folder}/{file}" for folder in (POSTGRES_SERVER, S3_SERVER) for file in ("certificate.pem", "key.pem"))
    return (*pairs, f"{KAFKA_SERVER}/server.pem", CA)


def _write_certificates(files: SecretFiles) -> None:
    issued = issue(_HOSTS)
    files.remove(CA)  # it is written last: if this process is killed before, the next one writes all files again
    kafka = issued.servers["kafka"]
    files.put(f"{KAFKA_SERVER}/server.pem", as_pkcs8(kafka.key) + kafka.chain, KAFKA_GROUP)
    for server, folder, group in (("postgres", POSTGRES_SERVER, POSTGRES_GROUP), ("s3", S3_SERVER, SEAWEED_GROUP)):
        files.put(f"{folder}/certificate.pem", issued.servers[server].chain, group)
        files.put(f"{folder}/key.pem", issued.servers[server].key, group)
    files.put(CA, issued.authority, public=True)


def _write_kafka_passwords(files: SecretFiles) -> None:
    for role in KafkaRole:
        name = f"{role_volume(role)}/kafka_password"
        password = files.read(name) or _password()
        files.put(name, password)
        files.put(f"{SETUP}/kafka-roles/{role.value}", password)  # setup creates the users
    admin = files.read(_ADMIN_PASSWORD) or _password()
    files.put(_ADMIN_PASSWORD, admin)
    files.put(f"{KAFKA_SERVER}/login", plain_login(KAFKA_ADMIN, admin.decode()).encode(), KAFKA_GROUP)


def _write_s3_keys(files: SecretFiles, bucket: str) -> None:
    keys: Mapping[S3Role, S3Key] = {role: _s3_key(files, role_volume(role)) for role in S3Role}
    files.put(f"{S3_SERVER}/identities.json", identities(keys, bucket), SEAWEED_GROUP)


def _write_result_key(files: SecretFiles) -> None:
    """Processors sign results with it, and the sync checks the signatures."""
    names = [f"{role_volume(role)}/result_key" for role in (KafkaRole.PROCESSOR, KafkaRole.SYNC)]
    key = next(filter(None, map(files.read, names)), b"") or _password()
    for name in names:
        files.put(name, key)


def _s3_key(files: SecretFiles, folder: str) -> S3Key:
    drawn = Credentials()
    values = []
    for file, value in (
        ("access_key_id", drawn.s3_access_key_id),
        ("secret_access_key", drawn.s3_secret_access_key),
    ):
        kept = files.read(f"{folder}/{file}") or value.encode()
        files.put(f"{folder}/{file}", kept)
        values.append(kept.decode())
    return S3Key(*values)


def _password() -> bytes:
    return secrets.token_urlsafe(24).encode()
