"""Settings: their sources, their validation, and the protection of secrets."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from filemill.config.settings import InvalidSettings, Settings, default_home, load
from filemill.runtime.stack_state import ProcessRef, StackState, write_state

SECRET = "hunter2-the-secret"

Environment = Callable[..., None]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a stack, and an environment without settings."""
    prefixes = ("KAFKA_", "DATABASE_", "S3_", "AWS_", "FILEMILL_")
    for name in [name for name in os.environ if name.startswith(prefixes)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FILEMILL_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    def put(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


def _stack(home: Path, **settings: str | int | float) -> None:
    write_state(
        StackState(
            home=str(home),
            supervisor=ProcessRef.of(os.getpid()),
            started_at="2026-01-04T12:00:00+00:00",
            settings=settings,
            servers=[],
            workers=[],
        )
    )


# --- precedence


def test_the_stacks_owner_role_is_used_for_its_own_server_only(home: Path) -> None:
    _stack(home, database_host="127.0.0.1", database_owner_user="owner", database_owner_password="p")
    assert load(database_name="another").as_owner().database_user == "owner"
    assert load(database_host="127.0.0.1").as_owner().database_user == "owner"
    assert load().as_owner().database_password.get_secret_value() == "p"
    for elsewhere in ({"database_host": "db"}, {"database_port": 5433}, {"database_user": "me"}):
        settings = load(**elsewhere)
        assert settings.as_owner() == settings


def test_a_secret_is_read_from_a_file_unless_it_is_set(tmp_path: Path, environment: Environment) -> None:
    file = tmp_path / "secret"
    file.write_text(" from the file\n")
    environment(FILEMILL_DATABASE_PASSWORD_FILE=str(file))
    assert load().database_password.get_secret_value() == "from the file"
    environment(DATABASE_PASSWORD="given")
    assert load().database_password.get_secret_value() == "given"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"x" * 5000, b"\xff"])
def test_an_unusable_secrets_file_is_an_error_that_names_it(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidSettings, match=re.escape(str(file))):
        load(aws_secret_access_key_file=file)


def test_the_defaults_are_those_of_the_reference_design() -> None:
    settings = load()
    assert settings.kafka_broker == "127.0.0.1:29092"
    assert settings.kafka_group == "file-service-group"
    assert (settings.database_port, settings.database_name, settings.database_user) == (5432, "filedb", "fileuser")
    assert (settings.s3_endpoint, settings.s3_bucket) == ("http://127.0.0.1:4566", "file-creation-bucket")
    assert (settings.topic_create, settings.topic_created) == ("file.create", "file.created")
    assert (settings.topic_partitions, settings.topic_retention_days) == (3, 7)
    assert (settings.processing_seconds, settings.processing_steps) == (60.0, 6)


def test_sources_have_an_order_of_precedence(home: Path, environment: Environment) -> None:
    assert load().kafka_broker == "127.0.0.1:29092"
    _stack(home, kafka_broker="stack:1")
    assert load().kafka_broker == "stack:1"
    environment(KAFKA_BROKER="reference:1")
    assert load().kafka_broker == "reference:1"
    environment(FILEMILL_KAFKA_BROKER="own:1")
    assert load().kafka_broker == "own:1"
    assert load(kafka_broker="argument:1").kafka_broker == "argument:1"
    assert load(kafka_broker=None).kafka_broker == "own:1", "an option that was not given has no effect"


@pytest.mark.parametrize(
    ("variable", "field", "value"),
    [
        ("KAFKA_BROKER", "kafka_broker", "kafka:9092"),
        ("DATABASE_HOST", "database_host", "postgres-db"),
        ("DATABASE_PORT", "database_port", 5433),
        ("DATABASE_USER", "database_user", "u"),
        ("DATABASE_PASSWORD", "database_password", SecretStr("p")),
        ("DATABASE_NAME", "database_name", "n"),
        ("S3_ENDPOINT", "s3_endpoint", "http://localstack-s3:4566"),
        ("S3_REGION", "s3_region", "eu-west-1"),
        ("AWS_REGION", "s3_region", "eu-west-1"),
        ("AWS_ACCESS_KEY_ID", "aws_access_key_id", SecretStr("k")),
        ("AWS_SECRET_ACCESS_KEY", "aws_secret_access_key", SecretStr("s")),
    ],
)
def test_the_variables_of_the_reference_design_work(
    environment: Environment, variable: str, field: str, value: object
) -> None:
    environment(**{variable: value.get_secret_value() if isinstance(value, SecretStr) else str(value)})
    assert getattr(load(), field) == value


def test_an_empty_variable_has_no_effect(home: Path, environment: Environment) -> None:
    environment(KAFKA_BROKER="", FILEMILL_KAFKA_BROKER="", FILEMILL_PORT="")
    assert load().kafka_broker == "127.0.0.1:29092"
    assert load().port == 8501


def test_the_home_determines_the_stack(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    _stack(other, kafka_broker="other:1")
    assert load().kafka_broker == "127.0.0.1:29092"
    assert load(home=other).kafka_broker == "other:1"


def test_a_crashed_stack_is_not_used(home: Path) -> None:
    _stack(home, kafka_broker="stack:1")
    state = json.loads((home / "stack.json").read_text())
    state["supervisor"]["created"] -= 1000
    (home / "stack.json").write_text(json.dumps(state))
    assert load().kafka_broker == "127.0.0.1:29092"


def test_the_home_is_set_by_a_variable_or_in_the_checkout(
    home: Path, monkeypatch: pytest.MonkeyPatch, environment: Environment
) -> None:
    assert default_home() == home
    assert load().home == home
    environment(FILEMILL_HOME="~/somewhere")
    assert default_home() == Path.home() / "somewhere"
    monkeypatch.delenv("FILEMILL_HOME")
    assert default_home().name == ".filemill"
    assert (default_home().parent / "pyproject.toml").is_file()


def test_the_default_worker_id_contains_the_process_id() -> None:
    assert str(os.getpid()) in load().worker_id
    assert load(worker_id="worker-7").worker_id == "worker-7"


def test_librdkafka_properties_are_json(environment: Environment) -> None:
    environment(FILEMILL_KAFKA_PROPERTIES='{"security.protocol": "SASL_SSL"}')
    assert load().kafka_properties == {"security.protocol": "SASL_SSL"}


def test_a_trailing_slash_of_the_endpoint_is_removed() -> None:
    assert load(s3_endpoint="http://s3:4566/").s3_endpoint == "http://s3:4566"


# --- validation


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("FILEMILL_DATABASE_PORT", "abc", "FILEMILL_DATABASE_PORT"),
        ("FILEMILL_DATABASE_PORT", "0", "FILEMILL_DATABASE_PORT"),
        ("FILEMILL_DATABASE_PORT", "65536", "FILEMILL_DATABASE_PORT"),
        ("DATABASE_PORT", "abc", "DATABASE_PORT"),
        ("FILEMILL_PORT", "-1", "FILEMILL_PORT"),
        ("FILEMILL_S3_ENDPOINT", "s3:4566", "FILEMILL_S3_ENDPOINT"),
        ("S3_ENDPOINT", "ftp://s3", "S3_ENDPOINT"),
        ("FILEMILL_PROCESSING_SECONDS", "-1", "FILEMILL_PROCESSING_SECONDS"),
        ("FILEMILL_PROCESSING_SECONDS", "nan", "FILEMILL_PROCESSING_SECONDS"),
        ("FILEMILL_PROCESSING_STEPS", "0", "FILEMILL_PROCESSING_STEPS"),
        ("FILEMILL_CONCURRENCY", "0", "FILEMILL_CONCURRENCY"),
        ("FILEMILL_CONCURRENCY", "1.5", "FILEMILL_CONCURRENCY"),
        ("FILEMILL_ORDERING", "sideways", "FILEMILL_ORDERING"),
        ("FILEMILL_GROUP_PROTOCOL", "queue", "FILEMILL_GROUP_PROTOCOL"),
        ("FILEMILL_LEASE_SECONDS", "0", "FILEMILL_LEASE_SECONDS"),
        ("FILEMILL_WORKER_ID", "a" * 201, "FILEMILL_WORKER_ID"),
        ("FILEMILL_WORKER_ID", "wörker", "FILEMILL_WORKER_ID"),
        ("FILEMILL_WORKER_ID", "a\tb", "FILEMILL_WORKER_ID"),
        ("FILEMILL_LOG_LEVEL", "loud", "FILEMILL_LOG_LEVEL"),
        ("FILEMILL_KAFKA_PROPERTIES", "not json", "KAFKA_PROPERTIES"),
        ("FILEMILL_KAFKA_PROPERTIES", '{"a": {"b": 1}}', "FILEMILL_KAFKA_PROPERTIES"),
        ("FILEMILL_KAFKA_PROPERTIES", "[1]", "FILEMILL_KAFKA_PROPERTIES"),
        ("FILEMILL_HEARTBEAT_INTERVAL_MS", "5000", "HEARTBEAT_INTERVAL_MS"),
    ],
)
def test_an_invalid_value_is_rejected_and_its_variable_named(
    environment: Environment, variable: str, value: str, named: str
) -> None:
    environment(**{variable: value})
    with pytest.raises(InvalidSettings) as caught:
        load()
    assert named in str(caught.value).upper()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"concurrency": 0}, "FILEMILL_CONCURRENCY (concurrency): must be 1 or more"),
        ({"concurrency": "many"}, "FILEMILL_CONCURRENCY (concurrency): must be a whole number"),
        ({"ordering": "x"}, "FILEMILL_ORDERING (ordering): must be unordered or partition"),
        ({"processing_seconds": "soon"}, "FILEMILL_PROCESSING_SECONDS (processing_seconds): must be a number"),
        ({"static_membership": "perhaps"}, "FILEMILL_STATIC_MEMBERSHIP (static_membership): must be true or false"),
        ({"port": 65536}, "FILEMILL_PORT (port): must be 65535 or less"),
    ],
)
def test_an_error_says_what_the_value_must_be(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load(**given)
    assert str(caught.value) == sentence


def test_all_errors_are_reported_at_once(environment: Environment) -> None:
    environment(FILEMILL_PORT="x", FILEMILL_DATABASE_PORT="y")
    with pytest.raises(InvalidSettings) as caught:
        load()
    assert "FILEMILL_PORT" in str(caught.value)
    assert "FILEMILL_DATABASE_PORT" in str(caught.value)


def test_settings_are_immutable() -> None:
    settings = load()
    with pytest.raises(Exception, match="frozen"):
        settings.port = 1


# --- secrets

SECRETS = {
    "FILEMILL_DATABASE_PASSWORD": SECRET,
    "FILEMILL_AWS_ACCESS_KEY_ID": SECRET,
    "FILEMILL_AWS_SECRET_ACCESS_KEY": SECRET,
    "FILEMILL_KAFKA_PROPERTIES": json.dumps({"sasl.password": SECRET}),
}


def test_no_secret_is_shown(environment: Environment) -> None:
    environment(**SECRETS)
    settings = load()
    for shown in (repr(settings), str(settings), f"{settings!r}", settings.database_url):
        assert SECRET not in shown
    assert settings.database_password.get_secret_value() == SECRET
    assert settings.kafka_properties == {"sasl.password": SECRET}


@pytest.mark.parametrize(
    "wrong",
    [
        {"FILEMILL_PORT": "x"},
        {"FILEMILL_KAFKA_PROPERTIES": json.dumps({"sasl.password": [SECRET]})},
        {"FILEMILL_KAFKA_PROPERTIES": f'{{"sasl.password": "{SECRET}"'},
    ],
)
def test_no_secret_is_in_an_error(environment: Environment, wrong: dict[str, str]) -> None:
    environment(**{**SECRETS, **wrong})
    with pytest.raises(InvalidSettings) as caught:
        load()
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None, "a traceback would show the values"
    assert caught.value.__suppress_context__


def test_a_wrong_type_of_secret_is_not_shown() -> None:
    with pytest.raises(InvalidSettings) as caught:
        load(database_password=[SECRET])
    assert SECRET not in str(caught.value)


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_an_unknown_setting_is_rejected() -> None:
    with pytest.raises(InvalidSettings, match="there is no setting worker, workers"):
        load(workers=3, worker=1)
