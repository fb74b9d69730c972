"""The rules of PostgreSQL's errors, each raised by a real server; and errors that a test can provoke."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest
import sqlalchemy as sa
import structlog.testing
from pydantic import SecretStr

from filemill.adapters.errors import ErrorCategory
from filemill.adapters.postgres.connection import TransactionRolledBack, check_writable, in_transaction
from filemill.adapters.postgres.errors import RULES, Disconnect, PostgresErrorCode, PostgresErrorRule
from filemill.adapters.postgres.outbox import insert_request
from filemill.config.settings import Settings
from filemill.domain.files import new_file
from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable
from tests.integration.rest import Rest, serving
from tests.servers import superuser

_PID = sa.text("SELECT pg_backend_pid()")


@pytest.fixture(scope="module")
def pair(servers_settings: Settings) -> Iterator[sa.Engine]:
    """A pool whose connections a test may drop."""
    engine = bootstrap.create_engine(servers_settings, "errors")
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def servers_settings(request: pytest.FixtureRequest) -> Settings:
    """The session's own database: nothing is written to it."""
    servers = request.getfixturevalue("servers")
    return Settings(**{**servers.state.settings, "home": servers.home})


def pids(engine: sa.Engine) -> list[int]:
    """The process ids of two sessions of the pool."""
    with engine.connect() as one, engine.connect() as other:
        return [connection.execute(_PID).scalar_one() for connection in (one, other)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.sqlstate)
def test_an_error_of_the_server_follows_its_rule(rule: PostgresErrorRule, pair: sa.Engine) -> None:
    state = rule.sqlstate if len(rule.sqlstate) == 5 else f"{rule.sqlstate}000"
    raised = sa.text(f"DO $$ BEGIN RAISE EXCEPTION 'planted' USING ERRCODE = '{state}', DETAIL = 'a secret'; END $$")
    before = pids(pair)
    with pytest.raises(Exception) as caught, pair.begin() as connection:  # noqa: PT011, PT012 - its type is checked below
        met = connection.execute(_PID).scalar_one()
        connection.execute(raised)
    if rule.category is ErrorCategory.BUG:
        assert isinstance(caught.value, sa.exc.DBAPIError)
    else:
        assert isinstance(caught.value, Unavailable)
        assert caught.value.code == rule.code
        assert isinstance(caught.value, TransactionRolledBack) == (rule.category is ErrorCategory.RETRY)
        assert str(caught.value).startswith("PostgreSQL at postgresql://")
        assert f" {rule.problem}: planted" in str(caught.value)
        assert rule.advice in str(caught.value)
        assert "secret" not in str(caught.value)
    after = set(pids(pair))
    kept = {
        Disconnect.NONE: set(before),
        Disconnect.ONE: set(before) - {met},
        Disconnect.ALL: set(),
    }[rule.disconnect]
    assert after & set(before) == kept


def test_a_transaction_is_retried_after_a_deadlock(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        ids = [insert_request(connection, new_file(f"file {number}", "")).id for number in (1, 2)]
    both_hold_one = Barrier(2)
    met: list[int] = []

    def cross(order: list[int]) -> None:
        def work(connection: sa.Connection) -> None:
            for place, file_id in enumerate(order):
                if place == 1:
                    met.append(file_id)
                    with contextlib.suppress(Exception):  # the second attempt is alone at the barrier
                        both_hold_one.wait(timeout=5 if len(met) <= 2 else 0)
                connection.execute(sa.text("UPDATE files SET title = title WHERE id = :id"), {"id": file_id})

        in_transaction(engine, work)

    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(cross, ids), pool.submit(cross, ids[::-1])]:
            one.result()
    assert len(met) >= 3, "at least one of the two was retried"


def test_a_statement_that_takes_too_long_is_reported(engine: sa.Engine) -> None:
    with pytest.raises(Unavailable, match="took too long"), engine.begin() as connection:  # noqa: PT012
        connection.execute(sa.text("SET LOCAL statement_timeout = 20"))
        connection.execute(sa.text("SELECT pg_sleep(10)"))


def test_a_terminated_session_is_unavailable(engine: sa.Engine) -> None:
    with pytest.raises(Unavailable) as caught, engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert caught.value.code in (PostgresErrorCode.SHUTDOWN, PostgresErrorCode.UNREACHABLE)
    assert len(pids(engine)) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"database_password": SecretStr("wrong")}, ["rejects this user", "FILEMILL_DATABASE_PASSWORD"]),
        ({"database_user": "nobody_of_that_name"}, ["rejects this user", "FILEMILL_DATABASE_USER"]),
        ({"database_name": "no_such_database"}, ["has no such database", "FILEMILL_DATABASE_NAME"]),
    ],
)
def test_a_rejected_connection_says_what_to_check(
    changes: dict[str, object], words: list[str], settings: Settings
) -> None:
    with serving(settings.model_copy(update=changes)) as rest:
        answer = rest.client.post("/api/files", json={"title": "for nobody"})
        assert answer.status_code == 503, answer.text
        for word in words:
            assert word in answer.json()["error"]["message"]
        assert "wrong" not in answer.text
        state = rest.client.get("/readyz").json()["servers"]["postgres"]
        assert words[0] in state["problem"]
        assert words[1] in state["advice"]


def test_a_server_without_a_free_connection_is_reported(settings: Settings) -> None:
    user = f"crowd_{settings.database_name}"
    with superuser(settings) as connection:
        connection.execute(sa.text(f"CREATE ROLE {user} LOGIN PASSWORD 'crowd' CONNECTION LIMIT 1"))
    alone = settings.model_copy(update={"database_user": user, "database_password": SecretStr("crowd")})
    crowd = bootstrap.create_engine(alone, "crowd")
    with crowd.connect(), pytest.raises(Unavailable, match=r"has no free connection.*FILEMILL_DATABASE_POOL_SIZE"):
        crowd.connect()
    crowd.dispose()


def test_a_missing_column_asks_for_a_migration(rest: Rest) -> None:
    with superuser(rest.services.settings) as connection:
        connection.execute(sa.text("ALTER TABLE outbox RENAME COLUMN traceparent TO traceparents"))
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            answer = rest.client.post("/api/files", json={"title": "a title that is nobody's"})
            assert answer.status_code == 503, answer.text
            assert "filemill migrate" in answer.json()["error"]["message"]
            assert "nobody's" not in answer.text
    rejected = [line for line in logs if line["event"] == "PostgreSQL rejected a statement"]
    assert [line["sqlstate"] for line in rejected] == ["42703"], "once, not at each request"
    assert "INSERT INTO files" in rejected[0]["statement"]
    assert "nobody's" not in str(logs)


def test_a_missing_privilege_fails_the_readiness_probe(settings: Settings) -> None:
    user = f"reader_{settings.database_name}"
    with superuser(settings) as connection:
        connection.execute(sa.text(f"CREATE ROLE {user} LOGIN PASSWORD 'reader'"))
        connection.execute(sa.text(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}"))
    poor = settings.model_copy(update={"database_user": user, "database_password": SecretStr("reader")})
    with serving(poor) as rest:
        assert rest.client.get("/api/files").status_code == 200
        answer = rest.client.post("/api/files", json={"title": "not granted"})
        assert (answer.status_code, "Grant it" in answer.text) == (503, True), answer.text
        ready = rest.client.get("/readyz")
        assert ready.status_code == 503
        assert "does not grant" in ready.json()["servers"]["postgres"]["problem"]


def test_a_syntax_error_stays_a_bug_and_shows_no_parameters(engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.DBAPIError) as caught, engine.begin() as connection:
        connection.execute(sa.text("SELECT CAST(:title AS int) FROM files WHERE"), {"title": "a person's title"})
    assert isinstance(caught.value.orig, psycopg.errors.SyntaxError)
    assert "a person's title" not in str(caught.value)


def test_check_writable_writes_nothing(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        check_writable(connection)
        assert connection.execute(sa.text("SELECT pg_current_xact_id_if_assigned()")).scalar() is None
    with engine.connect() as connection:
        connection.execute(sa.text("SET TRANSACTION READ ONLY"))
        with pytest.raises(Unavailable, match="is read-only"):
            check_writable(connection)
