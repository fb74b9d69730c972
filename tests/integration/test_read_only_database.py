"""PostgreSQL becomes read-only, as after a failover to a standby, and writable again: the workers recover.

The test sets `default_transaction_read_only` for the database and ends all sessions. Every new session is read-only,
and stays read-only when the database is writable again.
"""

import contextlib
from collections.abc import Iterator
from functools import partial

import httpx
import sqlalchemy as sa

from filemill.config.settings import as_environment
from tests.acceptance.command import filemill
from tests.integration.harness import PipelineHarness
from tests.integration.processes import wait_until
from tests.integration.test_rest_process import dashboard
from tests.servers import superuser

ROLES = ("sync", "monitor", "processor")
SECONDS = 20.0


@contextlib.contextmanager
def read_only(harness: PipelineHarness) -> Iterator[None]:
    """Make the database read-only for sessions that begin inside the context."""
    name = harness.settings.database_name
    with superuser(harness.settings) as connection:
        connection.execute(sa.text(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'))
        end_all = sa.text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()"
        )
        connection.execute(end_all, {"name": name})
        try:
            yield
        finally:
            connection.execute(sa.text(f'ALTER DATABASE "{name}" RESET default_transaction_read_only'))


def said_read_only(harness: PipelineHarness, role: str) -> bool:
    (member,) = (one for one in harness.processes.processes if one.name.startswith(role))
    return any("is read-only" in str(line.get("state")) for line in member.lines())


def test_the_workers_wait_for_a_read_only_database(harness: PipelineHarness) -> None:
    command = as_environment(harness.settings)
    harness.start(*ROLES)
    with (
        dashboard(harness.settings, harness.settings.home) as (page, url),
        httpx.Client(base_url=url, trust_env=False, timeout=SECONDS) as rest,
    ):
        ids = [rest.post("/api/files", json={"title": f"before {n}"}).raise_for_status().json()["id"] for n in range(5)]
        harness.wait_for(ids)
        with read_only(harness):
            for _ in range(3):  # on old sessions, which are broken, and on new ones
                answer = rest.post("/api/files", json={"title": "a title for nobody"})
                assert answer.status_code == 503, answer.text
            assert "is read-only" in answer.json()["error"]["message"]
            assert "FILEMILL_DATABASE_HOST" in answer.json()["error"]["message"]
            assert rest.get("/api/files").status_code == 200, "reads succeed"
            ready = rest.get("/readyz")
            assert ready.status_code == 503
            assert "is read-only" in ready.json()["servers"]["postgres"]["problem"]

            for words in (("submit", "a title for nobody"), ("retry", "1"), ("migrate",)):
                done = filemill(*words, home=harness.settings.home, environment=command)
                assert done.returncode in ({0, 3} if words == ("migrate",) else {3}), done.stderr
                assert "Traceback" not in done.stderr
                assert "a title for nobody" not in done.stderr
            for role in ("sync", "monitor"):
                wait_until(partial(said_read_only, harness, role), SECONDS, f"the {role} reports what it waits for")
        answer = rest.post("/api/files", json={"title": "after"})
        assert answer.status_code == 201, f"the pool still has read-only sessions: {answer.text}"
        assert rest.get("/readyz").status_code == 200
        harness.wait_for([answer.json()["id"]], seconds=SECONDS)
        for role in ROLES:
            (member,) = (one for one in harness.processes.processes if one.name.startswith(role))
            assert member.alive, member.tail()
        assert page.poll() is None
    harness.assert_clean()
