"""Facts about the PostgreSQL server itself."""

from datetime import datetime

import sqlalchemy as sa

_VERSION = sa.text("SHOW server_version")
_TIME = sa.select(sa.func.clock_timestamp())


def server_version(connection: sa.Connection) -> str:
    """The server's version, for example `18.1`. Raises Unavailable."""
    return str(connection.execute(_VERSION).scalar_one())


def server_time(connection: sa.Connection) -> datetime:
    """The server's current time. Raises Unavailable."""
    moment: datetime = connection.execute(_TIME).scalar_one()
    return moment
