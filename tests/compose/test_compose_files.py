"""The configuration of the compose files, as printed by Docker Compose."""

import json
import os
import subprocess
from typing import Any

import pytest

from filemill.domain.kafka_access import KafkaRole
from filemill_infra.compose import CHECKOUT, FILES, HA_FILES, SECURE_FILES
from filemill_infra.compose_secrets import VOLUMES
from filemill_infra.s3_policies import S3Role
from filemill_infra.secure_secrets import SECURE_VOLUMES
from tests.containers import images
from tests.containers.engine import Engine

ROLES = ("dashboard", "relay", "processor", "sync", "monitor", "setup", "jupyter")
ONE_SHOTS = ("secrets", "setup", "env")


@pytest.fixture(scope="module")
def config(docker_engine: Engine) -> dict[str, Any]:
    return compose_config(*FILES)


@pytest.fixture(scope="module")
def secure(docker_engine: Engine) -> dict[str, Any]:
    return compose_config(*SECURE_FILES)


def compose_config(*files: str) -> dict[str, Any]:
    """The complete configuration with all profiles; warnings are errors."""
    argv = ["docker", "compose", *(part for file in files for part in ("-f", file)), "--profile", "*", "config"]
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}
    done = subprocess.run(
        [*argv, "--format", "json"],
        cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_files_have_no_warnings_and_all_services(docker_engine: Engine) -> None:
    assert set(compose_config(*FILES)["services"]) == {"kafka", "postgres", "s3", *ROLES, *ONE_SHOTS}
    brokers = {"kafka", "kafka-2", "kafka-3"}
    assert set(compose_config(*HA_FILES)["services"]) == {*brokers, "postgres", "s3", *ROLES, *ONE_SHOTS}
    assert set(compose_config(*SECURE_FILES)["services"]) == {"kafka", "postgres", "s3", *ROLES, *ONE_SHOTS}


def test_the_servers_use_the_tested_versions_of_the_official_images(config: dict[str, Any]) -> None:
    named = {name: config["services"][name]["image"] for name in ("kafka", "postgres", "s3")}
    assert named == {"kafka": images.KAFKA, "postgres": images.POSTGRES, "s3": images.S3}


def test_ports_are_published_on_loopback_only(config: dict[str, Any]) -> None:
    ports = [port for service in config["services"].values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert {port["published"] for port in ports} == {
        *("8501", "3004", "3006", "29092", "5432", "4566", "8888"),
    }


def test_every_service_has_a_restart_policy_and_a_size_limit_of_logs(config: dict[str, Any]) -> None:
    for name, service in config["services"].items():
        assert service["restart"] == ("no" if name in ONE_SHOTS else "unless-stopped"), name
        assert service["logging"]["options"]["max-size"] == "10m", name


def test_roles_wait_for_their_dependencies(config: dict[str, Any]) -> None:
    for role in set(ROLES) - {"setup"}:
        needs = {name: need["condition"] for name, need in config["services"][role]["depends_on"].items()}
        assert needs["setup"] == "service_completed_successfully", role
        assert {needs[name] for name in ("kafka", "postgres", "s3")} == {"service_healthy"}, role


def test_every_role_has_minimal_privileges(config: dict[str, Any]) -> None:
    for role in {*ROLES, *ONE_SHOTS}:
        service = config["services"][role]
        assert service["read_only"], role
        assert service["cap_drop"] == ["ALL"], role
        assert service["security_opt"] == ["no-new-privileges:true"], role


def test_a_processor_has_resource_limits_and_no_access_to_the_database(config: dict[str, Any]) -> None:
    processor = config["services"]["processor"]
    assert processor["deploy"]["replicas"] == 2
    assert processor["deploy"]["resources"]["limits"] == {"cpus": 1.0, "memory": "536870912"}
    assert not [name for name in processor["environment"] if "DATABASE" in name]
    assert set(processor["networks"]) == {"pipeline", "storage"}
    assert set(config["services"]["postgres"]["networks"]) == {"database"}


def test_no_password_is_in_the_files_and_each_service_has_only_its_secrets(config: dict[str, Any]) -> None:
    readers: dict[str, set[str]] = {volume: set() for volume in VOLUMES}
    for name, service in config["services"].items():
        for variable, value in service.get("environment", {}).items():
            secret = variable.endswith(("PASSWORD", "ACCESS_KEY", "ACCESS_KEY_ID"))
            assert not (secret and value), f"{name}: {variable}"
        for volume in service.get("volumes", []):
            if volume["source"] in readers:
                readers[volume["source"]].add(name)
                assert volume.get("read_only", False) is (name != "secrets"), name
    assert readers == {
        "database-admin": {"secrets", "env", "postgres", "setup"},
        "database": {"secrets", "env", "setup", "dashboard", "relay", "sync", "monitor", "jupyter"},
        "s3-keys": {"secrets", "env", "s3", "setup", "dashboard", "processor", "sync", "jupyter"},
        "s3-security": {"secrets", "s3"},
    }


def test_in_the_secure_file_each_role_has_only_its_own_credentials(secure: dict[str, Any]) -> None:
    readers: dict[str, set[str]] = {volume: set() for volume in (*VOLUMES, *SECURE_VOLUMES)}
    for name, service in secure["services"].items():
        for volume in service.get("volumes", []):
            if volume["source"] in readers:
                readers[volume["source"]].add(name)
                assert volume.get("read_only", False) is (name != "secrets"), name
    clients = {"setup", "dashboard", "relay", "processor", "sync", "monitor", "jupyter", "env"}
    assert readers.pop("certificates") == {"secrets", "s3", *clients}
    assert readers.pop("database") == {"secrets", *clients} - {"processor"}
    assert readers.pop("database-admin") == {"secrets", "env", "postgres", "setup"}
    assert readers.pop("s3-security") == {"secrets", "s3"}
    assert readers.pop("s3-keys") == set()
    for server in ("kafka", "postgres", "s3"):
        assert readers.pop(f"{server}-server") == {"secrets", server}
    assert readers.pop("role-dashboard") == {"secrets", "dashboard", "jupyter", "env"}
    others = {role.value for role in (*S3Role, *KafkaRole)} - {"dashboard"}
    assert readers == {f"role-{role}": {"secrets", role} for role in others}


def test_in_the_secure_file_every_client_uses_tls_and_its_own_user(secure: dict[str, Any]) -> None:
    for role in (*KafkaRole, "setup"):
        given = secure["services"][str(role)]["environment"]
        assert given["FILEMILL_KAFKA_SECURITY"] == "sasl_ssl", role
        assert given["FILEMILL_KAFKA_USER"] == ("filemill-admin" if role == "setup" else f"filemill-{role}")
        assert given["FILEMILL_KAFKA_PASSWORD_FILE"] == f"/secrets/role-{role}/kafka_password"
        if "FILEMILL_DATABASE_HOST" in given:
            assert given["FILEMILL_DATABASE_SSLMODE"] == "verify-full", role
        if "FILEMILL_S3_ENDPOINT" in given:
            assert given["FILEMILL_S3_ENDPOINT"] == "https://s3:4566", role
            assert given["FILEMILL_AWS_ACCESS_KEY_ID_FILE"] == f"/secrets/role-{role}/access_key_id"
        files = {value for name, value in given.items() if name.endswith(("_FILE", "_BUNDLE", "_PASSWORDS"))}
        mounted = {volume["target"] for volume in secure["services"][str(role)]["volumes"]}
        assert [value for value in files if value.rpartition("/")[0] not in mounted] == [], role


def test_in_the_secure_file_the_page_needs_a_sign_in(secure: dict[str, Any]) -> None:
    given = secure["services"]["dashboard"]["environment"]
    assert given["FILEMILL_AUTH"] == "accounts"
    assert not given.get("FILEMILL_ALLOW_INSECURE")
    assert secure["name"] == "filemill-secure"


def test_the_image_has_a_folder_for_each_volume_of_secrets() -> None:
    """Docker copies the owner of the folder to a new volume; another owner could not write to it."""
    created = (CHECKOUT / "infra/images/Dockerfile").read_text()
    assert [volume for volume in (*VOLUMES, *SECURE_VOLUMES) if f"secrets/{volume}" not in created] == []


def test_only_clients_of_s3_are_in_its_network(config: dict[str, Any]) -> None:
    connected = {name for name, service in config["services"].items() if "storage" in (service.get("networks") or {})}
    assert connected == {"s3", "setup", "dashboard", "processor", "sync", "jupyter"}
    assert {config["services"][name].get("network_mode") for name in ("secrets", "env")} == {"none"}


def test_three_brokers_have_three_replicas_and_write_with_two(docker_engine: Engine) -> None:
    services = compose_config(*HA_FILES)["services"]
    brokers = [services[name]["environment"] for name in ("kafka", "kafka-2", "kafka-3")]
    assert [broker["KAFKA_NODE_ID"] for broker in brokers] == ["1", "2", "3"]
    assert {broker["KAFKA_MIN_INSYNC_REPLICAS"] for broker in brokers} == {"2"}
    assert services["setup"]["environment"]["FILEMILL_TOPIC_REPLICATION_FACTOR"] == "3"
    assert len({volume["source"] for name in services for volume in services[name].get("volumes", [])}) == 10


def test_the_example_file_has_every_setting_with_its_default() -> None:
    listed = dict(
        line.removeprefix("#").split("=", 1)
        for line in (CHECKOUT / ".env.example").read_text().splitlines()
        if line.startswith("#") and not line.startswith("# ")
    )
    used = {}
    for file in HA_FILES:
        for part in (CHECKOUT / file).read_text().split("${")[1:]:
            name, _, default = part.partition("}")[0].partition(":-")
            used[name] = default
    undocumented = {"FILEMILL_IMAGE", "FILEMILL_LAB_IMAGE", "KAFKA_HEAP_OPTS"}
    assert listed == {name: default for name, default in used.items() if name not in undocumented}
