"""The Dead letters page."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.postgres.tables import File, Operation, OutboxRow
from filemill.config.settings import Settings
from filemill.domain.files import new_file
from filemill.services.dead_letters import restore
from filemill_dashboard.state import page_data
from filemill_dashboard.state import services as services_module
from filemill_dashboard.views.payload import one_line, pretty
from tests.dashboard.conftest import OpenPage, Page, closed_port
from tests.dashboard.test_bulk import wait_for
from tests.integration import topics
from tests.principals import TEST


def dead_letter(settings: Settings, engine: sa.Engine, *reasons: str) -> list[int]:
    """Insert failed files and their dead letters on partition 0."""
    with engine.begin() as connection:
        ids = insert_many(connection, [new_file("<i>dead</i>") for _ in reasons])
        connection.execute(sa.delete(OutboxRow))
        connection.execute(sa.update(File).where(File.id.in_(ids)).values(status="failed"))
    for file_id, reason in zip(ids, reasons, strict=True):
        headers = [("filemill-reason", reason.encode()), ("filemill-attempts", b"5"), ("filemill-trace", b"Trace <b>")]
        value = json.dumps({"fileId": file_id, "title": "<i>dead</i>"}).encode()
        topics.publish(settings, settings.topic_dead_letters, [value], partition=0, headers=headers)
    return ids


def places(page: Page) -> list[str]:
    return [row["key"] for row in page.shown("grid", "letters")["rows"]]


def reasons(page: Page) -> dict[str, int]:
    return {item["name"]: item["count"] for item in page.shown("bars", "reasons")["items"]}


def test_reasons_are_counted_and_filter_the_table(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    dead_letter(settings, engine, "S3 said 503", "S3 said 500", "no template")
    page = open_page(settings, "letters")
    assert reasons(page) == {"S3 said N": 2, "no template": 1}
    assert places(page) == ["0:2", "0:1", "0:0"]
    assert places(open_page(settings, "letters", reason="S3 said N")) == ["0:1", "0:0"]


def test_a_selected_dead_letter_shows_payload_headers_and_stack_trace_as_text(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    (file_id,) = dead_letter(settings, engine, "bad luck")
    page = open_page(settings, "letters", place="0:0")
    assert json.loads(page.shown("preview", "payload")["text"]) == {"fileId": file_id, "title": "<i>dead</i>"}
    assert page.shown("preview", "trace")["text"] == "Trace <b>"
    headers = {fact["name"]: fact["value"] for fact in page.shown("facts", "headers")["facts"]}
    assert (headers["Reason"], headers["filemill-attempts"]) == ("bad luck", "5")


def test_replayed_dead_letters_are_resolved(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    ids = dead_letter(settings, engine, "one", "two")
    topics.publish(settings, settings.topic_dead_letters, [b"not ours"], partition=1)
    page = open_page(settings, "letters")
    page.app.button(key="replay-all").click()
    page.run()
    go = page.app.button(key="replay-go")
    assert go.label == "Replay 2 files"
    refused = page.shown("bars", "replay-refused")["items"]
    assert refused == [{"name": "the record has no valid file id", "count": 1}]
    with engine.connect() as connection:
        assert set(connection.execute(sa.select(File.status)).scalars()) == {"failed"}  # a dry run
    go.click()
    page.run()
    view = wait_for(page_data.current().jobs)
    assert (view.done, view.refused, view.error) == (2, 1, None)
    with engine.connect() as connection:
        found: Any = connection.execute(sa.select(File.id, File.status, File.run).order_by(File.id)).all()
        assert [tuple(row) for row in found] == [(file_id, "pending", 2) for file_id in ids]
        assert list(connection.execute(sa.select(Operation.action)).scalars()) == ["dlq.replay"]
    assert places(page.run()) == ["1:0"]
    assert sorted(places(open_page(settings, "letters", view="All"))) == ["0:0", "0:1", "1:0"]


def test_a_dismissed_dead_letter_is_listed_apart_until_it_is_restored(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    dead_letter(settings, engine, "one", "two", "three")
    topics.publish(settings, settings.topic_dead_letters, [b"not ours"], partition=1)
    page = open_page(settings, "letters", find="two")
    assert places(page) == ["0:1"]
    page.press("Dismiss 1 …")
    page.run()
    assert {item["name"] for item in page.shown("bars", "dismiss-reasons")["items"]} == {"two"}
    page.press("Dismiss 1 dead letter")
    page.run()
    assert page.run().shown("notices", "dead-letters-outcome")["notices"][0]["title"].startswith("0:1 dismissed")
    assert sorted(places(open_page(settings, "letters"))) == ["0:0", "0:2", "1:0"]
    dismissed = open_page(settings, "letters", view="Dismissed")
    (row,) = dismissed.shown("grid", "letters")["rows"]
    assert (row["key"], row["cells"]["state"]) == ("0:1", ["dismissed", "none"])
    assert [action["name"] for action in row["actions"]] == ["replay", "restore"]
    services = services_module.current()
    letters = services.dead_letters.read(services.kafka).items
    chosen = [letter for letter in letters if letter.dismissed]
    assert restore(engine, chosen, principal=TEST) == ["0:1"]
    assert len(places(open_page(settings, "letters"))) == 4
    with engine.connect() as connection:
        operations = connection.execute(sa.select(Operation.actor, Operation.action).order_by(Operation.id)).all()
    assert [tuple(one) for one in operations] == [("page", "dlq.dismiss"), (TEST.name, "dlq.restore")]


def test_a_dead_letter_of_a_completed_file_does_not_claim_a_retry(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    (file_id,) = dead_letter(settings, engine, "late")
    ended = datetime.now(UTC) - timedelta(minutes=5)
    with engine.begin() as connection:
        connection.execute(sa.update(File).values(status="completed", run=2, finished_at=ended))
    page = open_page(settings, "letters", view="All", place="0:0")
    (row,) = page.shown("grid", "letters")["rows"]
    assert row["cells"]["state"] == ["not failed", "good"]
    facts = {fact["name"]: fact["value"] for fact in page.shown("facts", "headers")["facts"]}
    reason = f"file {file_id} was already completed, in run 2, when this record was dead-lettered"
    assert (facts["State"], facts["Replay"]) == ("not failed", f"not possible: {reason}")
    assert facts["Last"].endswith(" UTC")


def test_the_page_without_dead_letters_and_without_kafka(settings: Settings, open_page: OpenPage) -> None:
    page = open_page(settings, "letters")
    assert places(page) == []
    assert "No unresolved dead letters" in page.shown("bars", "reasons")["empty"]
    assert page.app.button(key="replay-all").disabled
    nowhere = f"127.0.0.1:{closed_port()}"
    unreachable = open_page(
        settings.model_copy(update={"kafka_broker": nowhere, "server_timeout_seconds": 1.0}), "letters"
    )
    unreachable.until_noticed()
    assert unreachable.run().shown("grid", "letters")["empty"]["title"] == "Kafka is unreachable"
    assert unreachable.notices("dead-letters-notice") == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "(null: a tombstone)"),
        (b"", "(empty)"),
        (b'{"a": "\xc3\xbc"}', '{\n  "a": "ü"\n}'),
        (b'{"a": "\\ud800"}', '{\n  "a": "\\ud800"\n}'),
        (b"\xff<b>", "\\xff<b>"),
        (b"[" * 100_000, "[" * 20_000 + "\n… and 80,000 more characters"),
    ],
)
def test_any_payload_is_shown(value: bytes | None, text: str) -> None:
    assert pretty(value) == text


def test_a_payload_on_one_line() -> None:
    assert one_line(b"a\n  b\tc") == "a b c"
    assert one_line(None) == "(null)"
    assert len(one_line(b"x" * 10_000)) == 160


def test_a_record_that_was_dead_lettered_several_times_is_one_row_with_a_count(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    place = [("filemill-topic", b"t"), ("filemill-partition", b"1"), ("filemill-offset", b"5")]
    headers = [*place, ("twice", b"a"), ("twice", b"b")]
    for _ in range(3):
        topics.publish(settings, settings.topic_dead_letters, [b"{}"], partition=0, headers=headers)
    page = open_page(settings, "letters", view="All", place="0:0")
    (row,) = page.shown("grid", "letters")["rows"]
    assert (row["key"], row["cells"]["count"]) == ("0:0", 3)
    assert list(reasons(page).values()) == [1]
    shown = {fact["name"]: fact["value"] for fact in page.shown("facts", "headers")["facts"]}
    assert shown["Count"].startswith("3 times, first at ")
    assert (shown["twice"], shown["twice (2)"]) == ("a", "b")
