"""What a SQLSTATE means: each row of the table says enough, and what is not listed falls to the right side."""

import psycopg.errors
import pytest

from filemill.adapters.errors import Answer
from filemill.adapters.postgres.errors import AWAY, ROWS, Drop, Row, meaning


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.state)
def test_each_row_can_be_told_to_people(row: Row) -> None:
    assert len(row.state) in (2, 5)
    assert [other.state for other in ROWS].count(row.state) == 1
    if row.answer is Answer.BUG:
        assert (row.drop, row.problem, row.advice) == (Drop.NONE, "", "")
        return
    assert row.problem
    assert not row.problem.endswith(".")
    assert bool(row.advice) >= (row.answer is Answer.MEND), "who has to act is told how"


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        ("08006", Answer.WAIT),
        ("22003", Answer.BUG),
        ("22P02", Answer.BUG),
        ("23505", Answer.BUG),
        ("25001", Answer.BUG),
        ("25006", Answer.REPEAT),
        ("25P02", Answer.BUG),
        ("28P01", Answer.MEND),
        ("3D000", Answer.MEND),
        ("40001", Answer.REPEAT),
        ("40P01", Answer.REPEAT),
        ("40003", Answer.WAIT),
        ("42501", Answer.MEND),
        ("42601", Answer.BUG),
        ("42703", Answer.MEND),
        ("42P01", Answer.MEND),
        ("53100", Answer.MEND),
        ("53300", Answer.WAIT),
        ("53400", Answer.WAIT),
        ("55P03", Answer.WAIT),
        ("57014", Answer.WAIT),
        ("57P01", Answer.WAIT),
        ("57P03", Answer.WAIT),
        ("58030", Answer.MEND),
        ("AX001", Answer.BUG),  # a class that the standard may come to define
        ("ZZ123", Answer.MEND),  # a vendor's
        ("99999", Answer.MEND),
    ],
)
def test_what_follows_a_sqlstate(state: str, answer: Answer) -> None:
    assert meaning(state, "planted").answer is answer


def test_every_error_that_psycopg_knows_is_somebodys() -> None:
    """The server's are told as such; what remains as a bug are the classes of what was sent."""
    states = [name for name in vars(psycopg.errors).values() if isinstance(name, type)]
    known = {cls.sqlstate for cls in states if issubclass(cls, psycopg.Error) and cls.sqlstate}
    assert len(known) > 200
    bugs = {state[:2] for state in known if meaning(state, "").answer is Answer.BUG}
    standard = {"02", "03", "09", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "22", "23", "24", "25", "27", "2B"}
    assert bugs <= standard | {"2D", "2F", "34", "38", "39", "3B", "42", "44", "54", "P0"}, bugs


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('connection failed: FATAL:  password authentication failed for user "x"', "refuses this user"),
        ('FATAL:  no pg_hba.conf entry for host "::1", user "x", database "y", no encryption', "refuses this user"),
        ('FATAL:  role "x" does not exist', "refuses this user"),
        ('FATAL:  database "x" does not exist', "has no such database"),
        ("FATAL:  sorry, too many clients already", "has no connection left"),
        ("FATAL:  remaining connection slots are reserved for roles with", "has no connection left"),
        ("FATAL:  the database system is starting up", "takes no connections now: it starts, stops or recovers"),
        ("FATAL:  unsupported startup parameter: options", "does not understand this client"),
        ("Connection refused\n\tIs the server running on that host?", AWAY.problem),
        ("server closed the connection unexpectedly", AWAY.problem),
    ],
)
def test_a_refused_connection_is_known_by_its_words(text: str, problem: str) -> None:
    """The client library has no SQLSTATE of it; PgBouncer gives one that says nothing."""
    assert meaning(None, text, connecting=True).problem == problem
    if problem != AWAY.problem:
        assert meaning("08P01", text, connecting=True).problem == problem


def test_no_bug_is_told_while_a_connection_is_made() -> None:
    assert meaning("22023", "invalid value for parameter", connecting=True).answer is Answer.MEND
    assert meaning("22023", "invalid value for parameter").answer is Answer.BUG
