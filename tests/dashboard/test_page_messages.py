"""The Messages page."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from filemill.adapters.kafka.topic_browser import BrowsedRecord
from filemill.config.settings import Settings
from filemill.lab.raw_records import RawRecord, publish_raw
from filemill_dashboard.views.message_export import as_json_lines
from tests.dashboard.conftest import OpenPage, Page, closed_port
from tests.integration import topics


def rows(page: Page) -> dict[str, dict[str, Any]]:
    return {row["key"]: row["cells"] for row in page.shown("grid", "messages")["rows"]}


@pytest.fixture
def filled(settings: Settings) -> Settings:
    """`file.created` with five records on partition 0 and one on partition 1."""
    values = [json.dumps({"fileId": number, "text": f"<b>{number}</b>"}).encode() for number in range(5)]
    headers = [("filemill-run", b"7")]
    topics.publish(settings, settings.topic_created, values, partition=0, headers=headers, key="k")
    topics.publish(settings, settings.topic_created, [b"\xff\xfe"], partition=1)
    return settings


def test_the_newest_records_of_all_partitions_are_shown(filled: Settings, open_page: OpenPage) -> None:
    found = rows(open_page(filled, "messages", topic=filled.topic_created))
    assert set(found) == {"0:0", "0:1", "0:2", "0:3", "0:4", "1:0"}
    assert (found["0:3"]["key"], found["0:3"]["headers"]) == ("k", 1)
    assert found["0:3"]["value"] == '{"fileId": 3, "text": "<b>3</b>"}'
    assert found["1:0"]["value"] == "\\xff\\xfe"


def test_records_are_filtered_by_partition_offset_and_text(filled: Settings, open_page: OpenPage) -> None:
    topic = filled.topic_created
    assert set(rows(open_page(filled, "messages", topic=topic, partition="1"))) == {"1:0"}
    page = open_page(filled, "messages", topic=topic, partition="0", start="From offset", **{"from": "3"})
    assert set(rows(page)) == {"0:3", "0:4"}
    assert set(rows(open_page(filled, "messages", topic=topic, text="<B>2"))) == {"0:2"}
    assert len(rows(open_page(filled, "messages", topic=topic, text="RUN=7"))) == 5


@pytest.mark.parametrize(("ago_minutes", "count"), [(10, 6), (-10, 0)])
def test_records_are_shown_from_a_time(ago_minutes: int, count: int, filled: Settings, open_page: OpenPage) -> None:
    moment = (datetime.now(UTC) - timedelta(minutes=ago_minutes)).isoformat(sep=" ", timespec="minutes")
    page = open_page(filled, "messages", topic=filled.topic_created, start="From time", **{"from": moment})
    assert len(rows(page)) == count


@pytest.mark.parametrize(("start", "given"), [("From offset", "x"), ("From offset", "-1"), ("From time", "soon")])
def test_an_invalid_start_shows_a_notice(start: str, given: str, settings: Settings, open_page: OpenPage) -> None:
    page = open_page(settings, "messages", start=start, **{"from": given})
    (notice,) = page.notices("messages-notice")
    assert notice["title"] == "Invalid start"
    assert given in notice["text"]


def test_a_selected_message_shows_value_key_and_headers(filled: Settings, open_page: OpenPage) -> None:
    page = open_page(filled, "messages", topic=filled.topic_created, place="0:2")
    assert page.shown("preview", "payload")["text"] == '{\n  "fileId": 2,\n  "text": "<b>2</b>"\n}'
    facts = {fact["name"]: fact["value"] for fact in page.shown("facts", "headers")["facts"]}
    assert facts == {"Key": "k", "filemill-run": "7"}


def test_repeated_headers_are_all_shown_and_null_differs_from_empty(settings: Settings, open_page: OpenPage) -> None:
    headers = [("twice", b"1"), ("twice", b""), ("none", None)]
    topics.publish(settings, settings.topic_created, [b"{}"], partition=0, headers=headers)
    page = open_page(settings, "messages", topic=settings.topic_created, place="0:0")
    facts = [(fact["name"], fact["value"]) for fact in page.shown("facts", "headers")["facts"]]
    assert facts == [("Key", "(null)"), ("twice", "1"), ("twice", "(empty)"), ("none", "(null)")]


def test_a_record_with_unreadable_headers_shows_the_reason(settings: Settings, open_page: OpenPage) -> None:
    publish_raw(settings, settings.topic_created, [RawRecord(b"{}", None, [(b"caf\xe9", b"1")])])
    page = open_page(settings, "messages", topic=settings.topic_created, place="0:0")
    assert rows(page)["0:0"]["headers"] == "unreadable"
    facts = {fact["name"]: fact["value"] for fact in page.shown("facts", "headers")["facts"]}
    assert facts["Headers"] == "headers unreadable: a name is not UTF-8: b'caf\\xe9'"


def test_the_summary_names_partitions_with_more_records(settings: Settings, open_page: OpenPage) -> None:
    for partition in range(2):
        topics.publish(settings, settings.topic_created, [b"{}"] * 80, partition=partition)
    page = open_page(settings, "messages", topic=settings.topic_created, start="From offset", **{"from": "0"})
    assert len(rows(page)) == 100
    assert any("Not shown: partition 1 from offset 20." in caption.value for caption in page.app.caption)


def test_the_page_with_an_empty_topic_and_without_kafka(settings: Settings, open_page: OpenPage) -> None:
    page = open_page(settings, "messages")
    assert page.shown("grid", "messages")["empty"]["title"] == "No records"
    nowhere = {"kafka_broker": f"127.0.0.1:{closed_port()}", "server_timeout_seconds": 1.0}
    unreachable = open_page(settings.model_copy(update=nowhere), "messages")
    assert unreachable.notices("messages-notice")[0]["tone"] == "warn"


@pytest.mark.parametrize(
    ("value", "exported"),
    [(None, None), (b'{"a": 1}', {"a": 1}), (b"\xff", "\\xff"), (b'"\\ud800"', "\ud800"), (b"1" * 400, int("1" * 400))],
)
def test_any_value_is_exported_as_json(value: bytes | None, exported: object) -> None:
    record = BrowsedRecord(0, 7, 12, None, value, [("h", "v")])
    (line,) = as_json_lines([record]).splitlines()
    document = json.loads(line)
    assert (document["offset"], document["value"]) == (7, exported)
