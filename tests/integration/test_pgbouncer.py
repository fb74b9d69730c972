"""PgBouncer in transaction mode: everything works with the setting, and the error without it names the setting."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.connection import STATEMENT_MILLISECONDS
from filemill.config.settings import Settings, as_environment
from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable
from tests.acceptance.command import filemill
from tests.integration.harness import PipelineHarness, open_harness
from tests.integration.processes import wait_until
from tests.integration.rest import serving
from tests.servers import RunningServers, watch

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
REQUESTS = 60
# Fewer sessions than clients, so that each session serves several clients.
SESSIONS = 4


@pytest.fixture(scope="module")
def pooler(servers: RunningServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a PgBouncer in front of PostgreSQL."""
    if PROGRAM is None:
        if os.environ.get("CI"):
            pytest.fail("no PgBouncer: install the package `pgbouncer`")
        pytest.skip("no PgBouncer")
    behind = Settings(**{**servers.state.settings, "home": servers.home})
    folder = tmp_path_factory.mktemp("pgbouncer")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    known = {one.database_user: one.database_password.get_secret_value() for one in (behind, behind.as_owner())}
    (folder / "users.txt").write_text("".join(f'"{user}" "{password}"\n' for user, password in known.items()))
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={behind.database_host} port={behind.database_port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {folder}/users.txt\n"
        f"pool_mode = transaction\ndefault_pool_size = {SESSIONS}\nmax_client_conn = 200\n"
    )
    command = [PROGRAM, "-q", str(folder / "pgbouncer.ini")]
    if os.geteuid() == 0:  # PgBouncer does not run as root
        nobody = pwd.getpwnam("nobody")
        for path in (folder, *folder.iterdir()):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        for path in [folder, *folder.parents][:-2]:
            path.chmod(path.stat().st_mode | 0o011)
        command[1:1] = ["-u", "nobody"]
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    watch(servers, process.pid)
    try:
        wait_until(lambda: listens(port), 20, f"PgBouncer listens: {(folder / 'pgbouncer.log').read_text()}")
        yield port
    finally:
        process.terminate()
        process.wait(10)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture
def pooled(servers: RunningServers, pooler: int, tmp_path: Path) -> Iterator[PipelineHarness]:
    """A pipeline that is prepared and used through the pooler."""
    with open_harness(servers, tmp_path, database_port=pooler, database_pooler="transaction") as harness:
        yield harness


def test_the_pipeline_works_through_pgbouncer(pooled: PipelineHarness) -> None:
    pooled.start("relay", "sync", "monitor", "processor")
    with serving(pooled.settings) as rest, ThreadPoolExecutor(10) as pool:
        ids = list(pool.map(lambda number: rest.create(f"request {number}"), range(REQUESTS)))
        assert rest.client.get("/readyz").status_code == 200
    pooled.wait_for(ids)
    done = filemill("verify", home=pooled.settings.home, environment=as_environment(pooled.settings))
    assert done.returncode == 0, done.stdout + done.stderr
    pooled.assert_clean()
    (monitor,) = (member for member in pooled.processes.processes if member.name.startswith("monitor"))
    for member in pooled.processes.processes:
        assert member.alive, member.tail()
    assert not [line for line in monitor.lines("Monitor") if "waiting" in str(line["state"])]


def test_the_limits_apply_to_transactions_not_to_sessions(pooled: PipelineHarness) -> None:
    shown = sa.text("SELECT current_setting('statement_timeout'), current_setting('timezone')")
    for _ in range(2 * SESSIONS):
        with pooled.engine.begin() as connection:
            assert connection.execute(shown).one() == (f"{STATEMENT_MILLISECONDS // 1000}s", "UTC")
    plain = bootstrap.create_engine(pooled.settings, "plain")
    sa.event.remove(plain, "begin", next(iter(plain.dispatch.begin)))
    with plain.connect() as connection:
        assert connection.execute(shown).one()[0] == "0"
    plain.dispose()


def test_an_idle_transaction_is_ended(pooled: PipelineHarness) -> None:
    with pooled.engine.connect() as connection:
        connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 50"))
        wait_until(lambda: idle_sessions(pooled, connection) == 0, 10, "the session has ended")
        with pytest.raises(Unavailable):
            connection.execute(sa.text("SELECT 1"))


def idle_sessions(harness: PipelineHarness, _connection: sa.Connection) -> int:
    counted = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = :name AND state = 'idle in transaction'")
    with harness.engine.begin() as other:
        return int(other.execute(counted, {"name": harness.settings.database_name}).scalar_one())


def test_the_missing_pooler_setting_is_reported(pooled: PipelineHarness) -> None:
    unaware = pooled.settings.model_copy(update={"database_pooler": "none"})
    engine = bootstrap.create_engine(unaware, "unaware")
    with pytest.raises(Unavailable, match="FILEMILL_DATABASE_POOLER=transaction"):
        engine.connect()
    done = filemill("files", home=pooled.settings.home, environment=as_environment(unaware))
    assert done.returncode == 3
    assert "FILEMILL_DATABASE_POOLER=transaction" in done.stderr
    assert "Traceback" not in done.stderr
