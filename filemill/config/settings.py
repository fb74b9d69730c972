"""Every setting of a process, in one place. Only `rest_server` has others. No other module reads the environment.

A value comes from the first of: an argument; the environment (`FILEMILL_KAFKA_BROKER`, or the name in the reference
design, such as `KAFKA_BROKER`); a secret's file; the embedded stack that runs under the home folder; the default.
"""

import ipaddress
import json
import os
import re
import socket
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_data_path
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from filemill.config.oidc import PROVIDER_ID, OidcProvider, is_secure_url
from filemill.config.secret_files import UnreadableSecret, read_secret
from filemill.config.validators import VALIDATORS
from filemill.domain.kafka_access import KafkaRole, PipelineNames
from filemill.domain.limits import Limits
from filemill.domain.origins import has_user_info, parse_host, parse_origin, split_list
from filemill.domain.permissions import Role
from filemill.domain.queues import BULK_QUEUE, DEFAULT_QUEUE, JOBS_QUEUE, QUEUE_NAME, URGENT_QUEUE, Queue
from filemill.domain.signatures import RESULT_KEY_MIN_CHARACTERS
from filemill.runtime.stack_state import running_stack

PREFIX = "FILEMILL_"
HOME_VARIABLE = "FILEMILL_HOME"
HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,99}|")

AuthMode = Literal["local", "token", "accounts", "oidc", "proxy"]
GroupProtocol = Literal["classic-eager", "classic-cooperative", "consumer", "share"]
Ordering = Literal["unordered", "partition"]
KafkaSecurity = Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]

_SERVER_SETTINGS = ("database_host", "database_port", "database_user", "database_password")
_STACK_ROLE_PREFIXES = ("database_owner_", "database_reader_")


# Secrets that can be read from a file, as is usual in containers: the setting `<name>_file` is its path.
SECRETS_IN_FILES = (
    "kafka_password",
    "database_password",
    "database_owner_password",
    "database_superuser_password",
    "database_reader_password",
    "aws_access_key_id",
    "aws_secret_access_key",
    "launch_token",
    "result_key",
)


class InvalidSettings(Exception):
    """Invalid settings. The text names each one and what is required; it contains no secret.

    `codes` are the kinds of errors: pydantic's, those of `filemill.config.validators`, unknown_setting,
    unreadable_secret.
    """

    def __init__(self, message: str, *codes: str) -> None:
        super().__init__(message)
        self.codes = codes


def default_home() -> Path:
    """The embedded stack's data folder: FILEMILL_HOME, `.filemill` in a checkout, or the user's data folder."""
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file():
        return checkout / ".filemill"
    return user_data_path("filemill", appauthor=False).absolute()


def names_servers() -> bool:
    """Whether the environment names a home or servers, so that no other stack may be chosen."""
    names = {"kafka_broker", *_SERVER_SETTINGS, "s3_endpoint"}
    found = set(_ReferenceNames(Settings)()) | {name for name in names if os.environ.get(f"{PREFIX}{name.upper()}")}
    return bool(os.environ.get(HOME_VARIABLE) or found & names)


def _setting(default: Any, *reference_names: str, description: str, **constraints: Any) -> Any:  # noqa: ANN401
    """A field that can also be set by the environment variables of the reference design."""
    names: list[JsonValue] = [*reference_names]
    return Field(default=default, description=description, json_schema_extra={"reference_names": names}, **constraints)


class _ReferenceNames(PydanticBaseSettingsSource):
    """The environment variables of the reference design, which have no prefix."""

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
    """Reads a secret from the file that `<name>_file` names, if no other source sets it."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        files = {name: self.current_state.get(f"{name}_file") for name in SECRETS_IN_FILES}
        return {
            name: read_secret(Path(file)) for name, file in files.items() if file and not self.current_state.get(name)
        }


class _RunningStack(PydanticBaseSettingsSource):
    """The servers of the embedded stack that runs under the home folder, if there is one."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        home = self.current_state.get("home") or default_home()
        stack = running_stack(Path(home))
        if stack is None:
            return {}
        # The stack's roles belong to its own server: they are ignored if another server or role is configured.
        given = {name: self.current_state[name] for name in _SERVER_SETTINGS if name in self.current_state}
        own_server = all(_plain(value) == str(stack.settings.get(name)) for name, value in given.items())
        return {
            name: value
            for name, value in stack.settings.items()
            if own_server or not name.startswith(_STACK_ROLE_PREFIXES)
        }


class QueueConfig(BaseModel):
    """A queue in `queues_config`. Topic and group follow from its name, `topic_create` and `kafka_group` if absent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    topic: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,249}$")
    group: str | None = Field(default=None, min_length=1, max_length=255)
    weight: int = Field(default=1, ge=1, le=1000)
    reserved: int = Field(default=0, ge=0, le=1000)


# A place is kept for an urgent request, so that it starts although others occupy all places of the processor.
DEFAULT_QUEUES = {
    DEFAULT_QUEUE: QueueConfig(weight=4),
    JOBS_QUEUE: QueueConfig(weight=4),
    URGENT_QUEUE: QueueConfig(weight=8, reserved=1),
    BULK_QUEUE: QueueConfig(weight=1),
}
# Ends of group ids that differ from the name of the queue.
_GROUP_SUFFIXES = {URGENT_QUEUE: "high-priority"}


class Settings(BaseSettings):
    """The settings of every process. Field `x` is `FILEMILL_X` in the environment."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, env_ignore_empty=True)

    home: Path = _setting(None, description="Folder of the embedded stack: data, logs and state", validate_default=True)
    worker_id: str = _setting("", description="Name of this process; default: host name and process id")

    kafka_broker: str = _setting(
        "127.0.0.1:29092", "KAFKA_BROKER", description="host:port, several separated by commas"
    )
    kafka_properties: dict[str, str] = _setting(
        {},
        description='librdkafka properties for every client, as JSON: {"security.protocol": "SASL_SSL", …}',
        repr=False,  # sasl.password and its like
    )
    kafka_security: KafkaSecurity = _setting(
        "plaintext", description="Encryption and sign-in at Kafka: plaintext, ssl, sasl_plaintext or sasl_ssl"
    )
    kafka_ca_bundle: Path | None = _setting(
        None, description="CA certificates (PEM) for Kafka with ssl and sasl_ssl; default: the system's"
    )
    kafka_sasl_mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = _setting(
        "SCRAM-SHA-512", description="With sasl_plaintext and sasl_ssl: how kafka_user proves its password"
    )
    kafka_user: str = _setting("", description="User at Kafka, with sasl_plaintext and sasl_ssl")
    kafka_password: SecretStr = _setting(SecretStr(""), description="Its password")
    kafka_password_file: Path | None = _setting(None, description="File with kafka_password")
    kafka_role_passwords: Path | None = _setting(
        None,
        description="Folder with the passwords of the Kafka users of the roles: prepare creates these users, and gives "
        "each the rights that its role needs. kafka_user must be allowed to alter the cluster",
    )
    kafka_group: str = _setting("file-service-group", description="Consumer group of the file processors")
    group_protocol: GroupProtocol = _setting(
        "consumer",
        description="Group protocol: classic-eager, classic-cooperative, consumer (KIP-848) or share (KIP-932, "
        "experimental, uses a separate group)",
    )
    static_membership: bool = _setting(
        False, description="Keep the partitions during a restart; worker_id becomes the group instance id"
    )
    session_timeout_ms: int = _setting(
        6000, description="Classic protocols: a member without heartbeats is removed after this time", gt=0
    )
    heartbeat_interval_ms: int = _setting(1000, description="Classic protocols: time between heartbeats", gt=0)
    max_poll_interval_ms: int = _setting(
        300_000, description="A member that does not poll for this time is removed", gt=0
    )

    queues_config: dict[str, QueueConfig] = _setting(
        DEFAULT_QUEUES,
        description="Queues by name, as JSON: weight (share of a processor's places), reserved (places kept for the "
        "queue), topic and group. It must contain `default`, whose topic and group are topic_create and kafka_group",
    )
    queues: str = _setting("", description="Queues that a processor serves, separated by commas; default: all")

    topic_create: str = _setting("file.create", description="Requests of the queue `default`")
    topic_created: str = _setting("file.created", description="Results")
    topic_progress: str = _setting("file.progress", description="Steps of processing")
    topic_dead_letters: str = _setting("file.create.dlq", description="Requests that could not be processed")
    topic_worker_events: str = _setting(
        "worker.events", description="Events of workers: started, assigned, heartbeat and others"
    )
    topic_worker_commands: str = _setting("worker.commands", description="Commands to workers")
    topic_partitions: int = _setting(3, description="Partitions of a new topic", ge=1, le=1000)
    topic_replication_factor: int = _setting(1, description="Replication factor of a new topic", ge=1)
    topic_retention_days: int = _setting(7, description="Retention of a new topic, in days", ge=1)

    database_host: str = _setting("127.0.0.1", "DATABASE_HOST", description="PostgreSQL's host")
    database_port: int = _setting(5432, "DATABASE_PORT", description="PostgreSQL's port", ge=1, le=65535)
    database_user: str = _setting("fileuser", "DATABASE_USER", description="PostgreSQL's user")
    database_password: SecretStr = _setting(SecretStr("filepass"), "DATABASE_PASSWORD", description="Its password")
    database_owner_user: str = _setting(
        "", description="Role that owns the schema, used by migrate and prepare; default: database_user"
    )
    database_owner_password: SecretStr = _setting(SecretStr(""), description="Its password")
    database_reader_user: str = _setting("", description="Read-only role, optional")
    database_reader_password: SecretStr = _setting(SecretStr(""), description="Its password")
    database_superuser_user: str = _setting(
        "", description="Superuser; if it is set, prepare connects as it and creates the database and its roles"
    )
    database_superuser_password: SecretStr = _setting(SecretStr(""), description="Its password")
    database_password_file: Path | None = _setting(None, description="File with database_password")
    database_owner_password_file: Path | None = _setting(None, description="File with database_owner_password")
    database_reader_password_file: Path | None = _setting(None, description="File with database_reader_password")
    database_superuser_password_file: Path | None = _setting(None, description="File with database_superuser_password")
    database_name: str = _setting("filedb", "DATABASE_NAME", description="The database")
    database_sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = _setting(
        "prefer", description="Encryption and verification of the connection to PostgreSQL, as in libpq"
    )
    database_ca_bundle: Path | None = _setting(
        None, description="CA certificates (PEM) for PostgreSQL; default with verify-full: the system's"
    )
    database_pooler: Literal["none", "transaction"] = _setting(
        "none",
        description="transaction: connections go through a pooler such as PgBouncer in transaction mode: statements "
        "are not prepared, and time-outs are set in each transaction",
    )
    database_pool_size: int = _setting(10, description="Maximum number of connections of one process", ge=1)

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
        None, description="CA certificates (PEM) for the S3 service, in addition to the well-known ones"
    )
    s3_proxy: str = _setting(
        "", description="URL of the HTTP proxy to the S3 service (HTTP_PROXY is not read)", repr=False
    )

    processing_seconds: float = _setting(60.0, description="Simulated work per file", ge=0, le=86_400)
    processing_steps: int = _setting(6, description="Number of steps of the simulated work", ge=1, le=1000)
    long_job_every: int = _setting(0, description="Make every Nth file a long job; 0 disables", ge=0)
    long_job_seconds: float = _setting(60.0, description="Simulated work of a long job", ge=0, le=86_400)
    concurrency: int = _setting(
        1000, description="Maximum number of records in progress in one processor", ge=1, le=100_000
    )
    partition_concurrency: int = _setting(
        0, description="Maximum number of records in progress from one partition; 0: same as concurrency", ge=0
    )
    ordering: Ordering = _setting(
        "unordered", description="unordered, or partition: one record at a time per partition"
    )
    max_attempts: int = _setting(5, description="Attempts before a record is dead-lettered", ge=1)
    drain_seconds: float = _setting(
        5.0, description="Time to finish records in progress when partitions are revoked", ge=0
    )
    store_concurrency: int = _setting(128, description="Concurrent uploads per processor", ge=1, le=1000)

    handlers: str = _setting(
        "",
        description="Modules with handlers, besides installed packages, separated by commas; pdf, table and thumbnail "
        "are those that come with filemill",
    )
    handlers_commands: dict[str, list[str]] = _setting(
        {}, description="Command lines that the handler `command` may run, as JSON: names with lists of arguments"
    )
    handlers_templates: Path | None = _setting(
        None, description="Folder with templates of the handler `pdf`: the template NAME is the file NAME.typ"
    )
    result_key: SecretStr = _setting(
        SecretStr(""),
        description="Processors sign results with it, and the sync treats others as those of a foreign service; "
        "empty: no signatures",
    )
    result_key_file: Path | None = _setting(None, description="File with result_key")
    processes: int = _setting(
        0, description="Processes of a processor that run handlers at the same time; 0: one per CPU", ge=0, le=1000
    )
    max_jobs_per_child: int = _setting(
        10_000, description="Jobs that a handler's process runs before it is replaced", ge=1
    )
    handlers_environment: str = _setting(
        "", description="Environment variables that handlers may see, separated by commas; no others are passed on"
    )

    relay_batch: int = _setting(500, description="Outbox rows that the relay claims at once", ge=1, le=10_000)
    sync_batch: int = _setting(1000, description="Events that the sync applies at once", ge=1, le=10_000)
    lease_seconds: float = _setting(
        3.0, description="A lease expires if its holder does not renew it for this time", gt=0
    )
    monitor_interval_seconds: float = _setting(2.0, description="Interval between samples of the group", gt=0)
    monitor_retention_hours: float = _setting(24.0, description="Retention of samples, in hours", gt=0)

    lab_stack: Literal["embedded", "compose"] = _setting(
        "embedded", description="Stacks that the lab starts: processes (embedded) or containers (compose)"
    )
    results: Path = _setting(Path("results"), description="Folder of the lab's runs, which the page Experiments lists")
    pulse_file: Path | None = _setting(None, description="Liveness file of this process, for health checks")
    host: str = _setting("127.0.0.1", description="Address that the page listens on")
    port: int = _setting(8501, description="Port of the page and of REST", ge=0, le=65535)
    auth: AuthMode = _setting(
        "local",
        description="Sign-in: local (none; everyone who reaches the port is admin), token (launch_token), accounts "
        "(`filemill users`), oidc (oidc_providers) or proxy (a proxy of trusted_proxies says who somebody is)",
    )
    launch_token: SecretStr = _setting(
        SecretStr(""), description="With auth=token: the secret that signs in; `filemill up` creates one"
    )
    launch_token_file: Path | None = _setting(None, description="File with launch_token")
    oidc_providers: dict[str, OidcProvider] = _setting(
        {},
        description="With auth=oidc: providers by a short name, as JSON: issuer, client_id, client_secret or "
        "client_secret_file, name, scopes, roles_claim, roles (value of the claim: role), default_role, api_audience, "
        "algorithms, ca_bundle. It requires public_url",
    )
    proxy_user_header: str = _setting("X-Forwarded-User", description="With auth=proxy: the header with the user")
    proxy_email_header: str = _setting(
        "X-Forwarded-Email", description="With auth=proxy: the header with the user's address; empty: none"
    )
    proxy_groups_header: str = _setting(
        "X-Forwarded-Groups", description="With auth=proxy: the header with the user's groups, separated by commas"
    )
    proxy_roles: dict[str, Role] = _setting(
        {}, description='With auth=proxy: roles by group, as JSON: {"staff": "viewer", "on-call": "operator"}'
    )
    proxy_default_role: Role | None = _setting(
        None, description="With auth=proxy: the role of users without a group of proxy_roles; default: none"
    )
    proxy_sign_out_url: str = _setting(
        "", description="With auth=proxy: where the proxy signs out, such as /oauth2/sign_out"
    )
    own_files_only: bool = _setting(
        False, description="Hide files of others from viewers and submitters: on pages, in lists and downloads"
    )
    limit_writes_per_second: float | None = _setting(
        None,
        description="Requests that one person may submit per second; 0: any number. Default: 100; 0 with auth=local",
        ge=0,
    )
    limit_writes_burst: int = _setting(1000, description="Requests that one person may submit at once", ge=1)
    limit_files_in_flight: int | None = _setting(
        None,
        description="Files of one person that may be pending or processing; 0: any number. Default: 100000; 0 with "
        "auth=local",
        ge=0,
    )
    limit_bytes_per_day: int | None = _setting(
        None,
        description="Bytes of titles, descriptions and parameters that one person may submit per day (UTC); 0: any "
        "number. Default: 10737418240 (10 GiB); 0 with auth=local",
        ge=0,
    )
    limit_heavy_reads: int | None = _setting(
        None,
        description="Exports of one person at the same time, in one dashboard process; 0: any number. Default: 1; "
        "0 with auth=local",
        ge=0,
    )
    limit_open_pages: int | None = _setting(
        None,
        description="Pages that one person may have open at the same time, in one dashboard process; 0: any number. "
        "Default: 100; 0 with auth=local",
        ge=0,
    )
    allow_insecure: bool = _setting(
        False, description="Allow the page to listen beyond loopback without sign-in or with published credentials"
    )
    public_url: str = _setting("", description="URL of the page in browsers behind a proxy: https://files.example")
    allowed_hosts: str = _setting(
        "",
        description="Additional host names of the page, separated by commas. Loopback names, the host of public_url "
        "and the local address of a connection are always allowed",
    )
    trusted_proxies: str = _setting(
        "",
        description="Addresses or networks of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto count, "
        "separated by commas",
    )
    connections_max: int = _setting(
        4096, description="Maximum number of connections to the page's port; less if open files are limited", ge=1
    )
    connections_per_address: int = _setting(
        2048, description="Maximum number of connections from one address; does not apply to trusted proxies", ge=1
    )
    server_timeout_seconds: float = _setting(5.0, description="Time-out of requests to servers", gt=0)
    log_format: Literal["console", "json"] = _setting("console", description="Format of log lines")
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", description="Minimum level that is logged"
    )

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

    @field_validator("database_ca_bundle", "s3_ca_bundle", "kafka_ca_bundle", mode="after")
    @classmethod
    def _bundle(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"there is no file {value}")
        return value

    @field_validator("result_key", mode="after")
    @classmethod
    def _result_key(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value()) < RESULT_KEY_MIN_CHARACTERS:
            raise ValueError(f"must have at least {RESULT_KEY_MIN_CHARACTERS} characters")
        return value

    @field_validator("s3_endpoint", "kafka_broker", "database_host", "public_url", mode="after")
    @classmethod
    def _no_user_info(cls, value: str) -> str:
        """Addresses are shown on pages and in logs."""
        if any(has_user_info(address) for address in value.split(",")):
            raise ValueError("must not contain a user name or a password: use their own settings")
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

    @field_validator("oidc_providers", mode="after")
    @classmethod
    def _oidc_providers(cls, value: dict[str, OidcProvider]) -> dict[str, OidcProvider]:
        for name in value:
            if PROVIDER_ID.fullmatch(name) is None:
                raise ValueError(
                    f"{name!r} is not a name of a provider: use a to z, 0 to 9 and -, at most 32 characters"
                )
        if len({provider.issuer for provider in value.values()}) < len(value):
            raise ValueError("each provider needs an issuer of its own")
        return value

    @field_validator("proxy_user_header", "proxy_email_header", "proxy_groups_header", mode="after")
    @classmethod
    def _header_name(cls, value: str) -> str:
        if HEADER_NAME.fullmatch(value) is None:
            raise ValueError(f"{value!r} is not a name of a header: use letters, digits and -")
        return value

    @field_validator("proxy_sign_out_url", mode="after")
    @classmethod
    def _sign_out_url(cls, value: str) -> str:
        if value and not (is_secure_url(value) or (value.startswith("/") and not value.startswith("//"))):
            raise ValueError("must be a path that begins with /, or an https:// URL")
        return value

    @field_validator("queues_config", mode="after")
    @classmethod
    def _queues_config(cls, value: dict[str, QueueConfig]) -> dict[str, QueueConfig]:
        for name in value:
            if QUEUE_NAME.fullmatch(name) is None:
                raise ValueError(f"{name!r} is not a name of a queue: use a to z, 0 to 9 and -, at most 40 characters")
        if DEFAULT_QUEUE not in value:
            raise ValueError(f"the queue {DEFAULT_QUEUE} is missing")
        return value

    @model_validator(mode="after")
    def _check_combinations(self) -> "Settings":
        for validator in VALIDATORS:
            validator(self)
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
        """Arguments, environment, reference design's variables, secrets' files, the running stack."""
        return (
            init_settings,
            env_settings,
            _ReferenceNames(settings_cls),
            _SecretFiles(settings_cls),
            _RunningStack(settings_cls),
        )

    @property
    def group_id(self) -> str:
        """The group that the processors join. Kafka fixes the type of a group id, so share groups have their own id."""
        return f"{self.kafka_group}-share" if self.group_protocol == "share" else self.kafka_group

    @property
    def offsets_group(self) -> str | None:
        """The group with committed offsets; None with a share group, which has none."""
        return None if self.group_protocol == "share" else self.kafka_group

    @property
    def all_queues(self) -> dict[str, Queue]:
        """All queues by name, with their topics and groups."""
        found = {}
        for name, config in self.queues_config.items():
            is_default = name == DEFAULT_QUEUE
            topic = self.topic_create if is_default else f"{self.topic_create}.{name}"
            group = self.kafka_group if is_default else f"{self.kafka_group}-{_GROUP_SUFFIXES.get(name, name)}"
            found[name] = Queue(name, config.topic or topic, config.group or group, config.weight, config.reserved)
        return found

    @property
    def pipeline_names(self) -> PipelineNames:
        """The names of all topics and groups."""
        queues = self.all_queues.values()
        return PipelineNames(
            requests=tuple(queue.topic for queue in queues),
            groups=tuple(queue.group for queue in queues),
            results=self.topic_created,
            progress=self.topic_progress,
            dead_letters=self.topic_dead_letters,
            events=self.topic_worker_events,
            commands=self.topic_worker_commands,
        )

    @property
    def served_queues(self) -> dict[str, Queue]:
        """The queues that a processor with these settings serves."""
        wanted = split_list(self.queues)
        return {name: queue for name, queue in self.all_queues.items() if not wanted or name in wanted}

    def of_queue(self, name: str) -> "Settings":
        """These settings with topic and group of one queue as `topic_create` and `kafka_group`."""
        queues = self.all_queues
        pinned = {
            queue.name: self.queues_config[queue.name].model_copy(update={"topic": queue.topic, "group": queue.group})
            for queue in queues.values()
        }
        queue = queues[name]
        return self.model_copy(
            update={"topic_create": queue.topic, "kafka_group": queue.group, "queues_config": pinned}
        )

    @property
    def queue_name(self) -> str:
        """The queue whose topic is `topic_create`: `default`, or the one of `of_queue`."""
        return next(queue.name for queue in self.all_queues.values() if queue.topic == self.topic_create)

    @property
    def longest_job_seconds(self) -> float:
        """Simulated work of the longest job."""
        return max(self.processing_seconds, self.long_job_seconds) if self.long_job_every else self.processing_seconds

    def as_owner(self) -> "Settings":
        """These settings, with the role that owns the schema as the database user."""
        if not self.database_owner_user:
            return self
        update = {"database_user": self.database_owner_user, "database_password": self.database_owner_password}
        return self.model_copy(update=update)

    @property
    def allowed_host_names(self) -> list[str]:
        """The host names of allowed_hosts, normalized for comparison with a Host header."""
        return [host.host for name in split_list(self.allowed_hosts) if (host := parse_host(name))]

    @property
    def trusted_proxy_networks(self) -> list[str]:
        """The networks of trusted_proxies."""
        return split_list(self.trusted_proxies)

    @property
    def limits(self) -> Limits:
        """The limits of submissions; none in mode `local` unless they are set."""
        signed_in = self.auth != "local"

        def given(value: float | None, default: float) -> float:
            return value if value is not None else default if signed_in else 0

        return Limits(
            given(self.limit_writes_per_second, 100),
            self.limit_writes_burst,
            int(given(self.limit_files_in_flight, 100_000)),
            int(given(self.limit_bytes_per_day, 10 * 1024**3)),
        )

    @property
    def heavy_reads(self) -> int:
        """Exports of one person at the same time; 0: any number."""
        if self.limit_heavy_reads is not None:
            return self.limit_heavy_reads
        return 0 if self.auth == "local" else 1

    @property
    def open_pages(self) -> int:
        """Pages of one person at the same time; 0: any number."""
        if self.limit_open_pages is not None:
            return self.limit_open_pages
        return 0 if self.auth == "local" else 100

    @property
    def database_url(self) -> str:
        """The database without its password, for messages."""
        return f"postgresql://{self.database_user}@{self.database_host}:{self.database_port}/{self.database_name}"


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def load(**given: Any) -> Settings:  # noqa: ANN401
    """Load the settings. `given` values take precedence; None means not given. Raises InvalidSettings."""
    if unknown := sorted(given.keys() - Settings.model_fields.keys()):
        raise InvalidSettings(f"there is no setting {', '.join(unknown)}", "unknown_setting")
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise InvalidSettings(_explain(error), *(str(problem["type"]) for problem in error.errors())) from None
    except UnreadableSecret as error:
        raise InvalidSettings(str(error), "unreadable_secret") from None
    except SettingsError as error:  # invalid JSON
        raise InvalidSettings(f"{error}: it must be a JSON object", "json_invalid") from None


def as_environment(settings: Settings) -> dict[str, str]:
    """The settings that were set, as FILEMILL_ variables for a child process: without worker_id, secrets in plain."""
    found = {}
    for name in settings.model_fields_set - {"worker_id"}:
        value = getattr(settings, name)
        plain = value.get_secret_value() if isinstance(value, SecretStr) else value
        as_json = json.dumps(plain, default=_json_value) if isinstance(plain, dict) else str(plain)
        found[f"{PREFIX}{name.upper()}"] = as_json
    return found


def _json_value(value: object) -> object:
    """A value within a setting that is JSON: a model's fields, a secret in plain, a path."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    return _plain(value)


# What a value must be, by the kind of pydantic's error. Others are its own sentences, with "must" for "Input should".
_REQUIREMENTS = {
    "greater_than_equal": "must be {ge} or more",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be {le} or less",
    "less_than": "must be less than {lt}",
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must have {min_length} or more characters",
    "string_too_long": "must have {max_length} or fewer characters",
    "path_type": "must be a path",
    "literal_error": "must be {expected}",
    "missing": "is required",
}


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_input=False, include_url=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        path = ".".join(str(part) for part in problem["loc"])
        where = f"{PREFIX}{name.upper()} ({path})" if name else "settings"
        lines.append(f"{where}: {_requirement(problem)}")
    return "\n".join(lines)


def _requirement(problem: ErrorDetails) -> str:
    """What the value must be. The context has limits and allowed values, never the value itself."""
    known = _REQUIREMENTS.get(problem["type"])
    if known is not None:
        return known.format(**problem.get("ctx", {})).replace("'", "")
    return problem["msg"].removeprefix("Value error, ").replace("Input should", "must")


def role_passwords(settings: Settings) -> dict[KafkaRole, str]:
    """The passwords in the folder `kafka_role_passwords`, a file for each role. Raises InvalidSettings."""
    folder = settings.kafka_role_passwords
    if folder is None:
        return {}
    try:
        return {role: read_secret(folder / role.value) for role in KafkaRole}
    except UnreadableSecret as error:
        raise InvalidSettings(f"kafka_role_passwords: {error}", "unreadable_secret") from None
