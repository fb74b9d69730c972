"""The roles of the database, created by a superuser: the schema's owner, the application, and a read-only one.

None of them is a superuser, because a superuser can run programs on the server's machine (`COPY … FROM PROGRAM`). The
owner grants rights on the tables to the other two, in `filemill.adapters.postgres.migrate`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from filemill.adapters.postgres.connection import libpq_parameters
from filemill.config.settings import Settings
from filemill.errors import Unavailable

# PostgreSQL logs the text of a failed statement, and these texts contain password verifiers.
_NO_STATEMENT_LOG = "-c log_min_error_statement=panic -c log_min_duration_statement=-1 -c log_statement=none"

# Objects that a superuser created before there was an owner. Members of extensions are left out.
_OWNED_BY_SUPERUSER = """
    SELECT 'TABLE' AS kind, c.oid::regclass::text AS name FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
    AND c.relowner IN (SELECT oid FROM pg_roles WHERE rolsuper) AND NOT EXISTS (
        SELECT FROM pg_depend AS d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('e', 'a', 'i')
    )
    UNION ALL
    SELECT 'ROUTINE', p.oid::regprocedure::text FROM pg_proc AS p
    WHERE p.pronamespace = 'public'::regnamespace
    AND p.proowner IN (SELECT oid FROM pg_roles WHERE rolsuper) AND NOT EXISTS (
        SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    )
"""


@dataclass(frozen=True)
class RoleCredentials:
    """A role and its password."""

    user: str
    password: str


@dataclass(frozen=True, kw_only=True)
class DatabaseRoles:
    """The roles of one database."""

    database: str
    owner: RoleCredentials
    application: RoleCredentials
    reader: RoleCredentials


def apply_roles(server: Mapping[str, Any], roles: DatabaseRoles) -> None:
    """Create or update the roles and the database; existing objects become the owner's. Idempotent.

    `server`: the parameters of a superuser's connection. Raises psycopg.Error.
    """
    with _connect(server, "postgres") as connection:
        # The owner may create databases, because tests and the lab create some of their own.
        _apply_role(connection, roles.owner, sql.SQL("CREATEDB"))
        _apply_role(connection, roles.application, sql.SQL("NOCREATEDB"))
        _apply_role(connection, roles.reader, sql.SQL("NOCREATEDB"))
        _apply_database(connection, roles)
    with _connect(server, roles.database) as connection, connection.transaction():
        owner = sql.Identifier(roles.owner.user)
        for kind, name in connection.execute(_OWNED_BY_SUPERUSER).fetchall():
            statement = sql.SQL("ALTER {} {} OWNER TO {}").format(sql.SQL(kind), sql.SQL(name), owner)
            connection.execute(statement)


def _connect(server: Mapping[str, Any], database: str) -> psycopg.Connection[tuple[Any, ...]]:
    given = {"application_name": "filemill roles", **server}
    return psycopg.connect(**given, dbname=database, options=_NO_STATEMENT_LOG, autocommit=True)


def _apply_role(connection: psycopg.Connection[tuple[Any, ...]], login: RoleCredentials, right: sql.SQL) -> None:
    name = sql.Identifier(login.user)
    # The superuser of initdb cannot lose that right. If an earlier version used it, it is renamed and replaced.
    if connection.execute("SELECT FROM pg_roles WHERE oid = 10 AND rolname = %s", [login.user]).fetchone():
        former = sql.Identifier(f"{login.user}_former")
        connection.execute(sql.SQL("ALTER ROLE {} RENAME TO {}").format(name, former))
        connection.execute(sql.SQL("ALTER ROLE {} NOLOGIN PASSWORD NULL").format(former))
    if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [login.user]).fetchone() is None:
        connection.execute(sql.SQL("CREATE ROLE {}").format(name))
    verifier = connection.pgconn.encrypt_password(login.password.encode(), login.user.encode(), b"scram-sha-256")
    statement = sql.SQL("ALTER ROLE {} LOGIN NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS {} PASSWORD {}")
    connection.execute(statement.format(name, right, sql.Literal(verifier.decode())))


def _apply_database(connection: psycopg.Connection[tuple[Any, ...]], roles: DatabaseRoles) -> None:
    database, owner = sql.Identifier(roles.database), sql.Identifier(roles.owner.user)
    if connection.execute("SELECT FROM pg_database WHERE datname = %s", [roles.database]).fetchone() is None:
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, owner))
    else:
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(database, owner))
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database))
    for login in (roles.application, roles.reader):
        connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database, sql.Identifier(login.user)))


def create_roles(settings: Settings) -> None:
    """Create the database and its roles, as the superuser that the settings name. Raises Unavailable."""
    superuser = {"user": settings.database_superuser_user, "password": settings.database_superuser_password}
    as_superuser = settings.model_copy(update={f"database_{name}": value for name, value in superuser.items()})
    server = {name: value for name, value in libpq_parameters(as_superuser).items() if name != "dbname"}
    roles = DatabaseRoles(
        database=settings.database_name,
        owner=RoleCredentials(settings.database_owner_user, settings.database_owner_password.get_secret_value()),
        application=RoleCredentials(settings.database_user, settings.database_password.get_secret_value()),
        reader=RoleCredentials(settings.database_reader_user, settings.database_reader_password.get_secret_value()),
    )
    try:
        apply_roles(server, roles)
    except psycopg.Error as error:
        raise Unavailable(
            f"PostgreSQL at {as_superuser.database_url}: the roles were not created: {error}",
            code="postgres-roles-not-created",
        ) from None
