"""Reading files, counts and the outbox."""

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.postgres.tables import File, OutboxRow
from filemill.domain.cursors import DEAD_LETTERS, NEWER_FILES, OLDER_FILES, InvalidCursor
from filemill.domain.file_actions import FileSelection
from filemill.domain.files import Status, new_file
from filemill.queries.files import (
    EXCERPT_CHARACTERS,
    FilePage,
    count_statuses,
    count_statuses_of,
    get_file,
    list_files,
    outbox_state,
)


def accept(engine: sa.Engine, *titles: str, description: str = "") -> list[int]:
    with engine.begin() as connection:
        return insert_many(connection, [new_file(title, description) for title in titles])


def walk(engine: sa.Engine, limit: int, status: Status | None = None) -> list[list[int]]:
    """All pages, from the newest to the oldest."""
    pages, cursor = [], None
    with engine.connect() as connection:
        while True:
            page = list_files(connection, FileSelection(status), limit=limit, cursor=cursor)
            pages.append([row.id for row in page.items])
            cursor = page.older
            if cursor is None:
                return pages


def test_each_file_is_on_one_page(engine: sa.Engine) -> None:
    ids = accept(engine, *(f"file {number}" for number in range(10)))
    assert walk(engine, 4) == [ids[:-5:-1], ids[-5:-9:-1], ids[1::-1]]
    assert walk(engine, 5) == [ids[:-6:-1], ids[4::-1]]
    assert walk(engine, 200) == [ids[::-1]]
    with engine.begin() as connection:
        connection.execute(sa.update(File).where(File.id.in_(ids[::3])).values(status="failed"))
    assert walk(engine, 3, Status.FAILED) == [ids[9::-3][:3], ids[:1]]
    assert walk(engine, 3, Status.CANCELLED) == [[]]


def test_the_newer_cursor_leads_back_to_a_full_first_page(engine: sa.Engine) -> None:
    ids = accept(engine, *(f"file {number}" for number in range(10)))
    with engine.connect() as connection:
        oldest = list_files(connection, limit=4, cursor=f"before-{ids[2]}")
        assert ([row.id for row in oldest.items], oldest.older) == (ids[1::-1], None)
        middle = list_files(connection, limit=4, cursor=oldest.newer)
        assert [row.id for row in middle.items] == ids[5:1:-1]
        assert (middle.older, middle.newer) == (OLDER_FILES.encode(ids[2]), NEWER_FILES.encode(ids[5]))
        newest = list_files(connection, limit=4, cursor=middle.newer)
        assert ([row.id for row in newest.items], newest.newer) == (ids[:5:-1], None)
        short = list_files(connection, limit=4, cursor=f"after-{ids[8]}")
        assert ([row.id for row in short.items], short.newer) == (ids[:5:-1], None)


def test_an_empty_page_past_the_end_leads_back(engine: sa.Engine) -> None:
    ids = accept(engine, "only")
    with engine.connect() as connection:
        beyond = list_files(connection, cursor=f"before-{ids[0]}")
        assert beyond.items == []
        assert [row.id for row in list_files(connection, cursor=beyond.newer).items] == ids


def test_oldest_first_reverses_the_order_of_pages(engine: sa.Engine) -> None:
    ids = accept(engine, *(f"file {number}" for number in range(10)))
    with engine.connect() as connection:

        def read(cursor: str | None) -> FilePage:
            return list_files(connection, limit=4, cursor=cursor, oldest_first=True)

        first = read(None)
        assert ([row.id for row in first.items], first.previous) == (ids[:4], None)
        second = read(first.next)
        assert [row.id for row in second.items] == ids[4:8]
        last = read(second.next)
        assert ([row.id for row in last.items], last.next) == (ids[8:], None)
        assert [row.id for row in read(last.previous).items] == ids[4:8]
        # There are only two before the third: a full first page is returned instead.
        assert [row.id for row in read(f"before-{ids[2]}").items] == ids[:4]
        beyond = read(f"after-{ids[9]}")
        assert ([row.id for row in beyond.items], beyond.next) == ([], None)
        assert [row.id for row in read(beyond.previous).items] == ids[6:]


@pytest.mark.parametrize(
    "cursor",
    [
        *("12", "before-", "before-x", "after--1", "before-99999999999999999999", "beside-3", "after-+1", "before-1_0"),
        "before-" + "0" * 20 + "9" * 40,
        DEAD_LETTERS.encode(1, 2, 3),
        NEWER_FILES.encode(3)[:-1],
        NEWER_FILES.encode(3) + "0",
        NEWER_FILES.encode(2**63),
        NEWER_FILES.encode(11).upper(),
        "fo2" + "0" * 16,
    ],
)
def test_an_unknown_cursor_is_refused(cursor: str, engine: sa.Engine) -> None:
    with engine.connect() as connection, pytest.raises(InvalidCursor):
        list_files(connection, cursor=cursor)


def test_a_list_can_cut_descriptions(engine: sa.Engine) -> None:
    (file_id,) = accept(engine, "long", description="é" * 1000)
    with engine.connect() as connection:
        assert list_files(connection, excerpts=True).items[0].description == "é" * EXCERPT_CHARACTERS
        assert list_files(connection).items[0].description == "é" * 1000
        found = get_file(connection, file_id)
        assert found is not None
        assert found.description == "é" * 1000
        assert get_file(connection, file_id + 1) is None
        assert get_file(connection, 2**70) is None


def test_counts_have_every_status_and_do_not_scan_files(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        assert count_statuses(connection).by_status == dict.fromkeys(Status, 0)
    ids = accept(engine, "a", "b", "c")
    with engine.begin() as connection:
        connection.execute(sa.update(File).where(File.id == ids[0]).values(status="completed"))
        # The table cannot be read now: the counts come from another table.
        connection.execute(sa.text("ALTER TABLE files RENAME TO files_away"))
        counts = count_statuses(connection)
        connection.rollback()
    assert (counts.by_status[Status.PENDING], counts.by_status[Status.COMPLETED], counts.total) == (2, 1, 3)


def test_no_files_have_no_statuses(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        assert count_statuses_of(connection, []) == {}


def test_the_outbox_has_a_depth_and_an_age(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        empty = outbox_state(connection)
    assert (empty.depth, empty.oldest_age_seconds) == (0, None)
    accept(engine, "a", "b")
    with engine.begin() as connection:
        first = sa.select(sa.func.min(OutboxRow.id)).scalar_subquery()
        connection.execute(
            sa.update(OutboxRow).where(OutboxRow.id == first).values(accepted_at=sa.text("now() - interval '1 min'"))
        )
        state = outbox_state(connection)
    assert state.depth == 2
    assert state.oldest_age_seconds is not None
    assert 60 <= state.oldest_age_seconds < 90
