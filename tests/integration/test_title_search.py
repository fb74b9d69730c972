"""The search ignores Unicode composition and case, and uses the index."""

import pytest
import sqlalchemy as sa
from alembic import command

from filemill.adapters.postgres.migrate import alembic_config
from filemill.adapters.postgres.outbox import insert_many, insert_request
from filemill.adapters.postgres.tables import File
from filemill.domain.file_actions import FileSelection
from filemill.domain.files import new_file
from filemill.entrypoints.cli.output import plain
from filemill.queries.files import list_files

NFC, NFD = "Caf\u00e9 100%", "Cafe\u0301 100%"


def found(connection: sa.Connection, search: str) -> list[str]:
    return [row.title for row in list_files(connection, FileSelection(search=search), limit=50).items]


@pytest.mark.parametrize("search", ["caf\u00e9", "CAFE\u0301", "\u00e9 100%", "Ｃａｆé"])
def test_search_ignores_case_and_unicode_composition(search: str, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        insert_many(connection, [new_file(NFC), new_file("Cafe 100 x")])
        insert_request(connection, new_file(NFD))
        assert found(connection, search) == [NFD, NFC], "each title is shown as it was submitted"


@pytest.mark.parametrize(
    ("title", "search"),
    [
        ("Straße", "STRASSE"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("İstanbul", "i̇stanbul"),
        ("plain ASCII", "PLAIN ascii"),
        ("100%", "0%"),
    ],
)
def test_search_uses_unicode_case_folding(title: str, search: str, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        insert_many(connection, [new_file(title), new_file("another")])
        assert found(connection, search) == [title]


def test_titles_from_before_the_migration_are_found(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        insert_many(connection, [new_file(NFD), new_file("plain")])
    with engine.connect() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0011")
        command.upgrade(config, "head")
        connection.commit()
        assert found(connection, NFC) == [NFD]
        assert connection.execute(sa.select(File.title_search).order_by(File.id)).scalars().all() == ["café 100%", None]


def test_a_search_for_non_ascii_text_uses_the_index(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        rows = "SELECT 'Datei ' || n || ' Ä', 'datei ' || n || ' ä', now() FROM generate_series(1, 20000) AS n"
        connection.execute(sa.text(f"INSERT INTO files (title, title_search, created_at) {rows}"))
        connection.execute(sa.text("ANALYZE files"))
        searched = "coalesce(title_search, title) ILIKE '%1999 ä%'"
        plan = connection.execute(sa.text(f"EXPLAIN SELECT * FROM files WHERE {searched} ORDER BY id DESC LIMIT 51"))
        assert "files_by_title" in "\n".join(plan.scalars())
        assert found(connection, "1999 Ä") == ["Datei 11999 Ä", "Datei 1999 Ä"]


def test_a_direction_mark_is_escaped_in_a_table() -> None:
    assert plain("a\u202eb\u2066c") == "a\\u202eb\\u2066c"
