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


class Drop(enum.Enum):
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
    drop: Drop = Drop.NONE
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

RULES: tuple[PostgresErrorRule, ...] = (
    PostgresErrorRule("08", PostgresErrorCode.UNREACHABLE, ErrorCategory.TRANSIENT, Drop.ALL, "lost the connection"),
    PostgresErrorRule(
        "08P01",
        PostgresErrorCode.PROTOCOL_VIOLATION,
        ErrorCategory.ACTION_REQUIRED,
        Drop.ALL,
        "does not understand this client",
        _POOLER,
    ),
    # "cached plan must not change result type": a migration ran during a session with prepared statements.
    PostgresErrorRule(
        "0A",
        PostgresErrorCode.NOT_SUPPORTED,
        ErrorCategory.ACTION_REQUIRED,
        Drop.ALL,
        "does not support the statement",
        "filemill needs PostgreSQL 14 or newer",
    ),
    PostgresErrorRule("25", PostgresErrorCode.BUG, ErrorCategory.BUG),
    PostgresErrorRule(
        "25006",
        PostgresErrorCode.READ_ONLY,
        ErrorCategory.RETRY,
        Drop.ALL,
        "is read-only",
        "Make it writable (it is a standby, or default_transaction_read_only is on), or set FILEMILL_DATABASE_HOST "
        "to the primary",
    ),
    PostgresErrorRule(
        "25P03",
        PostgresErrorCode.TRANSACTION_TIMEOUT,
        ErrorCategory.TRANSIENT,
        Drop.ONE,
        "ended a transaction that was idle for too long",
    ),
    PostgresErrorRule(
        "25P04",
        PostgresErrorCode.TRANSACTION_TIMEOUT,
        ErrorCategory.TRANSIENT,
        Drop.ONE,
        "ended a transaction that took too long",
    ),
    PostgresErrorRule(
        "26",
        PostgresErrorCode.PREPARED_STATEMENT,
        ErrorCategory.ACTION_REQUIRED,
        Drop.ALL,
        "does not know a prepared statement",
        _POOLER,
    ),
    PostgresErrorRule(
        "28",
        PostgresErrorCode.AUTHENTICATION,
        ErrorCategory.ACTION_REQUIRED,
        Drop.NONE,
        "rejects this user",
        _CREDENTIALS,
    ),
    PostgresErrorRule(
        "3D",
        PostgresErrorCode.UNKNOWN_DATABASE,
        ErrorCategory.ACTION_REQUIRED,
        Drop.NONE,
        "has no such database",
        "Create it, or check FILEMILL_DATABASE_NAME",
    ),
    PostgresErrorRule(
        "3F",
        PostgresErrorCode.SCHEMA,
        ErrorCategory.ACTION_REQUIRED,
        Drop.NONE,
        "lacks the schema of this version",
        _SCHEMA,
    ),
    PostgresErrorRule(
        "40", PostgresErrorCode.ROLLED_BACK, ErrorCategory.TRANSIENT, Drop.NONE, "rolled a transaction back"
    ),
    PostgresErrorRule(
        "40001",
        PostgresErrorCode.ROLLED_BACK,
        ErrorCategory.RETRY,
        Drop.NONE,
        "rolled a transaction back because of a concurrent one",
    ),
    PostgresErrorRule(
        "40003",
        PostgresErrorCode.RESULT_UNKNOWN,
        ErrorCategory.TRANSIENT,
        Drop.ALL,
        "does not know whether a statement was completed",
    ),
    PostgresErrorRule(
        "40P01",
        PostgresErrorCode.ROLLED_BACK,
        ErrorCategory.RETRY,
        Drop.NONE,
        "rolled a transaction back to resolve a deadlock",
    ),
    PostgresErrorRule("42", PostgresErrorCode.BUG, ErrorCategory.BUG),
    PostgresErrorRule(
        "42501",
        PostgresErrorCode.AUTHORIZATION,
        ErrorCategory.ACTION_REQUIRED,
        Drop.NONE,
        "does not grant this user the required rights",
        "Grant it, or check FILEMILL_DATABASE_USER",
    ),
    PostgresErrorRule(
        "42703",
        PostgresErrorCode.SCHEMA,
        ErrorCategory.ACTION_REQUIRED,
        Drop.NONE,
        "lacks the schema of this version",
        _SCHEMA,
    ),
    PostgresErrorRule(
        "42704",
        PostgresErrorCode.SCHEMA,
        ErrorCategory.ACTION_REQUIRED,
        Drop.NONE,
        "lacks the schema of this version",
        _SCHEMA,
    ),
    PostgresErrorRule(
        "42883",
        PostgresErrorCode.SCHEMA,
        ErrorCategory.ACTION_REQUIRED,
        Drop.NONE,
        "lacks the schema of this version",
        _SCHEMA,
    ),
    PostgresErrorRule(
        "42P01",
        PostgresErrorCode.SCHEMA,
        ErrorCategory.ACTION_REQUIRED,
        Drop.NONE,
        "lacks the schema of this version",
        _SCHEMA,
    ),
    PostgresErrorRule(
        "42P05",
        PostgresErrorCode.PREPARED_STATEMENT,
        ErrorCategory.ACTION_REQUIRED,
        Drop.ALL,
        "has a prepared statement of another client under the same name",
        _POOLER,
    ),
    PostgresErrorRule("53", PostgresErrorCode.RESOURCES, ErrorCategory.TRANSIENT, Drop.NONE, "lacks resources", _LOG),
    PostgresErrorRule(
        "53100",
        PostgresErrorCode.DISK_FULL,
        ErrorCategory.ACTION_REQUIRED,
        Drop.NONE,
        "has a full disk",
        "Free space on its disk",
    ),
    PostgresErrorRule(
        "53200", PostgresErrorCode.RESOURCES, ErrorCategory.TRANSIENT, Drop.ONE, "is out of memory", _LOG
    ),
    PostgresErrorRule(
        "53300",
        PostgresErrorCode.TOO_MANY_CONNECTIONS,
        ErrorCategory.TRANSIENT,
        Drop.NONE,
        "has no free connection",
        "Raise its max_connections, or lower FILEMILL_DATABASE_POOL_SIZE",
    ),
    # It "is not accepting commands" that assign a transaction id, because none are left.
    PostgresErrorRule(
        "54000",
        PostgresErrorCode.WRITES_REJECTED,
        ErrorCategory.ACTION_REQUIRED,
        Drop.NONE,
        "rejects commands that write",
        _LOG,
    ),
    PostgresErrorRule(
        "55",
        PostgresErrorCode.OBJECT_STATE,
        ErrorCategory.TRANSIENT,
        Drop.NONE,
        "cannot execute the statement in its present state",
        _LOG,
    ),
    PostgresErrorRule("57", PostgresErrorCode.INTERRUPTED, ErrorCategory.TRANSIENT, Drop.ALL, "was interrupted"),
    PostgresErrorRule(
        "57014",
        PostgresErrorCode.STATEMENT_CANCELLED,
        ErrorCategory.TRANSIENT,
        Drop.NONE,
        "took too long, or was told to cancel a statement",
    ),
    PostgresErrorRule(
        "57P01",
        PostgresErrorCode.SHUTDOWN,
        ErrorCategory.TRANSIENT,
        Drop.ALL,
        "is shutting down, or ended the connection",
    ),
    PostgresErrorRule(
        "57P02",
        PostgresErrorCode.SHUTDOWN,
        ErrorCategory.TRANSIENT,
        Drop.ALL,
        "restarts after a crash of one of its processes",
    ),
    PostgresErrorRule(
        "57P03",
        PostgresErrorCode.NOT_ACCEPTING,
        ErrorCategory.TRANSIENT,
        Drop.ALL,
        "accepts no connections: it starts, stops or recovers",
    ),
    PostgresErrorRule(
        "57P04",
        PostgresErrorCode.UNKNOWN_DATABASE,
        ErrorCategory.ACTION_REQUIRED,
        Drop.ALL,
        "dropped the database",
        "Create it, or check FILEMILL_DATABASE_NAME",
    ),
    PostgresErrorRule(
        "57P05",
        PostgresErrorCode.SESSION_TIMEOUT,
        ErrorCategory.TRANSIENT,
        Drop.ONE,
        "ended a session that was idle for too long",
    ),
    PostgresErrorRule(
        "58",
        PostgresErrorCode.SYSTEM,
        ErrorCategory.ACTION_REQUIRED,
        Drop.ALL,
        "reports an error of its operating system",
        _LOG,
    ),
    PostgresErrorRule(
        "72",
        PostgresErrorCode.SNAPSHOT_TOO_OLD,
        ErrorCategory.TRANSIENT,
        Drop.NONE,
        "discarded a snapshot that is too old",
    ),
    PostgresErrorRule(
        "F0",
        PostgresErrorCode.CONFIGURATION,
        ErrorCategory.ACTION_REQUIRED,
        Drop.NONE,
        "has an error in its configuration",
        _LOG,
    ),
    PostgresErrorRule(
        "HV",
        PostgresErrorCode.FOREIGN_TABLE,
        ErrorCategory.ACTION_REQUIRED,
        Drop.NONE,
        "reports an error of a foreign table",
        _LOG,
    ),
    PostgresErrorRule("P0", PostgresErrorCode.BUG, ErrorCategory.BUG),
    PostgresErrorRule(
        "XX", PostgresErrorCode.INTERNAL, ErrorCategory.ACTION_REQUIRED, Drop.ALL, "has an internal error", _LOG
    ),
    PostgresErrorRule(
        "XX001", PostgresErrorCode.CORRUPT_DATA, ErrorCategory.ACTION_REQUIRED, Drop.ALL, "found corrupted data", _LOG
    ),
    PostgresErrorRule(
        "XX002",
        PostgresErrorCode.CORRUPT_DATA,
        ErrorCategory.ACTION_REQUIRED,
        Drop.ALL,
        "found a corrupted index",
        _LOG,
    ),
)
UNREACHABLE = PostgresErrorRule("", PostgresErrorCode.UNREACHABLE, ErrorCategory.TRANSIENT, Drop.ALL, "is unreachable")
BUG = PostgresErrorRule("", PostgresErrorCode.BUG, ErrorCategory.BUG)
_SERVER_ERROR = PostgresErrorRule(
    "", PostgresErrorCode.SERVER_ERROR, ErrorCategory.ACTION_REQUIRED, Drop.ALL, "reports a server error", _LOG
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
