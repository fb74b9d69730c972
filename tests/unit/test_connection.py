"""Environment variables for other programs, and their conversion to settings."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from filemill.config.connection_environment import connection_environment, settings_from
from filemill.config.settings import Settings, load


@pytest.fixture
def settings() -> Settings:
    return load(
        kafka_broker="kafka:9092",
        database_password="of the application",
        database_owner_user="fileowner",
        database_owner_password="of the owner",
        database_superuser_user="root",
        database_superuser_password="of the superuser",
        database_reader_user="filereader",
        database_reader_password="of the reader",
    )


def test_the_variables_can_be_converted_back_to_settings(settings: Settings) -> None:
    again = load(**settings_from(connection_environment(settings, admin=True)))
    connected = [
        name for name in Settings.model_fields if name.startswith(("kafka_broker", "database_", "s3_", "aws_"))
    ]
    assert {name: getattr(again, name) for name in connected} == {name: getattr(settings, name) for name in connected}


def test_administrative_roles_are_included_on_request_only(settings: Settings) -> None:
    variables = connection_environment(settings)
    assert not [value for value in variables.values() if "owner" in value or "superuser" in value]
    assert connection_environment(settings, admin=True)["FILEMILL_DATABASE_OWNER_PASSWORD"] == "of the owner"
    with pytest.raises(ValueError, match="database_owner_user"):
        connection_environment(load(), admin=True)


def test_read_only_replaces_the_applications_role_by_the_readers(settings: Settings) -> None:
    variables = connection_environment(settings, read_only=True)
    assert (variables["PGUSER"], variables["DATABASE_PASSWORD"]) == ("filereader", "of the reader")


def test_tls_and_kafkas_user_are_included_with_the_path_of_the_other_machine(tmp_path: Path) -> None:
    here, there = tmp_path / "here.pem", tmp_path / "there.pem"
    here.touch()
    given = {
        "kafka_security": "sasl_ssl",
        "kafka_user": "filemill-dashboard",
        "kafka_password": "of the user",
        "kafka_ca_bundle": here,
        "database_sslmode": "verify-full",
        "database_ca_bundle": here,
        "s3_endpoint": "https://s3:4566",
        "s3_ca_bundle": here,
    }
    settings = load(kafka_broker="kafka:9092", **given)
    variables = connection_environment(settings)
    again = load(**settings_from(variables))
    assert {name: getattr(again, name) for name in given} == {name: getattr(settings, name) for name in given}

    variables = connection_environment(settings, ca_file=there)
    assert str(here) not in " ".join(variables.values())
    assert variables["FILEMILL_KAFKA_CA_BUNDLE"] == variables["FILEMILL_S3_CA_BUNDLE"] == str(there)
    assert (variables["PGSSLMODE"], variables["PGSSLROOTCERT"]) == ("verify-full", str(there))
    assert variables["AWS_CA_BUNDLE"] == str(there)
    url = sa.make_url(variables["DATABASE_URL"])
    assert url.query == {"sslmode": "verify-full", "sslrootcert": str(there)}


def test_a_stack_without_tls_has_no_variables_of_it(settings: Settings) -> None:
    names = set(connection_environment(settings, ca_file=Path("none.pem")))
    assert not [name for name in names if "SSL" in name or "CA_BUNDLE" in name or "KAFKA_SECURITY" in name]
