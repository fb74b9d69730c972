"""PostgreSQL's folders and account, and its start after a crash."""

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from filemill_infra.embedded.credentials import CREDENTIALS_FILE
from filemill_infra.embedded.errors import StartError
from filemill_infra.embedded.home import HomeLock, prepare_home, remove_home
from filemill_infra.embedded.processes.commands import run_tool
from filemill_infra.embedded.servers import postgres_folders
from filemill_infra.embedded.servers.postgres import Postgres
from filemill_infra.superuser import SUPERUSER
from tests.integration.test_embedded_servers import make_servers, running_postgres, server_context, sql

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL runs as another user only where we are root")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield prepare_home(tmp_path / "home")
    remove_home(tmp_path / "home")


@pytest.fixture(scope="module")
def used_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with PostgreSQL data, for tests that only start and stop the server."""
    home = prepare_home(tmp_path_factory.mktemp("used") / "home")
    with running_postgres(home):
        pass
    yield home
    remove_home(home)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every account can enter, unlike pytest's folders."""
    folder = Path(tempfile.mkdtemp(prefix="filemill-test-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_an_interrupted_initdb_is_repeated(home: Path) -> None:
    folder = postgres_folders.find_data_directory(home / "postgres").folder
    (folder / "data").mkdir()
    (folder / "data.new").mkdir()
    (folder / "data.new" / "PG_VERSION").write_text("18")
    with running_postgres(home) as server:
        assert sql(server.settings(), "SELECT 1") == [(1,)]


def test_an_orphaned_server_is_replaced(used_home: Path) -> None:
    [forgotten] = make_servers(used_home, Postgres)
    forgotten.start()
    pid = forgotten.pid
    with running_postgres(used_home) as server:
        assert server.pid != pid
        assert sql(server.settings(), "SELECT 1") == [(1,)]
        assert not forgotten.is_alive()
    forgotten.stop()


def test_a_stale_postmaster_pid_is_removed(used_home: Path) -> None:
    with running_postgres(used_home) as server:
        data = postgres_folders.find_data_directory(used_home / "postgres").data
        lines = (data / "postmaster.pid").read_text().splitlines()
        server.kill()
        other = subprocess.Popen(["sleep", "60"], user=data.stat().st_uid if os.geteuid() == 0 else None)
        (data / "postmaster.pid").write_text("\n".join([str(other.pid), *lines[1:]]))
        server.start()
        assert other.poll() is None
        other.kill()
        other.wait()


def _run(server: Postgres, program: str, *arguments: str, stdin: bytes = b"") -> None:
    """Run a program of PostgreSQL as an earlier version did."""
    run_tool(server.context, server._program(program, *arguments), server.log_path, program, stdin=stdin)


def _create_data_of_an_earlier_version(home: Path) -> None:
    """Create data whose superuser is the application's role with the published password."""
    server = Postgres(server_context(home))
    directory = server._directory = postgres_folders.find_data_directory(home / "postgres")
    directory.make_folder(directory.data)
    _run(
        server, "initdb", "-D", str(directory.data), "-U", "fileuser", "--auth=reject", "--encoding=UTF8", "--locale=C"
    )
    first = b"ALTER ROLE fileuser PASSWORD 'filepass';\nCREATE DATABASE filedb;\n"
    _run(server, "postgres", "--single", "-D", str(directory.data), "postgres", stdin=first)
    earlier = (
        b"CREATE EXTENSION pg_trgm;\nCREATE TABLE files (id bigint GENERATED ALWAYS AS IDENTITY, title text);\n"
        b"INSERT INTO files (title) VALUES ('kept');\nCREATE SEQUENCE loose;\n"
        b"CREATE FUNCTION one() RETURNS int LANGUAGE sql RETURN 1;\n"
    )
    _run(server, "postgres", "--single", "-D", str(directory.data), "filedb", stdin=earlier)


def test_data_of_an_earlier_version_keeps_its_rows_and_gets_roles(home: Path) -> None:
    _create_data_of_an_earlier_version(home)
    with running_postgres(home) as server:
        settings = server.settings()
        assert sql(settings, "SELECT id, title FROM files") == [(1, "kept")]
        sql(settings, "ALTER TABLE files ADD COLUMN more int; ALTER SEQUENCE loose RESTART; DROP FUNCTION one()")
        assert sql(settings, "SELECT rolname FROM pg_roles WHERE rolsuper") == [(SUPERUSER,)]
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            sql({**settings, "database_password": "filepass"}, "SELECT 1", role="")
    with running_postgres(home) as server:
        assert sql(server.settings(), "SELECT title FROM files") == [("kept",)]


def test_after_credentials_were_deleted_the_data_gets_new_ones(used_home: Path) -> None:
    with running_postgres(used_home) as server:
        former = server.settings()
    (used_home / CREDENTIALS_FILE).unlink()
    with running_postgres(used_home) as server:
        settings = server.settings()
        assert settings["database_password"] != former["database_password"]
        assert sql(settings, "SELECT 1", role="") == [(1,)]
        with pytest.raises(psycopg.OperationalError):
            sql({**settings, "database_password": former["database_password"]}, "SELECT 1", role="")


@pytest.mark.parametrize("role", ["", "owner_", "reader_"])
def test_no_client_role_can_run_programs_or_read_files(used_home: Path, role: str) -> None:
    with running_postgres(used_home) as server:
        for statement in (
            "CREATE TEMP TABLE t (line text); COPY t FROM PROGRAM 'id'",
            "COPY (SELECT 1) TO PROGRAM 'cat'",
            "SELECT pg_read_file('PG_VERSION')",
            "SELECT pg_reload_conf()",
            "CREATE ROLE other SUPERUSER",
            f"ALTER ROLE {SUPERUSER} PASSWORD 'known'",
            "SELECT passwd FROM pg_shadow",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                sql(server.settings(), statement, role=role)


def test_data_of_another_major_version_is_rejected(home: Path) -> None:
    data = postgres_folders.find_data_directory(home / "postgres").data
    data.mkdir()
    (data / "PG_VERSION").write_text("17\n")
    [server] = make_servers(home, Postgres)
    with pytest.raises(StartError, match="PostgreSQL 17"):
        server.start()


@as_root
def test_the_data_of_a_private_home_is_in_an_external_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    home = prepare_home(closed / "home")
    with running_postgres(home) as server:
        assert sql(server.settings(), "SELECT 1") == [(1,)]
        outside = postgres_folders.external_folder(home / "postgres")
        assert outside is not None
        assert outside.parent == postgres_folders.EXTERNAL_ROOT
        assert (outside / postgres_folders.OWNER_FILE).read_text() == str(home)
    assert closed.stat().st_mode & 0o777 == 0o700
    remove_home(home)
    assert not outside.exists()
    assert not home.exists()


@as_root
def test_data_in_a_home_that_becomes_private_is_moved_to_an_external_folder(open_folder: Path) -> None:
    home = open_folder / "home"
    home.mkdir(mode=0o755)
    (home / "logs").mkdir()
    with running_postgres(home) as server:
        sql(server.settings(), "CREATE TABLE t AS SELECT 1 AS n")
    assert not (home / "postgres").is_symlink()
    HomeLock(home).release()

    with running_postgres(prepare_home(home)) as server:
        assert sql(server.settings(), "SELECT n FROM t") == [(1,)]
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert (home / "postgres").is_symlink()
    remove_home(home)


@as_root
@pytest.mark.parametrize("step", ["renamed", "linked", "copying", "moved"])
def test_an_interrupted_move_of_the_data_is_finished(open_folder: Path, tmp_path: Path, step: str) -> None:
    link, folder = tmp_path / "postgres", open_folder / "folder"
    inside, account = tmp_path / "postgres.moved", postgres_folders._account(tmp_path / "none")
    inside.mkdir()
    folder.mkdir()
    held = (folder if step == "moved" else inside) / "data"
    held.mkdir()
    (held / "PG_VERSION").write_text("18")
    if step == "copying":
        (folder / "data.moved").mkdir()
    if step != "renamed":
        link.symlink_to(folder)
    postgres_folders._finish_move(link, account)
    assert (link / "data" / "PG_VERSION").read_text() == "18"
    assert not inside.exists()


@as_root
def test_unreadable_programs_are_copied(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    package = postgres_folders._package()
    shutil.copytree(package / "pginstall", hidden / package.name / "pginstall", symlinks=True)
    shutil.copytree(package.with_name(f"{package.name}.libs"), hidden / f"{package.name}.libs")
    monkeypatch.setattr(postgres_folders, "_package", lambda: hidden / package.name)
    directory = postgres_folders.find_data_directory(home / "postgres")
    assert directory.programs.is_relative_to(directory.folder)
    with running_postgres(home) as server:
        assert sql(server.settings(), "SELECT 1") == [(1,)]


@as_root
def test_data_of_missing_temporary_homes_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_folders, "EXTERNAL_ROOT", tmp_path / "external")
    for name, home, hours in (("new", tmp_path / "a", 0), ("old", tmp_path / "b", 2), ("moved", Path("/srv/c"), 2)):
        owner = tmp_path / "external" / name / postgres_folders.OWNER_FILE
        owner.parent.mkdir(parents=True)
        owner.write_text(str(home))
        os.utime(owner, (time.time() - hours * 3600,) * 2)
    postgres_folders._remove_abandoned()
    assert sorted(path.name for path in (tmp_path / "external").iterdir()) == ["moved", "new"]


@as_root
def test_a_moved_home_finds_its_data(tmp_path: Path) -> None:
    home = prepare_home(tmp_path / "home")
    with running_postgres(home) as server:
        sql(server.settings(), "CREATE TABLE t AS SELECT 1 AS n")
    moved = home.rename(tmp_path / "moved")
    with running_postgres(moved) as server:
        assert sql(server.settings(), "SELECT n FROM t") == [(1,)]
    fresh = prepare_home(tmp_path / "home")
    with running_postgres(fresh) as server, pytest.raises(psycopg.errors.UndefinedTable):
        sql(server.settings(), "SELECT n FROM t")
    for each in (moved, fresh):
        remove_home(each)


def test_the_account_of_existing_data_is_kept(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give folders away")
    nobody = pwd.getpwnam("nobody")
    (tmp_path / "data").mkdir()
    os.chown(tmp_path / "data", nobody.pw_uid, nobody.pw_gid)
    assert postgres_folders._account(tmp_path / "data").user == nobody.pw_uid
