"""What each error of PostgreSQL means, by its SQLSTATE (PostgreSQL's documentation, appendix A).

`RULES` is the whole table, by SQLSTATE of five characters or by class, the first two. A SQLSTATE without a rule has the
rule of its class. A class without a rule is the server's error if the SQL standard leaves the class to the server, and
a bug otherwise.
"""

import enum
import re

import msgspec

from filemill.adapters.errors import ErrorCategory


class PostgresErrorCode(enum.StrEnum):
    """The machine-readable code of an `Unavailable` that PostgreSQL caused."""

    UNREACHABLE = "postgres-unreachable"
    PROTOCOL_VIOLATION = "postgres-protocol-violation"
    NOT_SUPPORTED = "postgres-not-supported"
    READ_ONLY = "postgres-read-only"
    TRANSACTION_TIMEOUT = "postgres-transaction-timeout"
    PREPARED_STATEMENT = "postgres-prepared-statement"
    AUTHENTICATION = "postgres-authentication"
    UNKNOWN_DATABASE = "postgres-unknown-database"
    SCHEMA = "postgres-schema"
    ROLLED_BACK = "postgres-rolled-back"
    RESULT_UNKNOWN = "postgres-result-unknown"
    AUTHORIZATION = "postgres-authorization"
    RESOURCES = "postgres-resources"
    DISK_FULL = "postgres-disk-full"
    TOO_MANY_CONNECTIONS = "postgres-too-many-connections"
    WRITES_REJECTED = "postgres-writes-rejected"
    OBJECT_STATE = "postgres-object-state"
    INTERRUPTED = "postgres-interrupted"
    STATEMENT_CANCELLED = "postgres-statement-cancelled"
    SHUTDOWN = "postgres-shutdown"
    NOT_ACCEPTING = "postgres-not-accepting"
    SESSION_TIMEOUT = "postgres-session-timeout"
    SYSTEM = "postgres-system"
    SNAPSHOT_TOO_OLD = "postgres-snapshot-too-old"
    CONFIGURATION = "postgres-configuration"
    FOREIGN_TABLE = "postgres-foreign-table"
    INTERNAL = "postgres-internal"
    CORRUPT_DATA = "postgres-corrupt-data"
    SERVER_ERROR = "postgres-server-error"
    POOL_EXHAUSTED = "postgres-pool-exhausted"
    BUG = "postgres-bug"


class Disconnect(enum.Enum):
    """Which connections of the pool are closed after an error."""

    NONE = "none"
    ONE = "the one with the error"
    ALL = "all that are open at that time"


class PostgresErrorRule(msgspec.Struct, frozen=True):
    """What one SQLSTATE, or one class of them, means.

    `problem` follows "PostgreSQL at ADDRESS" in a sentence, `advice` is a sentence for whoever runs the server.
    """

    sqlstate: str
    code: PostgresErrorCode
    category: ErrorCategory
    disconnect: Disconnect = Disconnect.NONE
    problem: str = ""
    advice: str = ""

    @property
    def transient(self) -> bool:
        """Whether the error passes without a change to the server or the settings."""
        return self.category in (ErrorCategory.RETRY, ErrorCategory.TRANSIENT)


_POOLER = (
    "Behind PgBouncer or another pooler set FILEMILL_DATABASE_POOLER=transaction; "
    "else check that FILEMILL_DATABASE_PORT is PostgreSQL's"
)
_CREDENTIALS = "Check FILEMILL_DATABASE_USER and FILEMILL_DATABASE_PASSWORD, and the server's pg_hba.conf"
_SCHEMA = "Run `filemill migrate`; if `filemill doctor` finds the schema in order, this is a bug"
_LOG = "See PostgreSQL's log"

_Code = PostgresErrorCode


def _action(
    sqlstate: str, code: PostgresErrorCode, disconnect: Disconnect, problem: str, advice: str
) -> PostgresErrorRule:
    return PostgresErrorRule(sqlstate, code, ErrorCategory.ACTION_REQUIRED, disconnect, problem, advice)


def _transient(
    sqlstate: str, code: PostgresErrorCode, disconnect: Disconnect, problem: str, advice: str = ""
) -> PostgresErrorRule:
    return PostgresErrorRule(sqlstate, code, ErrorCategory.TRANSIENT, disconnect, problem, advice)


def _retry(
    sqlstate: str, code: PostgresErrorCode, disconnect: Disconnect, problem: str, advice: str = ""
) -> PostgresErrorRule:
    return PostgresErrorRule(sqlstate, code, ErrorCategory.RETRY, disconnect, problem, advice)


def _bug(sqlstate: str) -> PostgresErrorRule:
    return PostgresErrorRule(sqlstate, PostgresErrorCode.BUG, ErrorCategory.BUG)


RULES: tuple[PostgresErrorRule, ...] = (
    _transient("08", _Code.UNREACHABLE, Disconnect.ALL, "lost the connection"),
    _action("08P01", _Code.PROTOCOL_VIOLATION, Disconnect.ALL, "does not understand this client", _POOLER),
    # "cached plan must not change result type": a migration ran during a session with prepared statements.
    _action(
        "0A",
        _Code.NOT_SUPPORTED,
        Disconnect.ALL,
        "does not support the statement",
        "filemill needs PostgreSQL 14 or newer",
    ),
    _bug("25"),
    _retry(
        "25006",
        _Code.READ_ONLY,
        Disconnect.ALL,
        "is read-only",
        "Make it writable (it is a standby, or default_transaction_read_only is on), or set FILEMILL_DATABASE_HOST "
        "to the primary",
    ),
    _transient("25P03", _Code.TRANSACTION_TIMEOUT, Disconnect.ONE, "ended a transaction that was idle for too long"),
    _transient("25P04", _Code.TRANSACTION_TIMEOUT, Disconnect.ONE, "ended a transaction that took too long"),
    _action("26", _Code.PREPARED_STATEMENT, Disconnect.ALL, "does not know a prepared statement", _POOLER),
    _action("28", _Code.AUTHENTICATION, Disconnect.NONE, "rejects this user", _CREDENTIALS),
    _action(
        "3D",
        _Code.UNKNOWN_DATABASE,
        Disconnect.NONE,
        "has no such database",
        "Create it, or check FILEMILL_DATABASE_NAME",
    ),
    _action("3F", _Code.SCHEMA, Disconnect.NONE, "lacks the schema of this version", _SCHEMA),
    _transient("40", _Code.ROLLED_BACK, Disconnect.NONE, "rolled a transaction back"),
    _retry("40001", _Code.ROLLED_BACK, Disconnect.NONE, "rolled a transaction back because of a concurrent one"),
    _transient("40003", _Code.RESULT_UNKNOWN, Disconnect.ALL, "does not know whether a statement was completed"),
    _retry("40P01", _Code.ROLLED_BACK, Disconnect.NONE, "rolled a transaction back to resolve a deadlock"),
    _bug("42"),
    _action(
        "42501",
        _Code.AUTHORIZATION,
        Disconnect.NONE,
        "does not grant this user the required rights",
        "Grant it, or check FILEMILL_DATABASE_USER",
    ),
    _action("42703", _Code.SCHEMA, Disconnect.NONE, "lacks the schema of this version", _SCHEMA),
    _action("42704", _Code.SCHEMA, Disconnect.NONE, "lacks the schema of this version", _SCHEMA),
    _action("42883", _Code.SCHEMA, Disconnect.NONE, "lacks the schema of this version", _SCHEMA),
    _action("42P01", _Code.SCHEMA, Disconnect.NONE, "lacks the schema of this version", _SCHEMA),
    _action(
        "42P05",
        _Code.PREPARED_STATEMENT,
        Disconnect.ALL,
        "has a prepared statement of another client under the same name",
        _POOLER,
    ),
    _transient("53", _Code.RESOURCES, Disconnect.NONE, "lacks resources", _LOG),
    _action("53100", _Code.DISK_FULL, Disconnect.NONE, "has a full disk", "Free space on its disk"),
    _transient("53200", _Code.RESOURCES, Disconnect.ONE, "is out of memory", _LOG),
    _transient(
        "53300",
        _Code.TOO_MANY_CONNECTIONS,
        Disconnect.NONE,
        "has no free connection",
        "Raise its max_connections, or lower FILEMILL_DATABASE_POOL_SIZE",
    ),
    # It "is not accepting commands" that assign a transaction id, because none are left.
    _action("54000", _Code.WRITES_REJECTED, Disconnect.NONE, "rejects commands that write", _LOG),
    _transient("55", _Code.OBJECT_STATE, Disconnect.NONE, "cannot execute the statement in its present state", _LOG),
    _transient("57", _Code.INTERRUPTED, Disconnect.ALL, "was interrupted"),
    _transient(
        "57014",
        _Code.STATEMENT_CANCELLED,
        Disconnect.NONE,
        "cancelled a statement that took too long, or on request",
    ),
    _transient("57P01", _Code.SHUTDOWN, Disconnect.ALL, "is shutting down, or ended the connection"),
    _transient("57P02", _Code.SHUTDOWN, Disconnect.ALL, "restarts after a crash of one of its processes"),
    _transient("57P03", _Code.NOT_ACCEPTING, Disconnect.ALL, "accepts no connections: it starts, stops or recovers"),
    _action(
        "57P04",
        _Code.UNKNOWN_DATABASE,
        Disconnect.ALL,
        "dropped the database",
        "Create it, or check FILEMILL_DATABASE_NAME",
    ),
    _transient("57P05", _Code.SESSION_TIMEOUT, Disconnect.ONE, "ended a session that was idle for too long"),
    _action("58", _Code.SYSTEM, Disconnect.ALL, "reports an error of its operating system", _LOG),
    _transient("72", _Code.SNAPSHOT_TOO_OLD, Disconnect.NONE, "discarded a snapshot that is too old"),
    _action("F0", _Code.CONFIGURATION, Disconnect.NONE, "has an error in its configuration", _LOG),
    _action("HV", _Code.FOREIGN_TABLE, Disconnect.NONE, "reports an error of a foreign table", _LOG),
    _bug("P0"),
    _action("XX", _Code.INTERNAL, Disconnect.ALL, "has an internal error", _LOG),
    _action("XX001", _Code.CORRUPT_DATA, Disconnect.ALL, "found corrupted data", _LOG),
    _action("XX002", _Code.CORRUPT_DATA, Disconnect.ALL, "found a corrupted index", _LOG),
)
UNREACHABLE = PostgresErrorRule(
    "", PostgresErrorCode.UNREACHABLE, ErrorCategory.TRANSIENT, Disconnect.ALL, "is unreachable"
)
BUG = PostgresErrorRule("", PostgresErrorCode.BUG, ErrorCategory.BUG)
_SERVER_ERROR = PostgresErrorRule(
    "",
    PostgresErrorCode.SERVER_ERROR,
    ErrorCategory.ACTION_REQUIRED,
    Disconnect.ALL,
    "reports a server error",
    _LOG,
)
_BY_SQLSTATE = {rule.sqlstate: rule for rule in RULES}
# The classes of the SQL standard begin with 0 to 4 or A to H; all others belong to the server.
_STANDARD = frozenset("01234ABCDEFGH")

# libpq does not expose the SQLSTATE of a rejected connection, and PgBouncer reports nearly every error as 08P01.
_PHRASES = tuple(
    (re.compile(pattern), sqlstate)
    for pattern, sqlstate in (
        (r"unsupported startup parameter", "08P01"),
        (r"authentication failed|no pg_hba.conf entry|role \S+ does not exist|no such user|SASL", "28"),
        (r"database \S+ does not exist|no such database", "3D"),
        (r"too many (clients|connections)|connection slots|no more connections allowed", "53300"),
        (r"is starting up|is shutting down|in recovery mode|not (yet )?accepting|shut down", "57P03"),
        (r"permission denied for database", "42501"),
    )
)


def classify(sqlstate: str | None, text: str, *, connecting: bool = False) -> PostgresErrorRule:
    """The rule of an error with this SQLSTATE, or without one and with this text.

    `connecting`: the error came while a connection was opened. Then it is never a bug: the cause is the server or the
    settings.
    """
    if sqlstate is None or sqlstate == "08P01":
        for pattern, known in _PHRASES:
            if pattern.search(text):
                return _BY_SQLSTATE[known]
    if sqlstate is None:
        return UNREACHABLE
    rule = _BY_SQLSTATE.get(sqlstate) or _BY_SQLSTATE.get(sqlstate[:2])
    if rule is None:
        rule = BUG if sqlstate[:1] in _STANDARD else _SERVER_ERROR
    return _SERVER_ERROR if connecting and rule.category is ErrorCategory.BUG else rule
