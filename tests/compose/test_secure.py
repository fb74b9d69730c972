"""docker-compose.secure.yaml: TLS between the parts, and each part has only the rights that it needs."""

import functools
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import httpx
import psycopg
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError, SSLError
from confluent_kafka import KafkaError
from psycopg.errors import InsufficientPrivilege

from filemill.config.settings import Settings, load
from filemill.domain.kafka_access import KafkaRole
from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable
from filemill_infra.certificates import issue
from filemill_infra.s3_policies import S3Role
from tests.compose.stack import SETTLE_SECONDS, Stack, fetch_ca
from tests.integration.kafka_role_client import KafkaRoleClient
from tests.integration.processes import wait_until

SECONDS = 10
# What each service sees of /secrets.
MOUNTED = {
    "dashboard": {"certificates", "database", "role-dashboard"},
    "relay": {"certificates", "database", "role-relay"},
    "processor": {"certificates", "role-processor"},
    "sync": {"certificates", "database", "role-sync"},
    "monitor": {"certificates", "database", "role-monitor"},
}
TOPIC, CLUSTER = KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED
REQUESTS, RESULTS, COMMANDS = "file.create", "file.created", "worker.commands"
# Operations of Kafka that a role must not do, with the broker's error.
FORBIDDEN_IN_KAFKA: list[tuple[KafkaRole, str, tuple[str, ...], int]] = [
    (KafkaRole.PROCESSOR, "write", (REQUESTS,), TOPIC),
    (KafkaRole.PROCESSOR, "write", (COMMANDS,), TOPIC),
    (KafkaRole.PROCESSOR, "read", (RESULTS,), TOPIC),
    (KafkaRole.PROCESSOR, "delete", (REQUESTS,), TOPIC),
    (KafkaRole.SYNC, "write", (RESULTS,), TOPIC),
    (KafkaRole.SYNC, "write", (REQUESTS,), TOPIC),
    (KafkaRole.RELAY, "write", (RESULTS,), TOPIC),
    (KafkaRole.RELAY, "write", (COMMANDS,), TOPIC),
    (KafkaRole.RELAY, "configure", (REQUESTS,), TOPIC),
    (KafkaRole.MONITOR, "write", (REQUESTS,), TOPIC),
    (KafkaRole.MONITOR, "read", (REQUESTS,), TOPIC),
    (KafkaRole.MONITOR, "add_partitions", (REQUESTS,), TOPIC),
    (KafkaRole.DASHBOARD, "write", (RESULTS,), TOPIC),
    (KafkaRole.DASHBOARD, "delete", (REQUESTS,), TOPIC),
    (KafkaRole.DASHBOARD, "delete_records", (REQUESTS,), TOPIC),
    (KafkaRole.DASHBOARD, "create", ("another",), TOPIC),
    (KafkaRole.DASHBOARD, "delete_user", ("filemill-processor",), CLUSTER),
]
S3_CALLS: dict[str, Callable[[Any, str], object]] = {
    "put": lambda s3, bucket: s3.put_object(Bucket=bucket, Key="by-a-test", Body=b"x"),
    "get": lambda s3, bucket: s3.get_object(Bucket=bucket, Key="by-a-test"),
    "delete": lambda s3, bucket: s3.delete_object(Bucket=bucket, Key="by-a-test"),
    "list": lambda s3, bucket: s3.list_objects_v2(Bucket=bucket),
    "create a bucket": lambda s3, _: s3.create_bucket(Bucket="another-bucket"),
    "delete the bucket": lambda s3, bucket: s3.delete_bucket(Bucket=bucket),
    "make it public": lambda s3, bucket: s3.put_bucket_acl(Bucket=bucket, ACL="public-read"),
}
ALLOWED_IN_S3 = {
    S3Role.PROCESSOR: {"put", "get"},
    S3Role.SYNC: {"get"},
    S3Role.DASHBOARD: {"get", "delete", "list"},
}


@pytest.fixture(scope="module")
def ca(secure_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fetch_ca(secure_stack.compose, tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def other_ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("other") / "ca.pem"
    file.write_bytes(issue({}).authority)
    return file


def secret_of(stack: Stack, service: str, file: str) -> str:
    """A secret as its service reads it."""
    return stack.compose.execute(service, "cat", f"/secrets/{file}")


def test_thirty_files_are_processed_over_tls(secure_stack: Stack) -> None:
    found = secure_stack.compose.containers()
    assert {one.health for one in found if one.state == "running"} == {"healthy"}
    secure_stack.assert_nothing_lost(secure_stack.submit(30))
    report = json.loads(secure_stack.compose.execute("dashboard", "filemill", "verify", "--json"))
    assert report["ok"]
    assert report["completed"] >= 30
    logs = secure_stack.compose.logs("dashboard", "relay", "processor", "sync", "monitor", "setup")
    assert [line for line in logs.splitlines() if "AUTHORIZATION" in line.upper() or "AccessDenied" in line] == []


def test_the_page_needs_an_account(secure_stack: Stack) -> None:
    assert httpx.get(f"{secure_stack.page}/api/files", timeout=20).status_code == 401
    assert httpx.get(f"{secure_stack.page}/healthz", timeout=20).status_code == 200
    signed_in = httpx.get(f"{secure_stack.page}/api/files", headers=secure_stack.headers, timeout=20)
    assert signed_in.status_code == 200


@pytest.mark.parametrize("service", MOUNTED)
def test_a_service_sees_only_its_own_secrets(secure_stack: Stack, service: str) -> None:
    # The folders of other volumes exist in the image, empty.
    listed = secure_stack.compose.execute(service, "sh", "-c", "cd /secrets && ls -1 -d */*").split()
    assert {name.split("/")[0] for name in listed} == MOUNTED[service]


def test_no_secret_is_in_the_description_of_a_container(secure_stack: Stack) -> None:
    secrets = [
        secret_of(secure_stack, "dashboard", "role-dashboard/kafka_password"),
        secret_of(secure_stack, "processor", "role-processor/secret_access_key"),
        secret_of(secure_stack, "relay", "database/password"),
    ]
    for container in secure_stack.compose.containers():
        described = secure_stack.compose.docker("inspect", container.id)
        assert not [secret for secret in secrets if secret in described], container.name
        assert "PRIVATE KEY" not in described


# --- Kafka


@functools.cache
def kafka_properties(stack: Stack, ca: Path, role: KafkaRole) -> dict[str, str]:
    return {
        "bootstrap.servers": stack.harness.settings.kafka_broker,
        "security.protocol": "SASL_SSL",
        "ssl.ca.location": str(ca),
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": role.user,
        "sasl.password": secret_of(stack, role.value, f"role-{role.value}/kafka_password"),
    }


@pytest.mark.parametrize(
    ("role", "operation", "names", "error"),
    FORBIDDEN_IN_KAFKA,
    ids=lambda part: str(part.value if isinstance(part, KafkaRole) else part),
)
def test_a_forbidden_operation_of_kafka_is_refused(
    secure_stack: Stack, ca: Path, role: KafkaRole, operation: str, names: tuple[str, ...], error: int
) -> None:
    client = KafkaRoleClient(kafka_properties(secure_stack, ca, role))
    refusal = getattr(client, operation)(*names)
    assert refusal is not None
    assert refusal.code() == error, refusal


def test_a_permitted_operation_of_kafka_is_done(secure_stack: Stack, ca: Path) -> None:
    """The tests above would also pass if the credentials were wrong."""
    for role, topic in ((KafkaRole.PROCESSOR, REQUESTS), (KafkaRole.SYNC, RESULTS), (KafkaRole.DASHBOARD, COMMANDS)):
        if role is KafkaRole.DASHBOARD:
            assert KafkaRoleClient(kafka_properties(secure_stack, ca, role)).write(topic) is None
        else:
            assert KafkaRoleClient(kafka_properties(secure_stack, ca, role)).read(topic) is None


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"kafka_security": "plaintext", "kafka_user": "", "kafka_ca_bundle": None}, "kafka-unreachable"),
        ({"kafka_security": "ssl", "kafka_user": ""}, "kafka-unreachable"),
        # "unreachable" if the time-out comes before the client has reported the failed handshake.
        ({"kafka_ca_bundle": "another"}, "kafka-tls kafka-unreachable"),
    ],
    ids=["plaintext", "no user", "another CA"],
)
def test_kafka_refuses_a_client_without_tls_or_a_user(
    secure_stack: Stack, other_ca: Path, changes: dict[str, Any], codes: str
) -> None:
    settings = changed(secure_stack.harness.settings, other_ca, server_timeout_seconds=3, **changes)
    with pytest.raises(Unavailable) as caught:
        bootstrap.kafka_admin(settings).identities([REQUESTS])
    assert caught.value.code in codes.split(), caught.value


def changed(settings: Settings, other_ca: Path, **changes: Any) -> Settings:
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    replaced = {name: other_ca if value == "another" else value for name, value in changes.items()}
    return load(**{**given, **replaced})


# --- PostgreSQL


def connect(settings: Settings, ca: Path, **changes: Any) -> "psycopg.Connection[tuple[Any, ...]]":
    parameters = {
        "host": settings.database_host,
        "port": settings.database_port,
        "dbname": settings.database_name,
        "user": settings.database_user,
        "password": settings.database_password.get_secret_value(),
        "sslmode": "verify-full",
        "sslrootcert": str(ca),
        "connect_timeout": SECONDS,
    }
    return psycopg.connect(**{**parameters, **changes})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sslmode": "disable"}, "no encryption"),
        ({"sslrootcert": "another"}, "certificate verify failed"),
        ({"host": "127.0.0.2"}, "does not match host name|Connection refused"),
        ({"password": "guessed"}, "password authentication failed"),
        ({"user": "filemill_superuser"}, "password authentication failed"),
        ({"user": "postgres", "password": ""}, "no password supplied|password authentication failed"),
    ],
    ids=["plain TCP", "another CA", "another name", "password", "superuser", "no password"],
)
def test_postgresql_refuses_a_client_without_tls_or_credentials(
    secure_stack: Stack, ca: Path, other_ca: Path, changes: dict[str, str], problem: str
) -> None:
    given = {name: str(other_ca) if value == "another" else value for name, value in changes.items()}
    with pytest.raises(psycopg.OperationalError, match=problem):
        connect(secure_stack.harness.settings, ca, **given)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE made_by_a_test (id int)",
        "DROP TABLE files",
        "UPDATE operations SET actor = 'another'",
        "CREATE ROLE made_by_a_test",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('/secrets/postgres-server/key.pem')",
    ],
)
def test_the_application_role_cannot_change_the_schema_or_the_server(
    secure_stack: Stack, ca: Path, statement: str
) -> None:
    with connect(secure_stack.harness.settings, ca) as connection, pytest.raises(InsufficientPrivilege):
        connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO files (title) VALUES ('by the reader')",
        "DELETE FROM files",
        "SELECT * FROM sessions",
        "CREATE TABLE made_by_a_test (id int)",
    ],
)
def test_the_reader_cannot_write(secure_stack: Stack, ca: Path, statement: str) -> None:
    settings = secure_stack.harness.settings
    reader = {"user": "filereader", "password": secret_of(secure_stack, "monitor", "database/reader_password")}
    with connect(settings, ca, **reader) as connection:
        assert connection.execute("SELECT count(*) FROM files").fetchone() is not None
        with pytest.raises(InsufficientPrivilege):
            connection.execute(statement)


def test_connections_are_encrypted_and_no_role_is_a_superuser(secure_stack: Stack, ca: Path) -> None:
    with connect(secure_stack.harness.settings, ca) as connection:
        superusers = connection.execute("SELECT rolname FROM pg_roles WHERE rolsuper").fetchall()
        assert superusers == [("filemill_superuser",)]
        row = connection.execute("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
        assert row == (True, "TLSv1.3")


# --- S3


def s3_client(settings: Settings, ca: Path, key: str, secret: str, *, signed: bool = True) -> Any:
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, connect_timeout=SECONDS)
    return boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        verify=str(ca),
        config=config if signed else config.merge(Config(signature_version=UNSIGNED)),
    )


def s3_of(stack: Stack, ca: Path, role: S3Role) -> Any:
    files = (f"role-{role.value}/access_key_id", f"role-{role.value}/secret_access_key")
    return s3_client(stack.harness.settings, ca, *(secret_of(stack, role.value, file) for file in files))


def test_each_role_can_do_only_what_it_needs_in_s3(secure_stack: Stack, ca: Path) -> None:
    bucket = secure_stack.harness.settings.s3_bucket
    # In this order, so that the object exists while it is read, and is deleted at the end.
    for role in (S3Role.PROCESSOR, S3Role.SYNC, S3Role.DASHBOARD):
        client = s3_of(secure_stack, ca, role)
        for name, call in S3_CALLS.items():
            assert s3_error(lambda call=call, client=client: call(client, bucket)) == (  # type: ignore[misc]
                None if name in ALLOWED_IN_S3[role] else "AccessDenied"
            ), (role, name)


def test_s3_refuses_unknown_keys_unsigned_requests_and_plain_http(
    secure_stack: Stack, ca: Path, other_ca: Path
) -> None:
    settings, bucket = secure_stack.harness.settings, secure_stack.harness.settings.s3_bucket
    key, secret = settings.aws_access_key_id.get_secret_value(), settings.aws_secret_access_key.get_secret_value()
    list_objects = S3_CALLS["list"]
    assert s3_error(lambda: list_objects(s3_client(settings, ca, key, secret), bucket)) is None
    assert s3_error(lambda: list_objects(s3_client(settings, ca, "test", "test"), bucket)) == "InvalidAccessKeyId"
    assert s3_error(lambda: list_objects(s3_client(settings, ca, key, "guessed"), bucket)) == "SignatureDoesNotMatch"
    unsigned = s3_client(settings, ca, key, secret, signed=False)
    assert s3_error(lambda: list_objects(unsigned, bucket)) == "AccessDenied"
    with pytest.raises(SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        list_objects(s3_client(settings, other_ca, key, secret), bucket)
    plain = httpx.get(settings.s3_endpoint.replace("https://", "http://"), timeout=SECONDS)
    assert (plain.status_code, plain.text.strip()) == (400, "Client sent an HTTP request to an HTTPS server.")


def s3_error(call: Callable[[], object]) -> str | None:
    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return None


# --- faults


def test_a_killed_processor_and_a_restarted_broker_lose_nothing(secure_stack: Stack) -> None:
    with secure_stack.load() as accepted:
        wait_until(lambda: len(accepted) >= 10, SETTLE_SECONDS, "there is load")
        secure_stack.compose.kill(secure_stack.processors()[0])
        secure_stack.compose.restart("kafka")
        before = len(accepted)
        wait_until(lambda: len(accepted) >= before + 20, SETTLE_SECONDS, "requests are accepted after the restart")
    secure_stack.compose.scale("processor", 2)
    secure_stack.assert_nothing_lost(list(accepted), SETTLE_SECONDS * 2)


def test_renewed_certificates_are_used_after_a_restart(secure_stack: Stack, tmp_path: Path) -> None:
    former = fetch_ca(secure_stack.compose, tmp_path).read_text()
    said = secure_stack.compose.run("run", "--rm", "--no-TTY", "secrets", "--secure", "--renew")
    assert "The certificates are valid until" in said
    renewed = fetch_ca(secure_stack.compose, tmp_path)
    assert renewed.read_text() != former
    secure_stack.compose.restart()
    secure_stack.wait_until_healthy()
    ids = secure_stack.submit(3, "After the renewal")
    context = ssl.create_default_context(cafile=str(renewed))
    url = f"{secure_stack.page}/api/files/{ids[-1]}"
    wait_until(
        lambda: httpx.get(url, headers=secure_stack.headers, timeout=20).json()["status"] == "completed",
        SETTLE_SECONDS,
        "the file is completed",
    )
    assert httpx.get(f"{secure_stack.harness.settings.s3_endpoint}/healthz", verify=context, timeout=20).is_success
