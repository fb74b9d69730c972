"""The migrations create the schema of the models."""

from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr

from filemill.adapters.postgres.migrate import alembic_config, current_revision, head_revision, migrate
from filemill.adapters.postgres.outbox import insert_request
from filemill.adapters.postgres.tables import Base, File, StatusCount
from filemill.config.settings import Settings
from filemill.domain.file_actions import FileSelection
from filemill.domain.files import new_file
from filemill.entrypoints import bootstrap
from filemill.queries.files import list_files
from tests.servers import superuser


def test_the_migrations_create_the_schema_of_the_models(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        assert current_revision(connection) == head_revision()
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_several_processes_may_migrate_at_once(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    with ThreadPoolExecutor(6) as pool:
        results = [future.result() for future in [pool.submit(migrate, engine) for _ in range(6)]]
    assert sorted(results, key=str) == sorted(
        [(None, head_revision())] + [(head_revision(), head_revision())] * 5, key=str
    )


def test_the_migration_of_rejection_codes_fills_existing_rows(engine: sa.Engine) -> None:
    rows = "('t', 0, 0, 1, 'no file has the id 7'), ('t', 0, 1, 1, 'not JSON')"
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0013")
        columns = 'topic, partition, "offset", generation, reason'
        connection.execute(sa.text(f"INSERT INTO rejected_messages ({columns}) VALUES {rows}"))
        command.upgrade(config, "head")
        codes = sa.text('SELECT code FROM rejected_messages ORDER BY "offset"')
        assert list(connection.execute(codes).scalars()) == ["unknown-file", None]


def test_status_counts_follow_every_change(engine: sa.Engine) -> None:
    def counts() -> dict[str, int]:
        summed = sa.select(StatusCount.status, sa.func.sum(StatusCount.delta)).group_by(StatusCount.status)
        with engine.connect() as connection:
            return {status: int(number) for status, number in connection.execute(summed) if number}

    with engine.begin() as connection:
        rows = [{"title": f"file {number}", "created_at": sa.func.now()} for number in range(5)]
        for row in rows:
            connection.execute(sa.insert(File).values(**row))
    assert counts() == {"pending": 5}
    with engine.begin() as connection:
        connection.execute(sa.update(File).where(File.id <= 3).values(status="completed"))
        connection.execute(sa.update(File).where(File.id == 4).values(title="renamed"))
        connection.execute(sa.delete(File).where(File.id == 1))
    assert counts() == {"pending": 2, "completed": 2}
    with engine.begin() as connection:
        connection.execute(sa.text("TRUNCATE files"))
    assert counts() == {}


def test_a_title_search_uses_the_index(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        rows = "SELECT 'file ' || n, now() FROM generate_series(1, 20000) AS n"
        connection.execute(sa.text(f"INSERT INTO files (title, created_at) {rows}"))
        connection.execute(sa.text("ANALYZE files"))
        searched = "coalesce(title_search, title) ILIKE '%le 1999%'"
        found = sa.text(f"EXPLAIN SELECT * FROM files WHERE {searched} ORDER BY id DESC LIMIT 51")
        plan = "\n".join(connection.execute(found).scalars())
    assert "files_by_title" in plan


def test_without_the_extension_the_schema_has_no_title_index(settings: Settings, engine: sa.Engine) -> None:
    user = f"poor_{settings.database_name}"
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    with superuser(settings) as connection:
        connection.execute(sa.text(f"CREATE ROLE {user} LOGIN PASSWORD 'poor'; GRANT ALL ON SCHEMA public TO {user}"))
    poor = settings.model_copy(update={"database_user": user, "database_password": SecretStr("poor")})
    engine_of_poor = bootstrap.create_engine(poor, "poor")
    try:
        assert migrate(engine_of_poor) == (None, head_revision())
        with engine_of_poor.begin() as connection:
            indexes = sa.text("SELECT indexname FROM pg_indexes WHERE tablename = 'files'")
            assert "files_by_title" not in set(connection.execute(indexes).scalars())
            insert_request(connection, new_file("found without an index"))
            assert len(list_files(connection, FileSelection(search="WITHOUT AN")).items) == 1
    finally:
        engine_of_poor.dispose()
