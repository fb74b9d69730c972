"""Reading dead letters: one for each dead-lettered record, whatever is on the topic, with bounded memory."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import sqlalchemy as sa
from confluent_kafka import Producer

from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.config.settings import Settings, as_environment
from filemill.entrypoints import bootstrap
from filemill.lab.raw_records import RawRecord, publish_raw
from filemill.queries.dead_letters import DeadLetterIndex, DeadLetterSnapshot
from tests.integration import topics
from tests.integration.processes import wait_until
from tests.integration.rest import Rest
from tests.integration.test_rest_operations import failed
from tests.integration.test_rest_process import dashboard

MEBIBYTE = 1024 * 1024


def produce_dead_letter(
    settings: Settings, offset: int, value: bytes, *, reason: str = "no luck", run: int = 1
) -> None:
    """Produce a dead letter for the record at this offset of partition 0, as a worker does."""
    headers = [
        *(("filemill-topic", settings.topic_create.encode()), ("filemill-partition", b"0")),
        *(("filemill-offset", str(offset).encode()), ("filemill-reason", reason.encode())),
        ("filemill-run", str(run).encode()),
    ]
    topics.publish(settings, settings.topic_dead_letters, [value], partition=offset % 3, headers=headers)


def request_for(file_id: int) -> bytes:
    return json.dumps({"fileId": file_id, "title": "t", "description": ""}).encode()


def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **as_environment(settings)}
    run = [sys.executable, "-m", "filemill", *arguments]
    return subprocess.run(run, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_record_that_was_dead_lettered_several_times_is_one_dead_letter(
    rest: Rest, engine: sa.Engine, settings: Settings
) -> None:
    first, second = failed(rest, engine), failed(rest, engine)
    for _ in range(4):
        produce_dead_letter(settings, 0, request_for(first))
    produce_dead_letter(settings, 1, request_for(second), reason="a later reason")
    produce_dead_letter(settings, 0, b"another record at the same place, of a topic that was recreated")

    found = rest.client.get("/api/dead-letters").json()
    assert (found["total"], sum(found["reasons"].values())) == (3, 3)
    assert [(one["place"], one["count"], one["file_id"]) for one in found["items"]] == [
        ("0:4", 1, None),
        ("1:0", 1, second),
        ("0:0", 4, first),
    ]
    assert found["items"][2]["first_at"] <= found["items"][2]["at"]

    listed = json.loads(command(settings, "dlq", "list", "--json").stdout)["letters"]
    assert [(one["place"], one["count"]) for one in listed] == [("0:0", 4), ("1:0", 1), ("0:4", 1)]
    shown = command(settings, "dlq", "show", "0:2")  # a later one leads to it, too
    assert shown.returncode == 0, shown.stderr
    assert "count         4" in shown.stdout

    order = {"places": ["0:0", "0:1", "0:3"]}
    assert rest.client.post("/api/dead-letters/replay", json=order).json()["files"] == [first]
    assert rest.client.get(f"/api/files/{first}").json()["run"] == 2


def test_one_unreadable_record_never_fails_the_list(rest: Rest, engine: sa.Engine, settings: Settings) -> None:
    topics.keep_producers_timestamps(settings)
    file_id = failed(rest, engine)
    good = request_for(file_id)
    # Before 1970, of the year 9999 and later, in microseconds by mistake, and far in the future.
    times = [-1, -62_135_596_800_001, 253_402_300_800_000, 1_767_528_000_000_000, 2**62, 4_102_444_800_000]
    accepted = []
    for time in times:
        try:
            topics.publish(settings, settings.topic_dead_letters, [good], partition=0, timestamp=time)
        except AssertionError:
            continue  # this broker or client takes no such time
        accepted.append(time)
    values = [b"", None, b"\xff\xfe", b'{"fileId": ' + b"9" * 5000 + b"}", b"[" * 100_000, b'"\\ud800"', good]
    topics.publish(settings, settings.topic_dead_letters, values, partition=1, headers=[("n", None), ("n", b"\xff")])
    publish_raw(settings, settings.topic_dead_letters, [RawRecord(good, None, [(b"caf\xe9", b"1")], 0, 2)])
    assert len(accepted) >= 3

    answer = rest.client.get("/api/dead-letters")
    assert answer.status_code == 200, answer.text
    items = {item["place"]: item for item in answer.json()["items"]}
    assert set(items) == {*(f"0:{n}" for n in range(len(accepted))), *(f"1:{n}" for n in range(len(values))), "2:0"}
    assert "headers unreadable" in items["2:0"]["problem"]
    for number, time in enumerate(accepted):
        assert items[f"0:{number}"]["at"] is None
        ahead = time == times[-1]
        said = "its timestamp is in the future" if ahead else "its timestamp is before 1970"
        assert items[f"0:{number}"]["problem"] == said
        assert items[f"0:{number}"]["file_id"] == file_id
    assert items["1:6"]["problem"] is None
    listed = command(settings, "dlq", "list")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.count("(its time") == len(accepted)
    assert command(settings, "dlq", "show", "0:0").returncode == 0


def test_a_recreated_topic_is_read_from_its_beginning(settings: Settings, engine: sa.Engine) -> None:
    admin, index = bootstrap.kafka_admin(settings), DeadLetterIndex(settings, engine)
    topics.publish(settings, settings.topic_dead_letters, [b"old"] * 5, partition=0)
    assert len(index.read(admin).items) == 5
    topics.recreate_topic(settings, settings.topic_dead_letters)
    topics.publish(settings, settings.topic_dead_letters, [b"new"] * 2, partition=0)

    def seen() -> bool:
        items = index.read(admin).items
        return [one.place for one in items] == ["0:0", "0:1"] and {one.size for one in items} == {3}

    wait_until(seen, 20, "the two new ones are listed")
    assert [one.value for one in index.contents(admin, index.read(admin).items) if one] == [b"new", b"new"]


def test_records_that_retention_removed_are_not_listed(settings: Settings, engine: sa.Engine) -> None:
    admin, index = bootstrap.kafka_admin(settings), DeadLetterIndex(settings, engine)
    topics.publish(settings, settings.topic_dead_letters, [b"a", b"b", b"c"], partition=0)
    letters = index.read(admin).items
    topics.delete_before(settings, settings.topic_dead_letters, 0, 2)
    assert [one.place for one in index.read(admin).items] == ["0:2"]
    assert [content.value if content else None for content in index.contents(admin, letters)] == [None, None, b"c"]
    assert set(index.find(admin, ["0:0", "0:2", "7:7", "rubbish"])) == {"0:2"}


def test_each_dead_letter_is_on_one_page_and_a_page_has_a_megabyte_at_most(rest: Rest, settings: Settings) -> None:
    for number in range(7):
        produce_dead_letter(settings, number, b"%d" % number * 400_000)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        answer = rest.client.get("/api/dead-letters", params={"limit": 3, **({"cursor": cursor} if cursor else {})})
        page = answer.json()
        assert len(answer.content) < 1.1 * MEBIBYTE
        seen += [item["value"][0] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
        assert page["total"] == 7
    assert seen == list("6543210")
    for wrong in ("nonsense", "before-1"):
        assert rest.client.get("/api/dead-letters", params={"cursor": wrong}).status_code == 422


def test_dead_letters_are_filtered_by_queue(rest: Rest, settings: Settings) -> None:
    for number, queue in enumerate(("default", "bulk")):
        topic = settings.all_queues[queue].topic
        produce_dead_letter(settings.model_copy(update={"topic_create": topic}), number, queue.encode())

    def values(queue: str) -> list[str]:
        return [item["value"] for item in rest.client.get("/api/dead-letters", params={"queue": queue}).json()["items"]]

    assert (values("bulk"), values("default"), values("urgent")) == (["bulk"], ["default"], [])
    assert len(values("")) == 2
    answer = rest.client.get("/api/dead-letters", params={"queue": "quick"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "queue")


def test_the_index_keeps_the_newest_records_and_reports_truncation(settings: Settings, engine: sa.Engine) -> None:
    admin, index = bootstrap.kafka_admin(settings), DeadLetterIndex(settings, engine, kept_records=10, slack_records=3)
    for number in range(9):
        topics.publish(settings, settings.topic_dead_letters, [b"%d" % number], partition=number % 3)
    assert not index.read(admin).truncated
    topics.publish(settings, settings.topic_dead_letters, [b"new"] * 25, partition=1)
    letters = index.read(admin)
    assert letters.truncated
    assert [one.place for one in letters.items] == [f"1:{offset}" for offset in range(18, 28)]
    assert "0:0" in index.find(admin, ["0:0"]), "an older one is still found by its position"


def test_concurrent_callers_share_a_read(
    settings: Settings, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, admin = DeadLetterIndex(settings, engine), bootstrap.kafka_admin(settings)
    topics.publish(settings, settings.topic_dead_letters, [b"x"] * 3, partition=0)
    readings: list[DeadLetterSnapshot] = []
    read = index._read

    def counted(admin: KafkaAdmin) -> DeadLetterSnapshot:
        readings.append(read(admin))
        return readings[-1]

    monkeypatch.setattr(index, "_read", counted)
    waiting: list[float] = []
    lock = index._lock

    class Counted:
        def acquire(self, timeout: float) -> bool:
            waiting.append(timeout)
            return lock.acquire(timeout=timeout)

        def release(self) -> None:
            lock.release()

    monkeypatch.setattr(index, "_lock", Counted())
    with ThreadPoolExecutor(8) as pool:
        with lock:
            asked = [pool.submit(index.read, admin) for _ in range(8)]
            wait_until(lambda: len(waiting) == 8, 10, "all wait")
        found = [one.result() for one in asked]
    assert {len(one.items) for one in found} == {3}
    assert len(readings) == 1


def fill(settings: Settings, megabytes: int, size: int) -> None:
    """Produce `megabytes` of dead letters of `size` bytes each."""
    producer = Producer({"bootstrap.servers": settings.kafka_broker, "linger.ms": 5, "message.max.bytes": 2 * MEBIBYTE})
    padding = "x" * size
    for number in range(megabytes * MEBIBYTE // size):
        value = json.dumps({"fileId": number + 1, "title": "t", "description": padding}).encode()
        headers: Any = [("filemill-reason", b"no luck"), ("filemill-offset", b"%d" % number)]
        while True:
            try:
                producer.produce(settings.topic_dead_letters, value, partition=number % 3, headers=headers)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(120) == 0


SLOW = pytest.mark.slow(reason="fills a topic with 1 GiB")


@pytest.mark.parametrize("megabytes", [150, pytest.param(1024, marks=[SLOW, pytest.mark.timeout(600)])])
def test_memory_does_not_grow_with_the_topic(megabytes: int, settings: Settings, tmp_path: Path) -> None:
    fill(settings, megabytes, 100_000)
    with (
        dashboard(settings, tmp_path, seconds=300) as (process, url),
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        assert client.get("/readyz", timeout=30).status_code == 200
        assert client.get("/api/files", timeout=30).status_code == 200
        before = psutil.Process(process.pid).memory_info().rss

        def ask(number: int) -> httpx.Response:
            # Different requests, so that no response is shared.
            return client.get("/api/dead-letters", params={"limit": 1 + number}, timeout=60)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(8)))
        wait_until(lambda: ask(0).status_code == 200, 120, "the topic is read")
        assert {answer.status_code for answer in answers} <= {200, 503}
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(8)))
        assert {answer.status_code for answer in answers} == {200}
        grown = psutil.Process(process.pid).memory_info().rss - before
        print(f"{megabytes} MB of dead letters: {before / 1e6:.0f} MB, then {grown / 1e6:+.0f} MB")
        assert answers[0].json()["total"] == megabytes * MEBIBYTE // 100_000
        assert grown <= 64 * MEBIBYTE
