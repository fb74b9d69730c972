"""PostgreSQL: the engine, and the errors that mean it is away."""

import math

import psycopg
import sqlalchemy as sa
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from filemill.retry import Unavailable
from filemill.settings import Settings

# A holder that is stopped inside a transaction must not keep its row locks: a take-over waits for them.
IDLE_IN_TRANSACTION_MILLISECONDS = 2000
STATEMENT_MILLISECONDS = 30_000


def create_engine(settings: Settings, application: str) -> sa.Engine:
    """A pool of connections; opens none by itself. `application` is what pg_stat_activity shows."""
    timeout = settings.server_timeout_seconds
    url = sa.URL.create(
        "postgresql+psycopg",
        username=settings.database_user,
        password=settings.database_password.get_secret_value(),
        host=settings.database_host,
        port=settings.database_port,
        database=settings.database_name,
    )
    engine = sa.create_engine(
        url,
        poolclass=_Pool,
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=timeout,
        pool_pre_ping=True,
        connect_args={
            "application_name": application[:63],
            "connect_timeout": max(2, math.ceil(timeout)),  # libpq takes 1 for 2
            # A server that is cut off, not closed, is noticed within these bounds instead of the kernel's hours.
            "keepalives_idle": 2,
            "keepalives_interval": 1,
            "keepalives_count": 2,
            "tcp_user_timeout": math.ceil(timeout * 1000),
            "options": f"-c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_MILLISECONDS}"
            f" -c statement_timeout={STATEMENT_MILLISECONDS} -c timezone=UTC",
        },
    )

    @sa.event.listens_for(engine, "handle_error")
    def translate(context: sa.engine.ExceptionContext) -> None:
        """Every user of the engine meets one error for a server that is away, or that lacks its schema."""
        if context.is_pre_ping:
            return  # a stale connection of the pool: it is replaced, and nobody needs to know
        error = context.sqlalchemy_exception
        if isinstance(context.original_exception, psycopg.errors.UndefinedTable):
            raise Unavailable(
                f"PostgreSQL at {settings.database_url} has no filemill schema yet: run `filemill migrate`"
            ) from None
        if context.is_disconnect or isinstance(error, OperationalError | InterfaceError):
            gist = first_line(context.original_exception)
            raise Unavailable(f"PostgreSQL at {settings.database_url} is away: {gist}") from None

    return engine


class _Pool(sa.QueuePool):
    """SQLAlchemy's pool, where having no connection left is Unavailable too: workers outlive that like the rest."""

    def _do_get(self) -> sa.pool.ConnectionPoolEntry:
        try:
            return super()._do_get()
        except PoolTimeoutError:
            raise Unavailable(f"PostgreSQL: all {self.size()} connections of this process are busy") from None


def first_line(error: BaseException | None) -> str:
    """The gist of a driver's message, which can be many lines."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
