"""PostgreSQL: the engine, and what its errors mean to everybody who uses it."""

import math
from collections.abc import Callable
from typing import TypeVar

import psycopg
import sqlalchemy as sa
import structlog
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from filemill.adapters.client_environment import forget_libpq_variables
from filemill.adapters.errors import MAX_TEXT_CHARACTERS, ErrorCategory, first_line
from filemill.adapters.postgres.errors import Drop, PostgresErrorRule, classify
from filemill.config.settings import Settings
from filemill.errors import Unavailable

# A holder that is stopped inside a transaction must not keep its row locks: a take-over waits for them.
IDLE_IN_TRANSACTION_MILLISECONDS = 2000
STATEMENT_MILLISECONDS = 30_000
_LIMITS = {
    "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_MILLISECONDS,
    "statement_timeout": STATEMENT_MILLISECONDS,
    "timezone": "UTC",
}
# The same for one transaction, in one round trip.
_SET_LIMITS = "SELECT " + ", ".join(f"set_config('{name}', '{value}', true)" for name, value in _LIMITS.items())
# Statements that are logged at most, for each engine, because the server refuses them.
MAX_LOGGED_STATEMENTS = 100
# How often a transaction is done at most where the server undoes it.
MAX_TRANSACTION_ATTEMPTS = 3

# libpq takes a file that is not there for none, and an empty name for ~/.postgresql or ~/.pgpass.
NO_FILE = "/dev/null/none"

# It locks no row, for there is none to lock; a server that is read-only, or grants no UPDATE, refuses it all the same.
_WRITE_NOTHING = sa.text("SELECT FROM leases WHERE false FOR UPDATE")

log = structlog.get_logger("postgres")

T = TypeVar("T")


class TransactionRolledBack(Unavailable):
    """The server undid a transaction, all of it; done again, on a new connection where need be, it may succeed."""


def create_engine(settings: Settings, application: str) -> sa.Engine:
    """A pool of connections; opens none by itself. `application` is what pg_stat_activity shows."""
    forget_libpq_variables()
    timeout = settings.server_timeout_seconds
    engine = sa.create_engine(
        "postgresql+psycopg://",
        poolclass=_Pool,
        pool_size=settings.database_pool_size,
        max_overflow=0,
        pool_timeout=timeout,
        pool_pre_ping=True,
        hide_parameters=True,  # titles, descriptions and what else there is in a row belong in no log
        connect_args={
            **libpq_parameters(settings),
            "application_name": application[:63],
            "connect_timeout": max(2, math.ceil(timeout)),  # libpq takes 1 for 2
            # A server that is cut off, not closed, is noticed within these bounds instead of the kernel's hours.
            "keepalives_idle": 2,
            "keepalives_interval": 1,
            "keepalives_count": 2,
            "tcp_user_timeout": math.ceil(timeout * 1000),
            **session_parameters(settings),
        },
    )

    if settings.database_pooler == "transaction":
        sa.event.listen(engine, "begin", _set_limits)
    told: set[tuple[str, str]] = set()

    def tell_once(state: str, statement: str) -> None:
        """Somebody has to do something about it, and the statement helps; its parameters stay secret."""
        if (state, statement) not in told and len(told) < MAX_LOGGED_STATEMENTS:
            told.add((state, statement))
            log.warning("PostgreSQL refused a statement", sqlstate=state, statement=_one_line(statement))

    @sa.event.listens_for(engine, "handle_error")
    def translate(context: sa.engine.ExceptionContext) -> None:
        """Every user of the engine meets one error for what is the server's, by `postgres_errors`."""
        if context.is_pre_ping:
            context.is_disconnect = True  # whatever ails a connection of the pool: it is replaced
            return
        found = context.original_exception
        row = _row(context)
        if row.category is ErrorCategory.BUG:
            return
        if row.drop is not Drop.NONE:
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = row.drop is Drop.ALL
        if context.statement is not None and not row.transient:
            tell_once(_state(found) or "", context.statement)
        kind = TransactionRolledBack if row.category is ErrorCategory.RETRY else Unavailable
        problem = f"PostgreSQL at {settings.database_url} {row.problem}: {_server_message(found)}"
        raise kind(problem, row.advice, summary=row.problem) from None

    return engine


def libpq_parameters(settings: Settings) -> dict[str, str | int]:
    """Where PostgreSQL is, and how to connect; with it nothing is taken from the user's home folder."""
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
    """How a session is set up at its start. Behind a pooler it is not ours: nothing is set, nothing is prepared."""
    if settings.database_pooler == "transaction":
        return {"prepare_threshold": None}
    return {"options": " ".join(f"-c {name}={value}" for name, value in _LIMITS.items())}


def _set_limits(connection: sa.Connection) -> None:
    connection.exec_driver_sql(_SET_LIMITS)


def in_transaction(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    """Do `work` in a transaction and commit it; once more where the server undid all of it. Raises Unavailable.

    `work` may be called several times, so it must change nothing but the database.
    """
    for tries in range(1, MAX_TRANSACTION_ATTEMPTS + 1):
        try:
            with engine.begin() as connection:
                return work(connection)
        except TransactionRolledBack:
            if tries == MAX_TRANSACTION_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def check_writable(connection: sa.Connection) -> None:
    """Raises Unavailable where this user cannot change rows now, for one where the server is read-only."""
    connection.execute(_WRITE_NOTHING)


def _row(context: sa.engine.ExceptionContext) -> PostgresErrorRule:
    error = context.original_exception
    state = _state(error)
    if state is not None or context.connection is None:
        return classify(state, _server_message(error), connecting=context.connection is None)
    gone = context.is_disconnect or isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return classify(None, _server_message(error)) if gone else PostgresErrorRule("", ErrorCategory.BUG)


def _state(error: BaseException | None) -> str | None:
    return error.sqlstate if isinstance(error, psycopg.Error) else None


def _server_message(error: BaseException | None) -> str:
    """The server's own words, without its detail and its context, which can hold values."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return first_line(error) if primary is None else primary.strip()[:MAX_TEXT_CHARACTERS]


def _one_line(statement: str) -> str:
    return " ".join(statement.split())[:MAX_TEXT_CHARACTERS]


class _Pool(sa.QueuePool):
    """SQLAlchemy's pool, where having no connection left is Unavailable too: workers outlive that like the rest."""

    def _do_get(self) -> sa.pool.ConnectionPoolEntry:
        try:
            return super()._do_get()
        except PoolTimeoutError:
            raise Unavailable(f"PostgreSQL: all {self.size()} connections of this process are busy") from None
