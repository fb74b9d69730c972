"""What an error of PostgreSQL means, by its SQLSTATE (PostgreSQL's documentation, appendix A).

`ROWS` is the whole rule: a SQLSTATE of five characters, or a class, its first two. A SQLSTATE that is not listed is its
class; a class that is not listed is the server's where the SQL standard leaves it to the server, and else a bug.
"""

import enum
import re

import msgspec

from filemill.adapters.errors import Answer


class Drop(enum.Enum):
    """Which connections of the pool are closed and made anew after an error."""

    NONE = "none"
    ONE = "the one that met it"
    ALL = "all that there were at that moment"


class Row(msgspec.Struct, frozen=True):
    """What one SQLSTATE, or one class of them, means.

    `problem` follows "PostgreSQL at ADDRESS" in a sentence, `advice` is a sentence for whoever runs the server.
    """

    state: str
    answer: Answer
    drop: Drop = Drop.NONE
    problem: str = ""
    advice: str = ""

    @property
    def transient(self) -> bool:
        """Whether it passes by itself."""
        return self.answer in (Answer.REPEAT, Answer.WAIT)


_POOLER = (
    "Behind PgBouncer or another pooler set FILEMILL_DATABASE_POOLER=transaction; "
    "else check that FILEMILL_DATABASE_PORT is PostgreSQL's"
)
_CREDENTIALS = "Check FILEMILL_DATABASE_USER and FILEMILL_DATABASE_PASSWORD, and the server's pg_hba.conf"
_SCHEMA = "Run `filemill migrate`; if `filemill doctor` finds the schema in order, this is a bug"
_LOG = "PostgreSQL's log says more"

ROWS: tuple[Row, ...] = (
    Row("08", Answer.WAIT, Drop.ALL, "lost the connection"),
    Row("08P01", Answer.MEND, Drop.ALL, "does not understand this client", _POOLER),
    # "cached plan must not change result type": a migration ran under a session with prepared statements.
    Row("0A", Answer.MEND, Drop.ALL, "does not support what was asked", "filemill needs PostgreSQL 14 or newer"),
    Row("25", Answer.BUG),
    Row(
        "25006",
        Answer.REPEAT,
        Drop.ALL,
        "is read-only",
        "Make it writable (it is a standby, or default_transaction_read_only is on), or have FILEMILL_DATABASE_HOST "
        "name the primary",
    ),
    Row("25P03", Answer.WAIT, Drop.ONE, "ended a transaction that was idle for too long"),
    Row("25P04", Answer.WAIT, Drop.ONE, "ended a transaction that took too long"),
    Row("26", Answer.MEND, Drop.ALL, "does not know a statement that was prepared", _POOLER),
    Row("28", Answer.MEND, Drop.NONE, "refuses this user", _CREDENTIALS),
    Row("3D", Answer.MEND, Drop.NONE, "has no such database", "Create it, or check FILEMILL_DATABASE_NAME"),
    Row("3F", Answer.MEND, Drop.NONE, "lacks the schema of this version", _SCHEMA),
    Row("40", Answer.WAIT, Drop.NONE, "rolled a transaction back"),
    Row("40001", Answer.REPEAT, Drop.NONE, "rolled a transaction back for a concurrent one"),
    Row("40003", Answer.WAIT, Drop.ALL, "does not know whether a statement was completed"),
    Row("40P01", Answer.REPEAT, Drop.NONE, "rolled a transaction back to end a deadlock"),
    Row("42", Answer.BUG),
    Row(
        "42501",
        Answer.MEND,
        Drop.NONE,
        "does not grant this user what is needed",
        "Grant it, or check FILEMILL_DATABASE_USER",
    ),
    Row("42703", Answer.MEND, Drop.NONE, "lacks the schema of this version", _SCHEMA),
    Row("42704", Answer.MEND, Drop.NONE, "lacks the schema of this version", _SCHEMA),
    Row("42883", Answer.MEND, Drop.NONE, "lacks the schema of this version", _SCHEMA),
    Row("42P01", Answer.MEND, Drop.NONE, "lacks the schema of this version", _SCHEMA),
    Row("42P05", Answer.MEND, Drop.ALL, "has a statement of another client prepared under the same name", _POOLER),
    Row("53", Answer.WAIT, Drop.NONE, "lacks resources", _LOG),
    Row("53100", Answer.MEND, Drop.NONE, "has a full disk", "Free some space on its disk"),
    Row("53200", Answer.WAIT, Drop.ONE, "is out of memory", _LOG),
    Row(
        "53300",
        Answer.WAIT,
        Drop.NONE,
        "has no connection left",
        "Raise its max_connections, or lower FILEMILL_DATABASE_POOL_SIZE",
    ),
    # It "is not accepting commands", so that no transaction id is given twice.
    Row("54000", Answer.MEND, Drop.NONE, "does not accept commands that write", _LOG),
    Row("55", Answer.WAIT, Drop.NONE, "cannot do it in the state that it is in", _LOG),
    Row("57", Answer.WAIT, Drop.ALL, "was interrupted"),
    Row("57014", Answer.WAIT, Drop.NONE, "took too long, or was told to cancel a statement"),
    Row("57P01", Answer.WAIT, Drop.ALL, "is being shut down, or ended the connection"),
    Row("57P02", Answer.WAIT, Drop.ALL, "restarts after a crash of one of its processes"),
    Row("57P03", Answer.WAIT, Drop.ALL, "takes no connections now: it starts, stops or recovers"),
    Row("57P04", Answer.MEND, Drop.ALL, "dropped the database", "Create it, or check FILEMILL_DATABASE_NAME"),
    Row("57P05", Answer.WAIT, Drop.ONE, "ended a session that was idle for too long"),
    Row("58", Answer.MEND, Drop.ALL, "has trouble with its system", _LOG),
    Row("72", Answer.WAIT, Drop.NONE, "has forgotten a snapshot that is too old"),
    Row("F0", Answer.MEND, Drop.NONE, "has an error in its configuration", _LOG),
    Row("HV", Answer.MEND, Drop.NONE, "has trouble with a foreign table", _LOG),
    Row("P0", Answer.BUG),
    Row("XX", Answer.MEND, Drop.ALL, "has an internal error", _LOG),
    Row("XX001", Answer.MEND, Drop.ALL, "found corrupted data", _LOG),
    Row("XX002", Answer.MEND, Drop.ALL, "found a corrupted index", _LOG),
)
AWAY = Row("", Answer.WAIT, Drop.ALL, "is away")
_SERVERS_OWN = Row("", Answer.MEND, Drop.ALL, "reports an error of its own", _LOG)
_BUG = Row("", Answer.BUG)
_BY_STATE = {row.state: row for row in ROWS}
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


def meaning(state: str | None, text: str, *, connecting: bool = False) -> Row:
    """The row of an error with this SQLSTATE, or with none and this text.

    `connecting`: it came while a connection was made, so that it is the server's or the settings' in any case.
    """
    if state is None or state == "08P01":
        for pattern, known in _PHRASES:
            if pattern.search(text):
                return _BY_STATE[known]
    if state is None:
        return AWAY
    row = _BY_STATE.get(state) or _BY_STATE.get(state[:2])
    if row is None:
        row = _BUG if state[:1] in _STANDARD else _SERVERS_OWN
    return _SERVERS_OWN if connecting and row.answer is Answer.BUG else row
