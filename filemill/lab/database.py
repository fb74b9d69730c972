"""Makes the lab's database read-only, as its superuser."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from pydantic import SecretStr

from filemill.adapters.postgres.lab import MAINTENANCE_DATABASE, connect, make_read_only, make_writable
from filemill.config.settings import Settings
from filemill_infra.embedded.credentials import CREDENTIALS_FILE, credentials_of
from filemill_infra.superuser import SUPERUSER


@contextmanager
def superuser(settings: Settings) -> Iterator[sa.Connection]:
    """A connection as the superuser of the settings, else of the embedded servers, else as the settings' user."""
    if settings.database_superuser_user:
        update = {
            "database_user": settings.database_superuser_user,
            "database_password": settings.database_superuser_password,
        }
        settings = settings.model_copy(update=update)
    elif (settings.home / CREDENTIALS_FILE).exists():
        password = SecretStr(credentials_of(settings.home).database_superuser_password)
        settings = settings.model_copy(update={"database_user": SUPERUSER, "database_password": password})
    with connect(settings) as connection:
        yield connection


def turn_read_only(settings: Settings) -> None:
    """Make the database read-only, as a failover to a standby does: all sessions end, and new ones cannot write."""
    with superuser(settings.model_copy(update={"database_name": MAINTENANCE_DATABASE})) as connection:
        make_read_only(connection, settings.database_name)


def turn_writable(settings: Settings) -> None:
    """Make the database writable again. Sessions that began while it was read-only stay so."""
    with superuser(settings.model_copy(update={"database_name": MAINTENANCE_DATABASE})) as connection:
        make_writable(connection, settings.database_name)
