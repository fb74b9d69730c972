"""PostgreSQL: the engine and the translation of its errors."""

import math
from collections.abc import Callable
from typing import TypeVar

import psycopg
import sqlalchemy as sa
import structlog
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from filemill.adapters.client_environment import forget_libpq_variables
from filemill.adapters.errors import MAX_TEXT_CHARACTERS, ErrorCategory, first_line
from filemill.adapters.postgres.errors import BUG, Disconnect, PostgresErrorCode, PostgresErrorRule, classify
from filemill.config.settings import Settings
from filemill.errors import Unavailable

# A lease holder that is suspended inside a transaction must not keep its row locks: a take-over waits for them.
IDLE_IN_TRANSACTION_MILLISECONDS = 2000
STATEMENT_MILLISECONDS = 30_000
_LIMITS = {
    "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_MILLISECONDS,
    "statement_timeout": STATEMENT_MILLISECONDS,
    "timezone": "UTC",
}
# The same limits for one transaction, in one round trip.
_SET_LIMITS = "SELECT " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in _LIMITS.items())
# The most rejected statements that are logged for each engine.
MAX_LOGGED_STATEMENTS = 100
# A transaction that the server rolls back is attempted at most so often.
MAX_TRANSACTION_ATTEMPTS = 3

# libpq ignores a file that does not exist, but reads ~/.postgresql or ~/.pgpass for an empty name.
NO_FILE = "/dev/null/none"

# Locks no row, because none matches; a server that is read-only or does not grant UPDATE rejects it nevertheless.
_WRITE_NOTHING = sa.text("SELECT FROM leases WHERE false FOR UPDATE")

log = structlog.get_logger("postgres")

T = TypeVar("T")


class TransactionRolledBack(Unavailable):
    """The server rolled a transaction back completely. A retry, on a new connection if necessary, may succeed."""


def create_engine(settings: Settings, application: str) -> sa.Engine:
    """A pool of connections; opens none yet. `application` is the name shown in pg_stat_activity."""
    forget_libpq_variables()
    timeout = settings.server_timeout_seconds
    engine = sa.create_engine(
        "postgresql+psycopg://",
        poolclass=_Pool,
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=timeout,
        pool_pre_ping=True,
        hide_parameters=True,  # titles, descriptions and other values must not be logged
        connect_args={
            **libpq_parameters(settings),
            "application_name": application[:63],
            "connect_timeout": max(2, math.ceil(timeout)),  # libpq treats 1 as 2
            # Detects a cut connection within seconds; the kernel's defaults take hours.
            "keepalives_idle": 2,
            "keepalives_interval": 1,
            "keepalives_count": 2,
            "tcp_user_timeout": math.ceil(timeout * 1000),
            **session_parameters(settings),
        },
    )

    if settings.database_pooler == "transaction":
        sa.event.listen(engine, "begin", _set_limits)
    logged: set[tuple[str, str]] = set()

    def log_once(sqlstate: str, statement: str) -> None:
        """Log a rejected statement without its parameters, once."""
        if (sqlstate, statement) not in logged and len(logged) < MAX_LOGGED_STATEMENTS:
            logged.add((sqlstate, statement))
            log.warning("PostgreSQL rejected a statement", sqlstate=sqlstate, statement=_one_line(statement))

    @sa.event.listens_for(engine, "handle_error")
    def translate(context: sa.engine.ExceptionContext) -> None:
        """Raise Unavailable for an error of the server, by its rule."""
        if context.is_pre_ping:
            context.is_disconnect = True  # a pooled connection that fails its ping is replaced
            return
        error = context.original_exception
        rule = _rule_of(context)
        if rule.category is ErrorCategory.BUG:
            return
        if rule.disconnect is not Disconnect.NONE:
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = rule.disconnect is Disconnect.ALL
        if context.statement is not None and not rule.transient:
            log_once(_sqlstate(error) or "", context.statement)
        kind = TransactionRolledBack if rule.category is ErrorCategory.RETRY else Unavailable
        problem = f"PostgreSQL at {settings.database_url} {rule.problem}: {_server_message(error)}"
        raise kind(problem, rule.advice, summary=rule.problem, code=rule.code) from None

    return engine


def libpq_parameters(settings: Settings) -> dict[str, str | int]:
    """The parameters of a connection. They are complete: libpq reads nothing from the user's home folder."""
    bundle = settings.database_ca_bundle
    by_the_system = bundle is None and settings.database_sslmode == "verify-full"
    return {
        "host": settings.database_host,
        "port": settings.database_port,
        "user": settings.database_user,
        "password": settings.database_password.get_secret_value(),
        "dbname": settings.database_name,
        "client_encoding": "utf8",
        "gssencmode": "disable",
        "sslmode": settings.database_sslmode,
        "sslrootcert": "system" if by_the_system else str(bundle or NO_FILE),
        "sslcert": NO_FILE,
        "sslcrl": NO_FILE,
        "passfile": NO_FILE,
    }


def session_parameters(settings: Settings) -> dict[str, object]:
    """The session's options. Behind a pooler sessions are shared: no options and no prepared statements."""
    if settings.database_pooler == "transaction":
        return {"prepare_threshold": None}
    return {"options": " ".join(f"-c {name}={value}" for name, value in _LIMITS.items())}


def _set_limits(connection: sa.Connection) -> None:
    connection.exec_driver_sql(_SET_LIMITS)


def in_transaction(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    """Run `work` in a transaction and commit it; retry if the server rolled it back. Raises Unavailable.

    `work` may be called several times, so it must change only the database.
    """
    for attempt in range(1, MAX_TRANSACTION_ATTEMPTS + 1):
        try:
            with engine.begin() as connection:
                return work(connection)
        except TransactionRolledBack:
            if attempt == MAX_TRANSACTION_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def check_writable(connection: sa.Connection) -> None:
    """Raises Unavailable if this user cannot change rows now, for example because the server is read-only."""
    connection.execute(_WRITE_NOTHING)


def _rule_of(context: sa.engine.ExceptionContext) -> PostgresErrorRule:
    error = context.original_exception
    sqlstate = _sqlstate(error)
    if sqlstate is not None or context.connection is None:
        return classify(sqlstate, _server_message(error), connecting=context.connection is None)
    disconnected = context.is_disconnect or isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return classify(None, _server_message(error)) if disconnected else BUG


def _sqlstate(error: BaseException | None) -> str | None:
    return error.sqlstate if isinstance(error, psycopg.Error) else None


def _server_message(error: BaseException | None) -> str:
    """The server's primary message, without detail and context, which can contain values."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return first_line(error) if primary is None else primary.strip()[:MAX_TEXT_CHARACTERS]


def _one_line(statement: str) -> str:
    return " ".join(statement.split())[:MAX_TEXT_CHARACTERS]


class _Pool(sa.QueuePool):
    """SQLAlchemy's pool; raises Unavailable if it has no free connection, so that workers retry."""

    def _do_get(self) -> sa.pool.ConnectionPoolEntry:
        try:
            return super()._do_get()
        except PoolTimeoutError:
            problem = f"PostgreSQL: all {self.size()} connections of this process are in use"
            raise Unavailable(problem, code=PostgresErrorCode.POOL_EXHAUSTED) from None
