"""Environment variables for other programs, and their conversion to settings."""

import pytest

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
