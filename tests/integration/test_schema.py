"""The schema that the migrations build is the one that the models describe."""

from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from filemill.adapters.tables import File, StatusCount, Table
from filemill.migrate import current_revision, head_revision, migrate


def test_migrations_build_what_the_models_describe(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        assert current_revision(connection) == head_revision()
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Table.metadata) == []


def test_many_processes_may_migrate_at_once(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    with ThreadPoolExecutor(6) as pool:
        results = [future.result() for future in [pool.submit(migrate, engine) for _ in range(6)]]
    assert sorted(results, key=str) == sorted(
        [(None, head_revision())] + [(head_revision(), head_revision())] * 5, key=str
    )


def test_counts_follow_every_change_of_a_status(engine: sa.Engine) -> None:
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
