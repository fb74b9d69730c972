"""Environment variables with which other programs connect to the same servers. The values contain secrets."""

from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa
from pydantic import SecretStr

from filemill.config.settings import PREFIX, Settings

# libpq's variables, for psql and every program that uses libpq.
_LIBPQ = {
    "PGHOST": "database_host",
    "PGPORT": "database_port",
    "PGUSER": "database_user",
    "PGPASSWORD": "database_password",
    "PGDATABASE": "database_name",
}
# TLS and Kafka's user: printed if they are set, because the reference design has no variables for them.
_SECURITY = (
    "kafka_security",
    "kafka_sasl_mechanism",
    "kafka_user",
    "kafka_password",
    "kafka_ca_bundle",
    "database_sslmode",
    "database_ca_bundle",
    "s3_ca_bundle",
)
# The same for other programs.
_SECURITY_ELSEWHERE = {
    "PGSSLMODE": "database_sslmode",
    "PGSSLROOTCERT": "database_ca_bundle",
    "AWS_CA_BUNDLE": "s3_ca_bundle",
}
# The roles that `filemill migrate` and `prepare` use.
_ADMINISTRATION = (
    "database_owner_user",
    "database_owner_password",
    "database_superuser_user",
    "database_superuser_password",
    "database_reader_user",
    "database_reader_password",
)


def connection_environment(
    settings: Settings, *, read_only: bool = False, admin: bool = False, ca_file: Path | None = None
) -> dict[str, str]:
    """The servers' addresses and credentials as variables of the reference design, of AWS tools and of libpq.

    With `read_only`, they contain the read-only database role. `admin` adds the roles of `migrate` and `prepare`, as
    settings. `ca_file` replaces the paths of the CA certificates that are set: where the program that connects has
    them. Raises ValueError if there is no such role.
    """
    settings = _with_ca_file(settings, ca_file)
    if admin and not settings.database_owner_user:
        raise ValueError("there is no administrative role: database_owner_user is not set")
    if read_only:
        if not settings.database_reader_user:
            raise ValueError("there is no read-only role: database_reader_user is not set")
        update = {
            "database_user": settings.database_reader_user,
            "database_password": settings.database_reader_password,
        }
        settings = settings.model_copy(update=update)
    variables = {
        variable: _plain(getattr(settings, name))
        for name in Settings.model_fields
        for variable in _reference_names(name)
    }
    variables |= {variable: _plain(getattr(settings, name)) for variable, name in _LIBPQ.items()}
    variables["DATABASE_URL"] = _database_url(settings)
    security = {name: _plain(getattr(settings, name)) for name in _SECURITY if _is_set(settings, name)}
    variables |= {f"{PREFIX}{name.upper()}": value for name, value in security.items()}
    variables |= {variable: security[name] for variable, name in _SECURITY_ELSEWHERE.items() if name in security}
    variables["AWS_ENDPOINT_URL_S3"] = settings.s3_endpoint
    variables["AWS_DEFAULT_REGION"] = settings.s3_region
    if admin:
        variables |= {f"{PREFIX}{name.upper()}": _plain(getattr(settings, name)) for name in _ADMINISTRATION}
    return {name: value for name, value in variables.items() if value}


def settings_from(variables: Mapping[str, str]) -> dict[str, str]:
    """The settings, by name, that correspond to variables of `connection_environment`."""
    found = {}
    for name in Settings.model_fields:
        names = [f"{PREFIX}{name.upper()}", *_reference_names(name)]
        if given := [variables[variable] for variable in names if variable in variables]:
            found[name] = given[0]
    return found


def _reference_names(field: str) -> list[str]:
    extra = Settings.model_fields[field].json_schema_extra
    names = extra.get("reference_names") if isinstance(extra, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")


def _database_url(settings: Settings) -> str:
    url = sa.URL.create(
        "postgresql",
        username=settings.database_user,
        password=settings.database_password.get_secret_value(),
        host=settings.database_host,
        port=settings.database_port,
        database=settings.database_name,
        query=_url_query(settings),
    )
    return url.render_as_string(hide_password=False)


def _url_query(settings: Settings) -> dict[str, str]:
    names = {"sslmode": "database_sslmode", "sslrootcert": "database_ca_bundle"}
    return {parameter: _plain(getattr(settings, name)) for parameter, name in names.items() if _is_set(settings, name)}


def _is_set(settings: Settings, name: str) -> bool:
    """Whether a setting differs from its default. Secrets of files are not among the fields that are set."""
    return bool(getattr(settings, name) != Settings.model_fields[name].default)


def _with_ca_file(settings: Settings, ca_file: Path | None) -> Settings:
    if ca_file is None:
        return settings
    bundles = [name for name in _SECURITY if name.endswith("_ca_bundle") and getattr(settings, name) is not None]
    return settings.model_copy(update=dict.fromkeys(bundles, ca_file))
