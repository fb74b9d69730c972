"""The Messages page."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from filemill.adapters.kafka.topic_browser import BrowsedRecord
from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.postgres.tables import File
from filemill.config.settings import Settings
from filemill.domain.files import new_file
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


def test_pages_of_records_follow_each_other_in_both_directions(settings: Settings, open_page: OpenPage) -> None:
    for partition in range(2):
        topics.publish(settings, settings.topic_created, [b"{}"] * 80, partition=partition)
    page = open_page(settings, "messages", topic=settings.topic_created, start="From offset", **{"from": "0"})
    first = set(rows(page))
    assert any(caption.value == "100 shown. Looked at 100 of 160; later ones follow." for caption in page.app.caption)
    page.press("Later")
    second = set(rows(page.run()))
    assert (len(first), len(second), first & second) == (100, 60, set())
    assert any(caption.value == "60 shown. Looked at 160 of 160, which are all." for caption in page.app.caption)
    assert page.app.button(key="messages-more").disabled
    page.press("First page")
    assert set(rows(page.run())) == first
    newest = open_page(settings, "messages", topic=settings.topic_created)
    at_first = set(rows(newest))
    newest.press("Older")
    assert set(rows(newest.run())) == (first | second) - at_first


def test_a_record_beyond_the_first_look_is_found_by_looking_further(
    settings: Settings, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("filemill.adapters.kafka.topic_browser.MAX_BUFFERED_RECORDS", 30)
    topics.publish(settings, settings.topic_created, [b"needle", *[b"hay"] * 99], partition=0)
    page = open_page(settings, "messages", topic=settings.topic_created, text="needle")
    empty = page.shown("grid", "messages")["empty"]
    assert empty["title"] == "No match yet"
    assert "Looked at 10 of 100 records." in empty["hint"]
    page.press("Look further")
    assert set(rows(page.run())) == {"0:0"}
    missing = open_page(settings, "messages", topic=settings.topic_created, text="nail")
    missing.press("Look further")
    empty = missing.run().shown("grid", "messages")["empty"]
    assert (empty["title"], "All 100 records" in empty["hint"]) == ("No match", True)


@pytest.mark.parametrize("cursor", ["n0:", "x0:1", "n9:9", "o0:3", "<b>"])
def test_a_cursor_of_another_list_or_none_shows_the_first_page(
    cursor: str, filled: Settings, open_page: OpenPage
) -> None:
    assert len(rows(open_page(filled, "messages", topic=filled.topic_created, cursor=cursor))) == 6


def test_the_export_says_that_it_has_what_is_shown(filled: Settings, open_page: OpenPage) -> None:
    page = open_page(filled, "messages", topic=filled.topic_created, text="<b>2")
    (button,) = [element.proto for element in page.elements() if element.type == "download_button"]
    assert button.label == "Export 1 shown"


def test_a_record_links_to_its_file_and_its_dead_letter_and_back(settings: Settings, open_page: OpenPage) -> None:
    topics.publish(settings, settings.topic_create, [b'{"fileId": 7, "title": " "}'], partition=2)
    source = [
        ("filemill-topic", settings.topic_create.encode()),
        ("filemill-partition", b"2"),
        ("filemill-offset", b"0"),
    ]
    topics.publish(settings, settings.topic_dead_letters, [b'{"fileId": 7}'], partition=1, headers=source)
    assert links(open_page(settings, "messages", topic=settings.topic_create, place="2:0")) == {
        "File #7": "file?id=7",
        "Its dead letter": "letters?place=1%3A0&view=All",
    }
    letter = open_page(settings, "messages", topic=settings.topic_dead_letters, place="1:0")
    assert links(letter) == {"File #7": "file?id=7", "On Dead letters": "letters?place=1%3A0&view=All"}
    letter.press("Source record")
    letter.run()
    assert letter.app.query_params["place"] == "2:0"
    assert letter.app.query_params["topic"] == settings.topic_create
    assert json.loads(letter.shown("preview", "payload")["text"])["title"] == " "


def test_a_failed_file_links_to_its_record_and_its_dead_letter(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    with engine.begin() as connection:
        (file_id,) = insert_many(connection, [new_file("a")])
        values = {"status": "failed", "kafka_partition": 2, "kafka_offset": 5}
        connection.execute(sa.update(File).values(**values))
    topics.publish(settings, settings.topic_dead_letters, [b'{"fileId": %d}' % file_id], partition=1)
    expected = {
        "Its record on Kafka": f"messages?place=2%3A5&topic={settings.topic_create}",
        "Its dead letter": "letters?place=1%3A0&view=All",
    }
    for page in (open_page(settings, "file", id=str(file_id)), open_page(settings, file=str(file_id))):
        assert expected.items() <= links(page).items()


def links(page: Page) -> dict[str, str]:
    """The links of the drawer: labels and addresses."""
    found = [element.proto for element in page.elements() if element.type == "page_link"]
    return {
        link.label: f"{link.page}?{'&'.join(sorted(link.query_string.split('&')))}"
        for link in found
        if link.query_string
    }


def test_a_record_that_is_gone_says_so(filled: Settings, open_page: OpenPage) -> None:
    page = open_page(filled, "messages", topic=filled.topic_created, place="0:99")
    assert page.notices("record-none")[0]["title"] == "There is no such record"


def test_the_page_with_an_empty_topic_and_without_kafka(settings: Settings, open_page: OpenPage) -> None:
    page = open_page(settings, "messages")
    assert page.shown("grid", "messages")["empty"]["title"] == "No records"
    nowhere = {"kafka_broker": f"127.0.0.1:{closed_port()}", "server_timeout_seconds": 1.0}
    unreachable = open_page(settings.model_copy(update=nowhere), "messages")
    unreachable.until_noticed()
    assert unreachable.run().shown("grid", "messages")["empty"]["title"] == "Kafka is unreachable"
    assert unreachable.notices("messages-notice") == []


@pytest.mark.parametrize(
    ("value", "exported"),
    [(None, None), (b'{"a": 1}', {"a": 1}), (b"\xff", "\\xff"), (b'"\\ud800"', "\ud800"), (b"1" * 400, int("1" * 400))],
)
def test_any_value_is_exported_as_json(value: bytes | None, exported: object) -> None:
    record = BrowsedRecord(0, 7, 12, None, value, [("h", "v")])
    (line,) = as_json_lines([record]).splitlines()
    document = json.loads(line)
    assert (document["offset"], document["value"]) == (7, exported)
