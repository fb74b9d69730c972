"""What an error of PostgreSQL means, by its SQLSTATE (PostgreSQL's documentation, appendix A).

`ROWS` is the whole rule: a SQLSTATE of five characters, or a class, its first two. A SQLSTATE that is not listed is its
class; a class that is not listed is the server's where the SQL standard leaves it to the server, and else a bug.
"""

import enum
import re

import msgspec

from filemill.adapters.errors import ErrorCategory


class Drop(enum.Enum):
    """Which connections of the pool are closed and made anew after an error."""

    NONE = "none"
    ONE = "the one that met it"
    ALL = "all that there were at that moment"


class PostgresErrorRule(msgspec.Struct, frozen=True):
    """What one SQLSTATE, or one class of them, means.

    `problem` follows "PostgreSQL at ADDRESS" in a sentence, `advice` is a sentence for whoever runs the server.
    """

    sqlstate: str
    category: ErrorCategory
    drop: Drop = Drop.NONE
    problem: str = ""
    advice: str = ""

    @property
    def transient(self) -> bool:
        """Whether it passes by itself."""
        return self.category in (ErrorCategory.RETRY, ErrorCategory.TRANSIENT)


_POOLER = (
    "Behind PgBouncer or another pooler set FILEMILL_DATABASE_POOLER=transaction; "
    "else check that FILEMILL_DATABASE_PORT is PostgreSQL's"
)
_CREDENTIALS = "Check FILEMILL_DATABASE_USER and FILEMILL_DATABASE_PASSWORD, and the server's pg_hba.conf"
_SCHEMA = "Run `filemill migrate`; if `filemill doctor` finds the schema in order, this is a bug"
_LOG = "PostgreSQL's log says more"

RULES: tuple[PostgresErrorRule, ...] = (
    PostgresErrorRule("08", ErrorCategory.TRANSIENT, Drop.ALL, "lost the connection"),
    PostgresErrorRule("08P01", ErrorCategory.ACTION_REQUIRED, Drop.ALL, "does not understand this client", _POOLER),
    # "cached plan must not change result type": a migration ran under a session with prepared statements.
    PostgresErrorRule(
        "0A",
        ErrorCategory.ACTION_REQUIRED,
        Drop.ALL,
        "does not support what was asked",
        "filemill needs PostgreSQL 14 or newer",
    ),
    PostgresErrorRule("25", ErrorCategory.BUG),
    PostgresErrorRule(
        "25006",
        ErrorCategory.RETRY,
        Drop.ALL,
        "is read-only",
        "Make it writable (it is a standby, or default_transaction_read_only is on), or have FILEMILL_DATABASE_HOST "
        "name the primary",
    ),
    PostgresErrorRule("25P03", ErrorCategory.TRANSIENT, Drop.ONE, "ended a transaction that was idle for too long"),
    PostgresErrorRule("25P04", ErrorCategory.TRANSIENT, Drop.ONE, "ended a transaction that took too long"),
    PostgresErrorRule(
        "26", ErrorCategory.ACTION_REQUIRED, Drop.ALL, "does not know a statement that was prepared", _POOLER
    ),
    PostgresErrorRule("28", ErrorCategory.ACTION_REQUIRED, Drop.NONE, "refuses this user", _CREDENTIALS),
    PostgresErrorRule(
        "3D",
        ErrorCategory.ACTION_REQUIRED,
        Drop.NONE,
        "has no such database",
        "Create it, or check FILEMILL_DATABASE_NAME",
    ),
    PostgresErrorRule("3F", ErrorCategory.ACTION_REQUIRED, Drop.NONE, "lacks the schema of this version", _SCHEMA),
    PostgresErrorRule("40", ErrorCategory.TRANSIENT, Drop.NONE, "rolled a transaction back"),
    PostgresErrorRule("40001", ErrorCategory.RETRY, Drop.NONE, "rolled a transaction back for a concurrent one"),
    PostgresErrorRule("40003", ErrorCategory.TRANSIENT, Drop.ALL, "does not know whether a statement was completed"),
    PostgresErrorRule("40P01", ErrorCategory.RETRY, Drop.NONE, "rolled a transaction back to end a deadlock"),
    PostgresErrorRule("42", ErrorCategory.BUG),
    PostgresErrorRule(
        "42501",
        ErrorCategory.ACTION_REQUIRED,
        Drop.NONE,
        "does not grant this user what is needed",
        "Grant it, or check FILEMILL_DATABASE_USER",
    ),
    PostgresErrorRule("42703", ErrorCategory.ACTION_REQUIRED, Drop.NONE, "lacks the schema of this version", _SCHEMA),
    PostgresErrorRule("42704", ErrorCategory.ACTION_REQUIRED, Drop.NONE, "lacks the schema of this version", _SCHEMA),
    PostgresErrorRule("42883", ErrorCategory.ACTION_REQUIRED, Drop.NONE, "lacks the schema of this version", _SCHEMA),
    PostgresErrorRule("42P01", ErrorCategory.ACTION_REQUIRED, Drop.NONE, "lacks the schema of this version", _SCHEMA),
    PostgresErrorRule(
        "42P05",
        ErrorCategory.ACTION_REQUIRED,
        Drop.ALL,
        "has a statement of another client prepared under the same name",
        _POOLER,
    ),
    PostgresErrorRule("53", ErrorCategory.TRANSIENT, Drop.NONE, "lacks resources", _LOG),
    PostgresErrorRule(
        "53100", ErrorCategory.ACTION_REQUIRED, Drop.NONE, "has a full disk", "Free some space on its disk"
    ),
    PostgresErrorRule("53200", ErrorCategory.TRANSIENT, Drop.ONE, "is out of memory", _LOG),
    PostgresErrorRule(
        "53300",
        ErrorCategory.TRANSIENT,
        Drop.NONE,
        "has no connection left",
        "Raise its max_connections, or lower FILEMILL_DATABASE_POOL_SIZE",
    ),
    # It "is not accepting commands", so that no transaction id is given twice.
    PostgresErrorRule("54000", ErrorCategory.ACTION_REQUIRED, Drop.NONE, "does not accept commands that write", _LOG),
    PostgresErrorRule("55", ErrorCategory.TRANSIENT, Drop.NONE, "cannot do it in the state that it is in", _LOG),
    PostgresErrorRule("57", ErrorCategory.TRANSIENT, Drop.ALL, "was interrupted"),
    PostgresErrorRule("57014", ErrorCategory.TRANSIENT, Drop.NONE, "took too long, or was told to cancel a statement"),
    PostgresErrorRule("57P01", ErrorCategory.TRANSIENT, Drop.ALL, "is being shut down, or ended the connection"),
    PostgresErrorRule("57P02", ErrorCategory.TRANSIENT, Drop.ALL, "restarts after a crash of one of its processes"),
    PostgresErrorRule(
        "57P03", ErrorCategory.TRANSIENT, Drop.ALL, "takes no connections now: it starts, stops or recovers"
    ),
    PostgresErrorRule(
        "57P04",
        ErrorCategory.ACTION_REQUIRED,
        Drop.ALL,
        "dropped the database",
        "Create it, or check FILEMILL_DATABASE_NAME",
    ),
    PostgresErrorRule("57P05", ErrorCategory.TRANSIENT, Drop.ONE, "ended a session that was idle for too long"),
    PostgresErrorRule("58", ErrorCategory.ACTION_REQUIRED, Drop.ALL, "has trouble with its system", _LOG),
    PostgresErrorRule("72", ErrorCategory.TRANSIENT, Drop.NONE, "has forgotten a snapshot that is too old"),
    PostgresErrorRule("F0", ErrorCategory.ACTION_REQUIRED, Drop.NONE, "has an error in its configuration", _LOG),
    PostgresErrorRule("HV", ErrorCategory.ACTION_REQUIRED, Drop.NONE, "has trouble with a foreign table", _LOG),
    PostgresErrorRule("P0", ErrorCategory.BUG),
    PostgresErrorRule("XX", ErrorCategory.ACTION_REQUIRED, Drop.ALL, "has an internal error", _LOG),
    PostgresErrorRule("XX001", ErrorCategory.ACTION_REQUIRED, Drop.ALL, "found corrupted data", _LOG),
    PostgresErrorRule("XX002", ErrorCategory.ACTION_REQUIRED, Drop.ALL, "found a corrupted index", _LOG),
)
UNREACHABLE = PostgresErrorRule("", ErrorCategory.TRANSIENT, Drop.ALL, "is away")
_SERVER_ERROR = PostgresErrorRule("", ErrorCategory.ACTION_REQUIRED, Drop.ALL, "reports an error of its own", _LOG)
_BUG = PostgresErrorRule("", ErrorCategory.BUG)
_BY_STATE = {row.sqlstate: row for row in RULES}
# The standard's classes begin with 0 to 4 or A to H; all others are the server's.
_STANDARD = frozenset("01234ABCDEFGH")

# libpq keeps the SQLSTATE of a refused connection to itself, and PgBouncer says 08P01 of nearly everything.
_PHRASES = tuple(
    (re.compile(pattern), state)
    for pattern, state in (
        (r"unsupported startup parameter", "08P01"),
        (r"authentication failed|no pg_hba.conf entry|role \S+ does not exist|no such user|SASL", "28"),
        (r"database \S+ does not exist|no such database", "3D"),
        (r"too many (clients|connections)|connection slots|no more connections allowed", "53300"),
        (r"is starting up|is shutting down|in recovery mode|not (yet )?accepting|shut down", "57P03"),
        (r"permission denied for database", "42501"),
    )
)


def classify(state: str | None, text: str, *, connecting: bool = False) -> PostgresErrorRule:
    """The row of an error with this SQLSTATE, or with none and this text.

    `connecting`: it came while a connection was made, so that it is the server's or the settings' in any case.
    """
    if state is None or state == "08P01":
        for pattern, known in _PHRASES:
            if pattern.search(text):
                return _BY_STATE[known]
    if state is None:
        return UNREACHABLE
    row = _BY_STATE.get(state) or _BY_STATE.get(state[:2])
    if row is None:
        row = _BUG if state[:1] in _STANDARD else _SERVER_ERROR
    return _SERVER_ERROR if connecting and row.category is ErrorCategory.BUG else row
