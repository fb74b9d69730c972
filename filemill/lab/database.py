"""The lab's database, as its superuser sees it."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from pydantic import SecretStr

from filemill.config.settings import Settings
from filemill_infra.embedded.credentials import CREDENTIALS_FILE, credentials_of
from filemill_infra.superuser import SUPERUSER

# A database that each server has, and that no fault makes read-only.
MAINTENANCE = "postgres"
_END_SESSIONS = sa.text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()"
)


@contextmanager
def connected(settings: Settings) -> Iterator[sa.Connection]:
    """A connection as the user of these settings, each statement a transaction of its own."""
    url = sa.URL.create(
        "postgresql+psycopg",
        username=settings.database_user,
        password=settings.database_password.get_secret_value(),
        host=settings.database_host,
        port=settings.database_port,
        database=settings.database_name,
    )
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def superuser(settings: Settings) -> Iterator[sa.Connection]:
    """The same as the superuser: that of the settings, else that of embedded servers; else as these settings say."""
    if settings.database_superuser_user:
        update = {
            "database_user": settings.database_superuser_user,
            "database_password": settings.database_superuser_password,
        }
        settings = settings.model_copy(update=update)
    elif (settings.home / CREDENTIALS_FILE).exists():
        password = SecretStr(credentials_of(settings.home).database_superuser_password)
        settings = settings.model_copy(update={"database_user": SUPERUSER, "database_password": password})
    with connected(settings) as connection:
        yield connection


def turn_read_only(settings: Settings) -> None:
    """As after a failover to a standby: each session ends, and what a new one writes is refused."""
    name = settings.database_name
    with superuser(settings.model_copy(update={"database_name": MAINTENANCE})) as connection:
        connection.execute(sa.text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
        connection.execute(_END_SESSIONS, {"name": name})


def turn_writable(settings: Settings) -> None:
    """Sessions that began while it was read-only stay so."""
    with superuser(settings.model_copy(update={"database_name": MAINTENANCE})) as connection:
        connection.execute(sa.text(f'ALTER DATABASE "{settings.database_name}" RESET default_transaction_read_only'))
