"""The rules of PostgreSQL's errors: each is complete, and an unlisted SQLSTATE falls back to the right one."""

import psycopg.errors
import pytest

from filemill.adapters.errors import ErrorCategory
from filemill.adapters.postgres.errors import RULES, Disconnect, PostgresErrorCode, PostgresErrorRule, classify


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.sqlstate)
def test_each_rule_is_complete(rule: PostgresErrorRule) -> None:
    assert len(rule.sqlstate) in (2, 5)
    assert [other.sqlstate for other in RULES].count(rule.sqlstate) == 1
    if rule.category is ErrorCategory.BUG:
        assert (rule.disconnect, rule.problem, rule.advice) == (Disconnect.NONE, "", "")
        return
    assert rule.problem
    assert not rule.problem.endswith(".")
    assert bool(rule.advice) >= (rule.category is ErrorCategory.ACTION_REQUIRED), "a required action is described"


@pytest.mark.parametrize(
    ("state", "category"),
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
        ("AX001", ErrorCategory.BUG),  # a class that the standard may define
        ("ZZ123", ErrorCategory.ACTION_REQUIRED),  # a vendor's
        ("99999", ErrorCategory.ACTION_REQUIRED),
    ],
)
def test_rules_of_some_sqlstates(state: str, category: ErrorCategory) -> None:
    assert classify(state, "planted").category is category


def test_only_errors_of_the_statement_are_bugs() -> None:
    states = [name for name in vars(psycopg.errors).values() if isinstance(name, type)]
    known = {cls.sqlstate for cls in states if issubclass(cls, psycopg.Error) and cls.sqlstate}
    assert len(known) > 200
    bugs = {state[:2] for state in known if classify(state, "").category is ErrorCategory.BUG}
    standard = {"02", "03", "09", "0B", "0F", "0L", "0P", "0Z", "10", "20", "21", "22", "23", "24", "25", "27", "2B"}
    assert bugs <= standard | {"2D", "2F", "34", "38", "39", "3B", "42", "44", "54", "P0"}, bugs


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('connection failed: FATAL:  password authentication failed for user "x"', PostgresErrorCode.AUTHENTICATION),
        (
            'FATAL:  no pg_hba.conf entry for host "::1", user "x", database "y", no encryption',
            PostgresErrorCode.AUTHENTICATION,
        ),
        ('FATAL:  role "x" does not exist', PostgresErrorCode.AUTHENTICATION),
        ('FATAL:  database "x" does not exist', PostgresErrorCode.UNKNOWN_DATABASE),
        ("FATAL:  sorry, too many clients already", PostgresErrorCode.TOO_MANY_CONNECTIONS),
        ("FATAL:  remaining connection slots are reserved for roles with", PostgresErrorCode.TOO_MANY_CONNECTIONS),
        ("FATAL:  the database system is starting up", PostgresErrorCode.NOT_ACCEPTING),
        ("FATAL:  unsupported startup parameter: options", PostgresErrorCode.PROTOCOL_VIOLATION),
        ("Connection refused\n\tIs the server running on that host?", PostgresErrorCode.UNREACHABLE),
        ("server closed the connection unexpectedly", PostgresErrorCode.UNREACHABLE),
    ],
)
def test_a_rejected_connection_is_classified_by_its_text(text: str, code: PostgresErrorCode) -> None:
    """Libpq exposes no SQLSTATE of it, and PgBouncer's is always the same."""
    assert classify(None, text, connecting=True).code == code
    if code != PostgresErrorCode.UNREACHABLE:
        assert classify("08P01", text, connecting=True).code == code


def test_an_error_while_connecting_is_no_bug() -> None:
    assert classify("22023", "invalid value for parameter", connecting=True).category is ErrorCategory.ACTION_REQUIRED
    assert classify("22023", "invalid value for parameter").category is ErrorCategory.BUG
