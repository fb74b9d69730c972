"""Browsing a topic: the records from an offset, the next offsets, and unusual records."""

from datetime import UTC, datetime

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from filemill.adapters.kafka import topic_browser
from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.topic_browser import MAX_BUFFERED_BYTES, BrowseQuery, BrowseResult, browse
from filemill.config.settings import Settings
from filemill.lab.raw_records import RawRecord, publish_raw
from tests.integration import topics

T0 = 1_767_528_000_000
LIMIT = 100


def run(
    settings: Settings,
    start: int | datetime | None,
    text: str = "",
    limit: int = LIMIT,
    max_bytes: int = MAX_BUFFERED_BYTES,
    *,
    after: BrowseResult | None = None,
    scan_seconds: float = 0.0,
) -> BrowseResult:
    """Browse the topic of results; with `after`, the page after that one."""
    topic = settings.topic_created
    positions = tuple(after.positions.items()) if after is not None else ()
    query = BrowseQuery(topic, None, start, text, limit, positions)
    return browse(settings, KafkaAdmin(settings).offsets(None, topic), query, max_bytes, scan_seconds=scan_seconds)


@pytest.fixture
def own_times(settings: Settings) -> Settings:
    """Settings whose topic of results has the producers' timestamps from its creation on."""
    name = f"{settings.topic_created}.own-times"
    config = topics.PRODUCERS_TIMESTAMPS
    admin = AdminClient({"bootstrap.servers": settings.kafka_broker})
    for future in admin.create_topics([NewTopic(name, 3, 1, config=config)]).values():
        future.result()
    return settings.model_copy(update={"topic_created": name})


def publish_interleaved(settings: Settings, each: int) -> list[tuple[int, int]]:
    """Publish records whose timestamps go around the partitions; returns their places in the order of time."""
    for partition in range(3):
        stamps = [T0 + 1000 * (3 * number + partition) for number in range(each)]
        records = [RawRecord(f"r{stamp}".encode(), timestamp_ms=stamp, partition=partition) for stamp in stamps]
        publish_raw(settings, settings.topic_created, records)
    return [(number % 3, number // 3) for number in range(3 * each)]


def places(result: BrowseResult) -> list[tuple[int, int]]:
    """Partition and offset of each record, oldest first."""
    return [(record.partition, record.offset) for record in reversed(result.records)]


def test_partitions_are_merged_by_timestamp(own_times: Settings) -> None:
    """Partition 0 has the newest records: without the merge only its records would be returned."""
    for partition, later in ((0, 90_000), (1, 0), (2, 30_000)):
        timestamps = [T0 + later + 1000 * number for number in range(99)]
        records = [RawRecord(b"x", timestamp_ms=timestamp, partition=partition) for timestamp in timestamps]
        publish_raw(own_times, own_times.topic_created, records)
    result = run(own_times, 0)
    shown = places(result)
    assert len(shown) == LIMIT
    times = [record.timestamp_ms or 0 for record in reversed(result.records)]
    assert times == sorted(times)
    assert {partition for partition, _ in shown} == {1, 2}
    next_offsets = [
        1 + max([offset for number, offset in shown if number == partition], default=-1) for partition in range(3)
    ]
    assert result.positions == dict(enumerate(next_offsets))
    assert (result.looked_at, result.total, result.more) == (LIMIT, 297, True)


@pytest.mark.parametrize("start", [None, 0, datetime.fromtimestamp(T0 / 1000, UTC)], ids=["newest", "offset", "time"])
def test_pages_have_each_record_once_in_the_order_of_time(start: int | datetime | None, own_times: Settings) -> None:
    in_order = publish_interleaved(own_times, 25)
    seen: list[tuple[int, int]] = []
    page = None
    while page is None or page.more:
        page = run(own_times, start, limit=20, after=page)
        seen += places(page)[::-1] if start is None else places(page)
        assert (page.looked_at, page.total) == (len(seen), 75)
    assert seen == (in_order[::-1] if start is None else in_order)


def test_records_that_come_later_do_not_move_the_older_pages(own_times: Settings) -> None:
    publish_interleaved(own_times, 20)
    first = run(own_times, None, limit=10)
    before = places(run(own_times, None, limit=10, after=first))
    publish_raw(own_times, own_times.topic_created, [RawRecord(b"late", timestamp_ms=T0 + 10**9, partition=1)] * 5)
    assert places(run(own_times, None, limit=10, after=first)) == before


@pytest.mark.parametrize("start", [None, 0])
def test_looking_further_finds_a_record_beyond_the_first_look(
    start: int | None, own_times: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_browser, "MAX_BUFFERED_RECORDS", 60)
    in_order = publish_interleaved(own_times, 100)
    place = in_order[17] if start is None else in_order[-18]
    needle = f"r{T0 + 1000 * in_order.index(place)}"
    first = run(own_times, start, needle)
    assert (first.records, first.more, first.total) == ([], True, 300)
    assert first.looked_at == first.scanned < 100
    page, looks = first, 1
    while page.more and not page.records:
        page, looks = run(own_times, start, needle, after=page), looks + 1
    assert (places(page), looks > 3) == ([place], True)
    at_once = run(own_times, start, needle, scan_seconds=60)
    assert (places(at_once), at_once.more, at_once.looked_at) == ([place], False, 300)


def test_all_records_are_returned_below_the_limit(settings: Settings) -> None:
    for partition in range(3):
        publish_raw(settings, settings.topic_created, [RawRecord(b"x", partition=partition)] * 30)
    result = run(settings, 20)
    assert sorted(places(result)) == [(partition, offset) for partition in range(3) for offset in range(20, 30)]
    assert (result.more, result.looked_at, result.total) == (False, 30, 30)


def test_a_filter_scans_until_it_has_found_enough(settings: Settings) -> None:
    values = [b"needle" if number % 100 == 0 else b"hay" for number in range(1000)]
    publish_raw(settings, settings.topic_created, [RawRecord(value) for value in values])
    result = run(settings, 0, "Needle", limit=4)
    assert places(result) == [(0, 0), (0, 100), (0, 200), (0, 300)]
    assert (result.scanned, result.positions[0], result.more) == (301, 301, True)


def test_large_records_are_limited_by_their_bytes(settings: Settings) -> None:
    limit = 3 * 250_000
    publish_raw(settings, settings.topic_created, [RawRecord(b"x" * 100_000)] * 20)
    result = run(settings, 0, max_bytes=limit)
    assert (places(result), result.positions[0], result.more) == ([(0, 0), (0, 1), (0, 2)], 3, True)
    assert places(run(settings, None, max_bytes=limit)) == [(0, 17), (0, 18), (0, 19)]


def test_a_control_record_at_the_end_is_not_left_out(settings: Settings) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka_broker, "transactional.id": settings.worker_id})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(settings.topic_created, b"in a transaction", partition=0)
    producer.commit_transaction(20)
    for start in (0, None):
        result = run(settings, start)
        assert (places(result), result.more) == ([(0, 0)], False)


def test_headers_keep_their_order_and_null_is_not_empty(settings: Settings) -> None:
    headers = [("b", b"1"), ("a", None), ("b", b""), ("b", None), ("", b"\xff")]
    topics.publish(settings, settings.topic_created, [None], partition=0, headers=headers)
    topics.publish(settings, settings.topic_created, [b""], partition=0, key=b"")
    with_headers, empty = reversed(run(settings, 0).records)
    assert with_headers.headers == [("b", "1"), ("a", None), ("b", ""), ("b", None), ("", "\\xff")]
    assert (with_headers.key, with_headers.value) == (None, None)
    assert (empty.key, empty.value, empty.headers) == ("", b"", [])


@pytest.mark.parametrize("stamp", [-1_000_000, -5, 253_402_300_800_000, 1_767_528_000_000_000, 2**63 - 1])
def test_an_invalid_timestamp_is_returned_separately(stamp: int, own_times: Settings) -> None:
    publish_raw(own_times, own_times.topic_created, [RawRecord(b"x")])
    publish_raw(own_times, own_times.topic_created, [RawRecord(b"invalid", timestamp_ms=stamp)])
    found = {record.value: record for record in run(own_times, None).records}
    assert found[b"x"].timestamp_ms is not None
    if b"invalid" in found:  # a broker may reject it
        assert (found[b"invalid"].timestamp_ms, found[b"invalid"].invalid_timestamp) == (None, stamp)
