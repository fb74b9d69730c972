"""The Performance page, and the ledger."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.file_actions import delete_files
from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.postgres.status_store import apply_updates
from filemill.adapters.postgres.tables import DeliveryRow, File, OutboxRow, Tombstone
from filemill.config.settings import Settings
from filemill.domain.files import Status, StatusUpdate, new_file
from filemill.queries.performance import Performance, ledger, performance
from tests.dashboard.conftest import OpenPage, Page, closed_port


def ended(
    engine: sa.Engine, count: int, *, wait: float = 1, took: float = 2, partition: int = 0, **values: object
) -> list[int]:
    """Insert files that finished just now, after these seconds of waiting and processing."""
    now = sa.func.clock_timestamp()
    times = {
        "created_at": now - timedelta(seconds=wait + took),
        "started_at": now - timedelta(seconds=took),
        "finished_at": now,
        "kafka_partition": partition,
        "worker_id": f"w-{partition}",
        "s3_location": "key",
        "status": "completed",
    }
    with engine.begin() as connection:
        ids = insert_many(connection, [new_file("t") for _ in range(count)])
        connection.execute(sa.delete(OutboxRow))
        connection.execute(sa.update(File).where(File.id.in_(ids)).values(**{**times, **values}))
    return ids


def metrics(page: Page) -> dict[str, str | None]:
    return {number["name"]: number["value"] for number in page.shown("metrics", "metrics")["metrics"]}


def test_metrics_are_computed_from_the_files(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    ended(engine, 6, partition=0)
    ended(engine, 2, partition=1, wait=5)
    ended(engine, 2, partition=1, status="failed")
    page = open_page(settings, "performance", stage="Waiting")
    shown = metrics(page)
    assert (shown["Error rate"], shown["Upload success"]) == ("20 %", "100 %")
    assert shown["Partition balance"] == "1.20"
    assert shown["Throughput"] == "0.01 /s"
    rows = {row["key"]: row["cells"] for row in page.shown("grid", "by-worker")["rows"]}
    assert (rows["w-0"]["files"], rows["w-1"]["files"], rows["w-1"]["failed"]) == (6, 4, 2)
    assert rows["w-0"]["p50"] == pytest.approx(1, abs=0.05)
    assert rows["w-1"]["p50"] == pytest.approx(5, abs=0.05)
    lines = {line["name"]: line for line in page.shown("chart", "ended")["figure"]["data"]}
    # After the first finished file, an empty bin is zero per second and has no percentiles.
    assert sum(lines["failed"]["y"]) == pytest.approx(2 / 15)
    assert len(page.shown("chart", "times")["figure"]["data"]) == 3


def test_a_deletion_changes_no_past_figure(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    ids = [*ended(engine, 4), *ended(engine, 2, partition=1, status="failed")]
    accepted = len(ids)

    def figures() -> tuple[Performance, int, int]:
        with engine.connect() as connection:
            return performance(connection, timedelta(minutes=5)), ledger(connection).accepted, overview_accepted()

    def overview_accepted() -> int:
        stages = open_page(settings, "pipeline").shown("flow_strip", "strip")["stages"]
        return int(stages[0]["value"])

    before = figures()
    with engine.begin() as connection:
        delete_files(connection, [ids[0], ids[1], ids[-1]])
    after = figures()
    assert before[1:] == after[1:] == (accepted, accepted)
    for name in ("total", "workers", "partitions"):
        assert getattr(after[0], name) == getattr(before[0], name)
    with engine.connect() as connection:
        assert ledger(connection).deleted == 3


def test_repeated_results_of_the_period_are_counted(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    (file_id,) = ended(engine, 1)
    now = datetime.now(UTC)
    update = StatusUpdate(file_id=file_id, run=1, status=Status.COMPLETED, at=now, worker_id="w-9", started_at=now)
    with engine.begin() as connection:
        apply_updates(connection, [update])
        connection.execute(
            sa.insert(DeliveryRow).values(
                file_id=file_id, run=1, worker_id="w", started_at=now, ended_at=now - timedelta(days=2), repeated=True
            )
        )
    assert metrics(open_page(settings, "performance"))["Repeated results"] == "1"


def test_retried_files_are_left_out_of_percentiles(engine: sa.Engine) -> None:
    ended(engine, 3)
    ended(engine, 3, wait=5000, run=2)
    with engine.connect() as connection:
        found = performance(connection, timedelta(minutes=5))
    assert found.total.completed == 6
    assert found.total.end_to_end.p99 == pytest.approx(3, abs=0.05)


def test_files_that_finished_before_the_period_do_not_count(engine: sa.Engine) -> None:
    ended(engine, 3, finished_at=sa.func.now() - timedelta(minutes=6))
    with engine.connect() as connection:
        found = performance(connection, timedelta(minutes=5))
        connection.execute(
            sa.text("SET LOCAL enable_seqscan = off")
        )  # with few rows, a sequential scan would be faster
        plan = "\n".join(
            connection.execute(
                sa.text("EXPLAIN SELECT 1 FROM files WHERE finished_at > now() - interval '5 min' ORDER BY finished_at")
            ).scalars()
        )
    assert (found.total.finished, found.error_rate, found.balance) == (0, None, None)
    assert "files_by_end" in plan


def test_the_ledger_balances_and_names_inconsistent_files(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    ended(engine, 3)
    with engine.begin() as connection:
        insert_many(connection, [new_file("waits"), new_file("waits")])
        connection.execute(sa.insert(Tombstone).values(file_id=99, run=1, status="failed"))
    with engine.connect() as connection:
        found = ledger(connection)
    assert (found.accepted, found.deleted, found.in_outbox, found.clean) == (6, 1, 2, True)
    assert open_page(settings, "performance").notices("ledger-notices")[0]["title"] == "The ledger balances"

    long_ago = sa.func.now() - timedelta(hours=2)
    (lost,) = ended(engine, 1, status="pending", finished_at=None, updated_at=long_ago)
    (stale,) = ended(engine, 1, status="processing", finished_at=None, updated_at=long_ago)
    (unfounded,) = ended(engine, 1, s3_location=None)
    with engine.connect() as connection:
        found = ledger(connection)
    # The two waiting files lost their outbox rows too, but only a moment ago.
    assert (found.lost, found.stale, found.without_object) == ([lost], [stale], [unfounded])
    notices = open_page(settings, "performance").notices("ledger-notices")
    assert [notice["text"].split(".")[0] for notice in notices] == [f"#{lost}", f"#{unfounded}", f"#{stale}"]
    assert notices[0]["title"] == "1 pending file is neither in the outbox nor on Kafka"


def test_the_page_without_files_and_without_postgres(settings: Settings, open_page: OpenPage) -> None:
    page = open_page(settings, "performance")
    assert metrics(page)["Error rate"] is None
    assert page.shown("chart", "ended")["message"] == "no file finished in this period"
    unreachable = open_page(settings.model_copy(update={"database_port": closed_port()}), "performance")
    assert set(metrics(unreachable).values()) == {None}
    assert unreachable.shown("chart", "ended")["message"] == "no data yet"
