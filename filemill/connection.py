"""What other programs need to connect to the same servers, as environment variables. The values hold secrets."""

import sqlalchemy as sa
from pydantic import SecretStr

from filemill.settings import Settings

# libpq's own names, for psql and every program that uses libpq.
_LIBPQ = {
    "PGHOST": "database_host",
    "PGPORT": "database_port",
    "PGUSER": "database_user",
    "PGPASSWORD": "database_password",
    "PGDATABASE": "database_name",
}


def connection_environment(settings: Settings, *, read_only: bool = False) -> dict[str, str]:
    """The servers' addresses, names and credentials, under the names of the reference, of the AWS tools and of libpq.

    `read_only` gives the database's role that only reads. Raises ValueError if there is none.
    """
    if read_only:
        if not settings.database_reader_user:
            raise ValueError("there is no read-only role: database_reader_user is not set")
        update = {
            "database_user": settings.database_reader_user,
            "database_password": settings.database_reader_password,
        }
        settings = settings.model_copy(update=update)
    variables = {}
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        reference_names = extra.get("seed_names") if isinstance(extra, dict) else None
        for variable in reference_names if isinstance(reference_names, list) else []:
            variables[str(variable)] = _plain(getattr(settings, name))
    variables |= {variable: _plain(getattr(settings, name)) for variable, name in _LIBPQ.items()}
    variables["DATABASE_URL"] = _database_url(settings)
    variables["AWS_ENDPOINT_URL_S3"] = settings.s3_endpoint
    variables["AWS_DEFAULT_REGION"] = settings.s3_region
    return {name: value for name, value in variables.items() if value}


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
    )
    return url.render_as_string(hide_password=False)
