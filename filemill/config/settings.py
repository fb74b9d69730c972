"""Every setting, in one place. No other module reads the environment.

A value comes from the first of: an argument; the environment (`FILEMILL_KAFKA_BROKER`, and the seed's own names such as
`KAFKA_BROKER`); the embedded stack that runs under the home folder; the default.
"""

import ipaddress
import json
import os
import socket
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from filemill.config.validators import VALIDATORS
from filemill.domain.origins import has_user_info, parse_host, parse_origin, split_list
from filemill.runtime.stack_state import running_stack

PREFIX = "FILEMILL_"
HOME_VARIABLE = "FILEMILL_HOME"

GroupProtocol = Literal["classic-eager", "classic-cooperative", "consumer", "share"]
Ordering = Literal["unordered", "partition"]

_SERVER_SETTINGS = ("database_host", "database_port", "database_user", "database_password")
_STACK_ROLE_PREFIXES = ("database_owner_", "database_reader_")


# Settings that may come from a file, as containers get their secrets: `<name>_file` is its path.
SECRETS_IN_FILES = (
    "database_password",
    "database_owner_password",
    "database_superuser_password",
    "database_reader_password",
    "aws_access_key_id",
    "aws_secret_access_key",
)
SECRET_MAX_BYTES = 4096


class UnreadableSecret(ValueError):
    """A secret's file that cannot be used; the text says why."""


class InvalidSettings(Exception):
    """Settings that cannot be used; the text names each, where it came from, and what it must be. No secret in it."""


def default_home() -> Path:
    """Where an embedded stack keeps its data: `.filemill` of a checkout, else the user's data folder."""
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file():
        return checkout / ".filemill"
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser().absolute() / "filemill"


def _setting(default: Any, *reference_names: str, description: str, **constraints: Any) -> Any:  # noqa: ANN401
    """A field that the seed's environment names reach too. `populate_by_name` keeps its own name."""
    names: list[JsonValue] = [*reference_names]
    return Field(default=default, description=description, json_schema_extra={"reference_names": names}, **constraints)


class _ReferenceNames(PydanticBaseSettingsSource):
    """The environment under the seed's names, which carry no prefix."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        extra = field.json_schema_extra
        names = extra.get("reference_names", []) if isinstance(extra, dict) else []
        for name in names if isinstance(names, list) else []:
            value = os.environ.get(str(name))
            if value:
                return value, field_name, False
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


class _SecretFiles(PydanticBaseSettingsSource):
    """Secrets that a file holds: `<name>_file` names it, for a `<name>` that nothing else gives."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        files = {name: self.current_state.get(f"{name}_file") for name in SECRETS_IN_FILES}
        return {
            name: _read_secret(Path(file)) for name, file in files.items() if file and not self.current_state.get(name)
        }


def _read_secret(path: Path) -> str:
    """The content of a secret's file, without the spaces and line ends around it. Raises UnreadableSecret."""
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_MAX_BYTES + 1)
        text = content.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableSecret(f"the secret's file {path} cannot be read: {error}") from None
    if not text or len(content) > SECRET_MAX_BYTES:
        raise UnreadableSecret(f"the secret's file {path} must hold 1 to {SECRET_MAX_BYTES} bytes")
    return text


class _RunningStack(PydanticBaseSettingsSource):
    """The servers of the embedded stack that runs under the home folder, if one does."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        home = self.current_state.get("home") or default_home()
        stack = running_stack(Path(home))
        if stack is None:
            return {}
        # Whoever names another server, or another role, has given up the stack's own roles with it.
        given = {name: self.current_state[name] for name in _SERVER_SETTINGS if name in self.current_state}
        own_server = all(_plain(value) == str(stack.settings.get(name)) for name, value in given.items())
        return {
            name: value
            for name, value in stack.settings.items()
            if own_server or not name.startswith(_STACK_ROLE_PREFIXES)
        }


class Settings(BaseSettings):
    """The settings of every process. Field `x` is `FILEMILL_X` in the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, env_ignore_empty=True)

    home: Path = _setting(None, description="Folder of the embedded stack: data, logs, state", validate_default=True)
    worker_id: str = _setting("", description="Name of this process; default: host name and pid")

    kafka_broker: str = _setting(
        "127.0.0.1:29092", "KAFKA_BROKER", description="host:port, several separated by commas"
    )
    kafka_properties: dict[str, str] = _setting(
        {},
        description='librdkafka properties for every client, as JSON: {"security.protocol": "SASL_SSL", …}',
        repr=False,  # sasl.password and its like
    )
    kafka_group: str = _setting("file-service-group", description="Consumer group of the file processors")
    group_protocol: GroupProtocol = _setting(
        "consumer",
        description="How work is shared out: classic-eager, classic-cooperative, consumer (KIP-848), share (KIP-932, "
        "experimental; in a group of its own)",
    )
    static_membership: bool = _setting(
        False, description="Keep the partitions over a restart; worker_id becomes the group instance id"
    )
    session_timeout_ms: int = _setting(6000, description="Classic protocols: a silent member is out after this", gt=0)
    heartbeat_interval_ms: int = _setting(1000, description="Classic protocols: time between heartbeats", gt=0)
    max_poll_interval_ms: int = _setting(300_000, description="A member that does not poll for this long is out", gt=0)

    topic_create: str = _setting("file.create", description="Requests")
    topic_created: str = _setting("file.created", description="Results")
    topic_progress: str = _setting("file.progress", description="Steps of processing")
    topic_dead_letters: str = _setting("file.create.dlq", description="Requests that could not be processed")
    topic_worker_events: str = _setting("worker.events", description="What workers say of themselves")
    topic_worker_commands: str = _setting("worker.commands", description="What workers are told")
    topic_partitions: int = _setting(3, description="Partitions of a topic that is created", ge=1, le=1000)
    topic_replication_factor: int = _setting(1, description="Replicas of a topic that is created", ge=1)
    topic_retention_days: int = _setting(7, description="Days that a topic keeps its records", ge=1)

    database_host: str = _setting("127.0.0.1", "DATABASE_HOST", description="PostgreSQL's host")
    database_port: int = _setting(5432, "DATABASE_PORT", description="PostgreSQL's port", ge=1, le=65535)
    database_user: str = _setting("fileuser", "DATABASE_USER", description="PostgreSQL's user")
    database_password: SecretStr = _setting(SecretStr("filepass"), "DATABASE_PASSWORD", description="Its password")
    database_owner_user: str = _setting(
        "", description="Role that owns the schema; migrate and prepare connect as it. Default: database_user"
    )
    database_owner_password: SecretStr = _setting(SecretStr(""), description="Its password")
    database_reader_user: str = _setting("", description="Role that may only read, if there is one")
    database_reader_password: SecretStr = _setting(SecretStr(""), description="Its password")
    database_superuser_user: str = _setting(
        "", description="Superuser; if it is set, prepare makes the database and its roles as this one"
    )
    database_superuser_password: SecretStr = _setting(SecretStr(""), description="Its password")
    database_password_file: Path | None = _setting(None, description="File with database_password")
    database_owner_password_file: Path | None = _setting(None, description="File with database_owner_password")
    database_reader_password_file: Path | None = _setting(None, description="File with database_reader_password")
    database_superuser_password_file: Path | None = _setting(None, description="File with database_superuser_password")
    database_name: str = _setting("filedb", "DATABASE_NAME", description="The database")
    database_sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = _setting(
        "prefer", description="Whether the connection to PostgreSQL is encrypted, and whom it trusts; as libpq has it"
    )
    database_ca_bundle: Path | None = _setting(
        None, description="Certificates (PEM) that vouch for PostgreSQL; default with verify-full: the system's"
    )
    database_pooler: Literal["none", "transaction"] = _setting(
        "none",
        description="transaction: a pooler such as PgBouncer stands before PostgreSQL and hands out a session for a "
        "transaction at a time, so nothing is prepared, and limits are set in each transaction",
    )
    database_pool_size: int = _setting(10, description="Connections that one process keeps at most", ge=1)

    s3_endpoint: str = _setting("http://127.0.0.1:4566", "S3_ENDPOINT", description="URL of the S3 service")
    s3_region: str = _setting("us-east-1", "S3_REGION", "AWS_REGION", description="Region")
    s3_bucket: str = _setting("file-creation-bucket", "S3_BUCKET", description="Bucket of the files")
    aws_access_key_id: SecretStr = _setting(SecretStr("test"), "AWS_ACCESS_KEY_ID", description="S3 access key")
    aws_secret_access_key: SecretStr = _setting(SecretStr("test"), "AWS_SECRET_ACCESS_KEY", description="S3 secret key")
    aws_access_key_id_file: Path | None = _setting(None, description="File with aws_access_key_id")
    aws_secret_access_key_file: Path | None = _setting(None, description="File with aws_secret_access_key")
    s3_session_token: SecretStr = _setting(
        SecretStr(""), description="Session token of temporary S3 credentials (AWS_SESSION_TOKEN is not read)"
    )
    s3_ca_bundle: Path | None = _setting(
        None, description="Certificates (PEM) that vouch for the S3 service, beside the well-known ones"
    )
    s3_proxy: str = _setting(
        "", description="URL of the HTTP proxy to the S3 service (HTTP_PROXY is not read)", repr=False
    )

    processing_seconds: float = _setting(60.0, description="Simulated work per file", ge=0, le=86_400)
    processing_steps: int = _setting(6, description="Steps that it is split into", ge=1, le=1000)
    long_job_every: int = _setting(
        0, description="Every so many-th file, by its number, is a long job; 0: none is", ge=0
    )
    long_job_seconds: float = _setting(60.0, description="Simulated work of a long job", ge=0, le=86_400)
    concurrency: int = _setting(1000, description="Records that one processor holds at most", ge=1, le=100_000)
    partition_concurrency: int = _setting(
        0, description="Records that one processor holds of one partition at most; 0: as many as concurrency", ge=0
    )
    ordering: Ordering = _setting("unordered", description="unordered, or one record at a time per partition")
    max_attempts: int = _setting(5, description="Tries before a record becomes a dead letter", ge=1)
    drain_seconds: float = _setting(5.0, description="Time to finish what is in hand when partitions are taken", ge=0)
    store_concurrency: int = _setting(128, description="Uploads in flight per processor", ge=1, le=1000)

    relay_batch: int = _setting(500, description="Outbox rows that the relay claims at a time", ge=1, le=10_000)
    sync_batch: int = _setting(1000, description="Events that the sync applies at a time", ge=1, le=10_000)
    lease_seconds: float = _setting(3.0, description="A holder that is silent for this long is replaced", gt=0)
    monitor_interval_seconds: float = _setting(2.0, description="Time between two samples of the group", gt=0)
    monitor_retention_hours: float = _setting(24.0, description="Hours that samples are kept", gt=0)

    lab_stack: Literal["embedded", "compose"] = _setting(
        "embedded", description="What the lab's own stacks are made of: processes, or containers"
    )
    results: Path = _setting(
        Path("results"), description="Folder of the lab's runs, as the page Experiments lists them"
    )
    pulse_file: Path | None = _setting(None, description="Where this process notes that it works, for health checks")
    host: str = _setting("127.0.0.1", description="Address that the page listens on")
    port: int = _setting(8501, description="Port of the page and of REST", ge=0, le=65535)
    public_url: str = _setting("", description="URL of the page in browsers behind a proxy: https://files.example")
    allowed_hosts: str = _setting(
        "",
        description="More host names that the page is reached under, separated by commas. Loopback names, the host of "
        "public_url and the address that a connection came in on are always allowed",
    )
    trusted_proxies: str = _setting(
        "",
        description="Addresses or networks of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto count, "
        "separated by commas",
    )
    connections_max: int = _setting(
        4096, description="Connections that the page's port holds at most; fewer where open files are limited", ge=1
    )
    connections_per_address: int = _setting(
        2048, description="Of these, connections from one address; trusted proxies have no such bound", ge=1
    )
    server_timeout_seconds: float = _setting(5.0, description="Patience with a server that does not answer", gt=0)
    log_format: Literal["console", "json"] = _setting("console", description="Form of the log lines")
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", description="Least level logged")

    @field_validator("home", mode="before")
    @classmethod
    def _home(cls, value: object) -> object:
        return value or default_home()

    @field_validator("worker_id", mode="after")
    @classmethod
    def _worker_id(cls, value: str) -> str:
        value = value or f"{socket.gethostname()}-{os.getpid()}"
        if len(value) > 200 or not value.isprintable() or not value.isascii():
            raise ValueError("must be at most 200 printable ASCII characters")
        return value

    @field_validator("s3_endpoint", mode="after")
    @classmethod
    def _s3_endpoint(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/")

    @field_validator("s3_proxy", mode="after")
    @classmethod
    def _s3_proxy(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value

    @field_validator("database_ca_bundle", "s3_ca_bundle", mode="after")
    @classmethod
    def _bundle(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {value}")
        return value

    @field_validator("s3_endpoint", "kafka_broker", "database_host", "public_url", mode="after")
    @classmethod
    def _no_user_info(cls, value: str) -> str:
        """An address is shown on pages and in logs."""
        if any(has_user_info(address) for address in value.split(",")):
            raise ValueError("must not contain a user name or a password: they have settings of their own")
        return value

    @field_validator("public_url", mode="after")
    @classmethod
    def _public_url(cls, value: str) -> str:
        value = value.rstrip("/")
        if value and parse_origin(value) is None:
            raise ValueError("must be scheme, host and port without a path, such as https://files.example")
        return value

    @field_validator("allowed_hosts", mode="after")
    @classmethod
    def _allowed_hosts(cls, value: str) -> str:
        for name in split_list(value):
            host = parse_host(name)
            if host is None or host.port is not None:
                raise ValueError(f"{name!r} is not a host name: write files.example, without scheme and port")
        return value

    @field_validator("trusted_proxies", mode="after")
    @classmethod
    def _trusted_proxies(cls, value: str) -> str:
        for network in split_list(value):
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"{error}: write an address or a network, such as 10.0.0.0/8") from None
        return value

    @model_validator(mode="after")
    def _check_combinations(self) -> "Settings":
        for refusal in VALIDATORS:
            if (sentence := refusal(self)) is not None:
                raise ValueError(sentence)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, the seed's names, files of secrets, the running stack."""
        return (
            init_settings,
            env_settings,
            _ReferenceNames(settings_cls),
            _SecretFiles(settings_cls),
            _RunningStack(settings_cls),
        )

    @property
    def group_id(self) -> str:
        """The group that the processors join. A share group has one of its own: Kafka ties an id to a type for good."""
        return f"{self.kafka_group}-share" if self.group_protocol == "share" else self.kafka_group

    @property
    def offsets_group(self) -> str | None:
        """The group whose committed offsets can be asked for; None under a share group, which has none of that kind."""
        return None if self.group_protocol == "share" else self.kafka_group

    @property
    def longest_job_seconds(self) -> float:
        """The simulated work of the file that takes longest."""
        return max(self.processing_seconds, self.long_job_seconds) if self.long_job_every else self.processing_seconds

    def as_owner(self) -> "Settings":
        """The same settings as the role that owns the schema."""
        if not self.database_owner_user:
            return self
        update = {"database_user": self.database_owner_user, "database_password": self.database_owner_password}
        return self.model_copy(update=update)

    @property
    def allowed_host_names(self) -> list[str]:
        """The names of allowed_hosts, as a Host header is compared with them."""
        return [host.host for name in split_list(self.allowed_hosts) if (host := parse_host(name))]

    @property
    def trusted_proxy_networks(self) -> list[str]:
        """The networks of trusted_proxies."""
        return split_list(self.trusted_proxies)

    @property
    def database_url(self) -> str:
        """The database without its password, for messages."""
        return f"postgresql://{self.database_user}@{self.database_host}:{self.database_port}/{self.database_name}"


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def load(**given: Any) -> Settings:  # noqa: ANN401
    """The settings in force; `given` (None left out) comes first. Raises InvalidSettings."""
    if unknown := sorted(given.keys() - Settings.model_fields.keys()):
        raise InvalidSettings(f"there is no setting {', '.join(unknown)}")
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise InvalidSettings(_explain(error)) from None
    except UnreadableSecret as error:
        raise InvalidSettings(str(error)) from None
    except Exception as error:
        if type(error).__name__ == "SettingsError":  # a JSON value that is not JSON
            raise InvalidSettings(f"{error}: kafka_properties must be a JSON object") from None
        raise


def as_environment(settings: Settings) -> dict[str, str]:
    """What was set, as FILEMILL_ variables for a process to be started: all but the name; secrets in plain."""
    found = {}
    for name in settings.model_fields_set - {"worker_id"}:
        value = getattr(settings, name)
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        found[f"{PREFIX}{name.upper()}"] = json.dumps(plain) if isinstance(plain, dict) else str(plain)
    return found


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        where = f"{PREFIX}{name.upper()} ({name})" if name else "settings"
        lines.append(f"{where}: {problem['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)
