"""The secrets of docker-compose.secure.yaml: created once, a volume for each role, renewable certificates."""

import json
import os
from pathlib import Path

import pytest
from cryptography import x509

from filemill.domain.kafka_access import KafkaRole
from filemill.domain.signatures import RESULT_KEY_MIN_CHARACTERS
from filemill_infra import secure_secrets
from filemill_infra.kafka_security import plain_login
from filemill_infra.s3_policies import S3Role
from filemill_infra.secret_files import SecretFiles
from filemill_infra.secure_secrets import CA, SECURE_VOLUMES, role_volume, write_secure_secrets

BUCKET = "some-bucket"
CERTIFICATES = {
    "certificates/ca.pem",
    "kafka-server/server.pem",
    *(f"{server}/{file}.pem" for server in ("postgres-server", "s3-server") for file in ("certificate", "key")),
}


@pytest.fixture(autouse=True)
def _own_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use groups of this process, because only they can be set."""
    for name in ("KAFKA_GROUP", "POSTGRES_GROUP", "SEAWEED_GROUP"):
        monkeypatch.setattr(secure_secrets, name, os.getgid())


def write(root: Path, *, renew: bool = False) -> list[str]:
    files = SecretFiles(root)
    write_secure_secrets(files, BUCKET, renew=renew)
    return files.written


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_they_are_created_once_and_differ_between_stacks(tmp_path: Path) -> None:
    assert {name.split("/")[0] for name in write(tmp_path / "one")} == set(SECURE_VOLUMES)
    first = contents(tmp_path / "one")
    assert write(tmp_path / "one") == []
    assert contents(tmp_path / "one") == first
    write(tmp_path / "other")
    other = contents(tmp_path / "other")
    assert [name for name in first if first[name] == other[name]] == ["postgres-server/pg_hba.conf"]


def test_renewal_replaces_the_certificates_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path)
    before = contents(tmp_path)
    assert set(write(tmp_path, renew=True)) == CERTIFICATES
    after = contents(tmp_path)
    assert {name for name in after if after[name] != before[name]} == CERTIFICATES
    authority = x509.load_pem_x509_certificate(after[CA])
    for name in ("kafka-server/server.pem", "postgres-server/certificate.pem", "s3-server/certificate.pem"):
        x509.load_pem_x509_certificate(after[name]).verify_directly_issued_by(authority)


def test_certificates_of_an_interrupted_renewal_are_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)

    class Killed(SecretFiles):
        def put(self, name: str, content: bytes, group: int | None = None, *, public: bool = False) -> None:
            if name == "s3-server/key.pem":
                raise KeyboardInterrupt
            super().put(name, content, group, public=public)

    with pytest.raises(KeyboardInterrupt):
        write_secure_secrets(Killed(tmp_path), BUCKET, renew=True)
    assert set(write(tmp_path)) == CERTIFICATES
    assert write(tmp_path) == []


def test_a_role_has_its_own_credentials_and_setup_has_kafkas(tmp_path: Path) -> None:
    write(tmp_path)
    found = contents(tmp_path)
    for role in KafkaRole:
        assert found[f"role-setup/kafka-roles/{role.value}"] == found[f"{role_volume(role)}/kafka_password"]
    passwords = [found[f"{role_volume(role)}/kafka_password"] for role in KafkaRole]
    assert len(set(passwords)) == len(KafkaRole)
    admin = found["role-setup/kafka_password"].decode()
    assert found["kafka-server/login"].decode() == plain_login("filemill-admin", admin)
    key = found["role-processor/result_key"]
    assert len(key) >= RESULT_KEY_MIN_CHARACTERS
    assert found["role-sync/result_key"] == key
    assert {name for name in found if name.endswith("/result_key")} == {
        "role-processor/result_key",
        "role-sync/result_key",
    }
    for role in (KafkaRole.RELAY, KafkaRole.MONITOR):  # they use no S3
        assert [name for name in found if name.startswith(f"{role_volume(role)}/")] == [
            f"{role_volume(role)}/kafka_password"
        ]


def test_the_s3_service_knows_the_keys_of_all_roles_with_their_policies(tmp_path: Path) -> None:
    write(tmp_path)
    found = contents(tmp_path)
    document = json.loads(found["s3-server/identities.json"])
    assert [one["name"] for one in document["identities"]] == [role.value for role in S3Role]
    for one in document["identities"]:
        (key,) = one["credentials"]
        assert key["accessKey"].encode() == found[f"role-{one['name']}/access_key_id"]
        assert key["secretKey"].encode() == found[f"role-{one['name']}/secret_access_key"]
        assert one["policyNames"] == [one["name"]]
    policies = {one["name"]: json.loads(one["content"]) for one in document["policies"]}
    granted = {
        (role, action, resource.partition(":::")[2])
        for role, policy in policies.items()
        for statement in policy["Statement"]
        for action in statement["Action"]
        for resource in statement["Resource"]
    }
    assert ("processor", "s3:PutObject", f"{BUCKET}/*") in granted
    assert [one for one in granted if one[0] == "sync"] == [("sync", "s3:GetObject", f"{BUCKET}/*")]
    assert {resource for _, action, resource in granted if action == "s3:DeleteObject"} == {
        f"{BUCKET}/filemill-first-object",  # setup
        f"{BUCKET}/*",  # dashboard
        f"{BUCKET}/file-*.checkpoint",  # processor
    }


def test_only_their_services_can_read_the_files(tmp_path: Path) -> None:
    write(tmp_path)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in contents(tmp_path)}
    assert [name for name, mode in modes.items() if mode == 0o444] == [CA]
    assert {name.split("/")[0] for name, mode in modes.items() if mode == 0o440} == {
        *("kafka-server", "postgres-server", "s3-server"),
    }
    assert {mode for name, mode in modes.items() if name.startswith("role-")} == {0o400}


def test_a_password_that_would_end_the_login_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match="quotes"):
        plain_login("user", 'a"; user_other="b')
