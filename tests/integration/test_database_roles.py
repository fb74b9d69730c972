"""The database's roles, created by `prepare` on a server of one's own, and their rights."""

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from filemill.config.settings import Settings
from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable
from filemill_infra.embedded.credentials import credentials_of
from filemill_infra.superuser import SUPERUSER
from tests.servers import superuser


@pytest.fixture
def fresh(settings: Settings) -> Settings:
    """Settings of a database and roles that do not exist yet, and of a superuser who may create them."""
    name = settings.database_name
    drawn = credentials_of(settings.home)
    return settings.model_copy(
        update={
            "database_name": f"{name}_fresh",
            "database_user": f"{name}_app",
            "database_password": SecretStr("a"),
            "database_owner_user": f"{name}_owner",
            "database_owner_password": SecretStr("o"),
            "database_reader_user": f"{name}_reader",
            "database_reader_password": SecretStr("r"),
            "database_superuser_user": SUPERUSER,
            "database_superuser_password": SecretStr(drawn.database_superuser_password),
        }
    )


def test_prepare_creates_the_database_and_roles_with_their_rights(fresh: Settings) -> None:
    for _ in range(2):
        bootstrap.prepare(fresh, timeout_seconds=20)
    reader = fresh.model_copy(
        update={"database_user": fresh.database_reader_user, "database_password": fresh.database_reader_password}
    )
    insert = "INSERT INTO files (title, created_at) VALUES ('one', now())"
    expected = {
        fresh.database_owner_user: (True, True, True),
        fresh.database_user: (True, True, False),
        reader.database_user: (True, False, False),
    }
    for settings in (fresh.as_owner(), fresh, reader):
        found = tuple(
            _may(settings, statement) for statement in ("SELECT * FROM files", insert, "CREATE TABLE more (id int)")
        )
        assert found == expected[settings.database_user], settings.database_user
    for table in ("accounts", "sessions", "tokens", "sign_in_attempts", "sign_in_tries"):
        assert _may(fresh, f"SELECT * FROM {table}")
        assert not _may(reader, f"SELECT * FROM {table}"), table
    assert not _may(fresh, "UPDATE alembic_version SET version_num = 'x'")
    with superuser(fresh) as connection:
        for user in expected:
            rights = sa.text("SELECT rolsuper OR rolcreaterole OR rolreplication FROM pg_roles WHERE rolname = :user")
            assert connection.execute(rights, {"user": user}).scalar_one() is False


def test_a_wrong_superuser_password_is_reported_without_it(fresh: Settings) -> None:
    wrong = fresh.model_copy(update={"database_superuser_password": SecretStr("wrong-password")})
    with pytest.raises(Unavailable, match="roles were not created") as caught:
        bootstrap.prepare(wrong)
    assert "wrong-password" not in str(caught.value)


def _may(settings: Settings, statement: str) -> bool:
    engine = bootstrap.create_engine(settings, "roles")
    try:
        with engine.connect() as connection:
            connection.execute(sa.text(statement))
    except (Unavailable, sa.exc.ProgrammingError) as error:
        if "permission denied" not in str(error):
            raise
        return False
    finally:
        engine.dispose()
    return True
