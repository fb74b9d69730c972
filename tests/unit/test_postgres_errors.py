"""What a SQLSTATE means: each row of the table says enough, and what is not listed falls to the right side."""

import psycopg.errors
import pytest

from filemill.adapters.errors import ErrorCategory
from filemill.adapters.postgres.errors import RULES, UNREACHABLE, Drop, PostgresErrorRule, classify


@pytest.mark.parametrize("row", RULES, ids=lambda row: row.state)
def test_each_row_can_be_told_to_people(row: PostgresErrorRule) -> None:
    assert len(row.sqlstate) in (2, 5)
    assert [other.sqlstate for other in RULES].count(row.sqlstate) == 1
    if row.category is ErrorCategory.BUG:
        assert (row.drop, row.problem, row.advice) == (Drop.NONE, "", "")
        return
    assert row.problem
    assert not row.problem.endswith(".")
    assert bool(row.advice) >= (row.category is ErrorCategory.ACTION_REQUIRED), "who has to act is told how"


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        ("08006", ErrorCategory.TRANSIENT),
        ("22003", ErrorCategory.BUG),
        ("22P02", ErrorCategory.BUG),
        ("23505", ErrorCategory.BUG),
        ("25001", ErrorCategory.BUG),
        ("25006", ErrorCategory.RETRY),
        ("25P02", ErrorCategory.BUG),
        ("28P01", ErrorCategory.ACTION_REQUIRED),
        ("3D000", ErrorCategory.ACTION_REQUIRED),
        ("40001", ErrorCategory.RETRY),
        ("40P01", ErrorCategory.RETRY),
        ("40003", ErrorCategory.TRANSIENT),
        ("42501", ErrorCategory.ACTION_REQUIRED),
        ("42601", ErrorCategory.BUG),
        ("42703", ErrorCategory.ACTION_REQUIRED),
        ("42P01", ErrorCategory.ACTION_REQUIRED),
        ("53100", ErrorCategory.ACTION_REQUIRED),
        ("53300", ErrorCategory.TRANSIENT),
        ("53400", ErrorCategory.TRANSIENT),
        ("55P03", ErrorCategory.TRANSIENT),
        ("57014", ErrorCategory.TRANSIENT),
        ("57P01", ErrorCategory.TRANSIENT),
        ("57P03", ErrorCategory.TRANSIENT),
        ("58030", ErrorCategory.ACTION_REQUIRED),
        ("AX001", ErrorCategory.BUG),  # a class that the standard may come to define
        ("ZZ123", ErrorCategory.ACTION_REQUIRED),  # a vendor's
        ("99999", ErrorCategory.ACTION_REQUIRED),
    ],
)
def test_what_follows_a_sqlstate(state: str, answer: ErrorCategory) -> None:
    assert classify(state, "planted").category is answer


def test_every_error_that_psycopg_knows_is_somebodys() -> None:
    """The server's are told as such; what remains as a bug are the classes of what was sent."""
    states = [name for name in vars(psycopg.errors).values() if isinstance(name, type)]
    known = {cls.sqlstate for cls in states if issubclass(cls, psycopg.Error) and cls.sqlstate}
    assert len(known) > 200
    bugs = {state[:2] for state in known if classify(state, "").category is ErrorCategory.BUG}
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
        ("Connection refused\n\tIs the server running on that host?", UNREACHABLE.problem),
        ("server closed the connection unexpectedly", UNREACHABLE.problem),
    ],
)
def test_a_refused_connection_is_known_by_its_words(text: str, problem: str) -> None:
    """The client library has no SQLSTATE of it; PgBouncer gives one that says nothing."""
    assert classify(None, text, connecting=True).problem == problem
    if problem != UNREACHABLE.problem:
        assert classify("08P01", text, connecting=True).problem == problem


def test_no_bug_is_told_while_a_connection_is_made() -> None:
    assert classify("22023", "invalid value for parameter", connecting=True).category is ErrorCategory.ACTION_REQUIRED
    assert classify("22023", "invalid value for parameter").category is ErrorCategory.BUG
