"""Volumes of a version whose database had a superuser with a published password."""

import json
import subprocess

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.exc import OperationalError

from filemill.adapters.postgres.lab import connect
from filemill.adapters.postgres.roles import create_roles
from filemill.config.connection_environment import settings_from
from filemill.config.settings import load
from filemill_infra.compose import Compose, ComposeError
from tests.compose.stack import SETTLE_SECONDS, own_settings
from tests.containers import images
from tests.containers.engine import Engine
from tests.integration.processes import wait_until

PROJECT = "filemill-test-old"
VOLUME = f"{PROJECT}_postgres-data"
OLD = {"POSTGRES_USER": "fileuser", "POSTGRES_PASSWORD": "filepass", "POSTGRES_DB": "filedb"}


def test_an_old_volume_keeps_its_data_and_gets_a_new_password(image: str, docker_engine: Engine) -> None:
    compose = Compose(project=PROJECT, environment=own_settings(image))
    try:
        _create_old_volume(docker_engine)
        compose.up("postgres", timeout=SETTLE_SECONDS * 2)
        variables = json.loads(compose.run("run", "--rm", "--no-TTY", "env", "--json", "--admin"))
        settings = load(**settings_from(variables))
        create_roles(settings)

        with connect(settings) as connection:
            superusers = connection.scalars(sa.text("SELECT rolname FROM pg_roles WHERE rolsuper")).all()
            owner = connection.scalar(sa.text("SELECT tableowner FROM pg_tables WHERE tablename = 'kept'"))
        assert superusers == ["filemill_superuser"]
        assert owner == "fileowner"
        with connect(settings.as_owner()) as connection:
            assert connection.scalar(sa.text("SELECT id FROM kept")) == 1
        published = settings.model_copy(update={"database_password": SecretStr("filepass")})
        with pytest.raises(OperationalError, match="password"), connect(published):
            pass
        command = ("psql", "--no-password", "-U", "filemill_superuser", "-c", "SELECT 1", "postgres")
        with pytest.raises(ComposeError, match="password"):
            compose.execute("postgres", *command)
    finally:
        compose.down(volumes=True, seconds=0)


def _create_old_volume(engine: Engine) -> None:
    labels = {"com.docker.compose.project": PROJECT, "com.docker.compose.volume": "postgres-data"}
    engine.docker(
        "volume", "create", *(part for pair in labels.items() for part in ("--label", "=".join(pair))), VOLUME
    )
    given = [part for pair in OLD.items() for part in ("--env", "=".join(pair))]
    mounted = ("--volume", f"{VOLUME}:/var/lib/postgresql")
    container = engine.docker("run", "--detach", *given, *mounted, images.POSTGRES).strip()
    ready = ("pg_isready", "--quiet", "--host", "127.0.0.1")
    try:
        wait_until(lambda: _succeeds(engine, container, *ready), SETTLE_SECONDS, "the old server is ready", every=0.5)
        statements = "CREATE TABLE kept (id int); INSERT INTO kept VALUES (1)"
        engine.docker("exec", container, "psql", "-U", "fileuser", "-d", "filedb", "-c", statements)
    finally:
        engine.docker("rm", "--force", container)


def _succeeds(engine: Engine, container: str, *command: str) -> bool:
    try:
        engine.docker("exec", container, *command)
    except subprocess.CalledProcessError:
        return False
    return True
