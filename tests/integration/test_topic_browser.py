"""Looking into a topic: what is shown from a place on, what is said to be left out, and records of any kind."""

import pytest
from confluent_kafka import Producer

from filemill.adapters.kafka import topic_browser
from filemill.adapters.kafka.admin import KafkaAdmin
from filemill.adapters.kafka.topic_browser import BrowseQuery, BrowseResult, browse
from filemill.config.settings import Settings
from filemill.lab.raw_records import RawRecord, publish_raw
from tests.integration import topics

T0 = 1_767_528_000_000
LIMIT = 100


def look(settings: Settings, start: int | None, text: str = "", limit: int = LIMIT) -> BrowseResult:
    topic = settings.topic_created
    return browse(settings, KafkaAdmin(settings).offsets(None, topic), BrowseQuery(topic, None, start, text, limit))


def places(view: BrowseResult) -> list[tuple[int, int]]:
    """Oldest first."""
    return [(record.partition, record.offset) for record in reversed(view.records)]


def test_partitions_are_merged_by_timestamp(settings: Settings) -> None:
    """Partition 0 is the youngest: taken one after the other, the partitions would show none but its records."""
    topics.keep_producers_timestamps(settings)
    for partition, later in ((0, 90_000), (1, 0), (2, 30_000)):
        stamps = [T0 + later + 1000 * number for number in range(99)]
        records = [RawRecord(b"x", timestamp_ms=stamp, partition=partition) for stamp in stamps]
        publish_raw(settings, settings.topic_created, records)
    view = look(settings, 0)
    shown = places(view)
    assert len(shown) == LIMIT
    times = [record.timestamp_ms or 0 for record in reversed(view.records)]
    assert times == sorted(times)
    assert {partition for partition, _ in shown} == {1, 2}
    first_left = [
        1 + max([offset for number, offset in shown if number == partition], default=-1) for partition in range(3)
    ]
    assert view.next_offsets == dict(enumerate(first_left))
    assert sum(view.next_offsets.values()) == LIMIT


def test_all_records_are_returned_below_the_limit(settings: Settings) -> None:
    for partition in range(3):
        publish_raw(settings, settings.topic_created, [RawRecord(b"x", partition=partition)] * 30)
    view = look(settings, 20)
    assert sorted(places(view)) == [(partition, offset) for partition in range(3) for offset in range(20, 30)]
    assert view.next_offsets == {}


def test_a_filter_scans_until_it_has_found_enough(settings: Settings) -> None:
    values = [b"needle" if number % 100 == 0 else b"hay" for number in range(1000)]
    publish_raw(settings, settings.topic_created, [RawRecord(value) for value in values])
    view = look(settings, 0, "Needle", limit=4)
    assert places(view) == [(0, 0), (0, 100), (0, 200), (0, 300)]
    assert (view.scanned, view.next_offsets) == (301, {0: 301})


def test_large_records_are_limited_by_their_bytes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_browser, "HELD_BYTES", 3 * 250_000)
    publish_raw(settings, settings.topic_created, [RawRecord(b"x" * 100_000)] * 20)
    view = look(settings, 0)
    assert (places(view), view.next_offsets) == ([(0, 0), (0, 1), (0, 2)], {0: 3})
    assert places(look(settings, None)) == [(0, 17), (0, 18), (0, 19)]


def test_a_control_record_at_the_end_is_not_left_out(settings: Settings) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka_broker, "transactional.id": settings.worker_id})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(settings.topic_created, b"in a transaction", partition=0)
    producer.commit_transaction(20)
    for start in (0, None):
        view = look(settings, start)
        assert (places(view), view.next_offsets) == ([(0, 0)], {})


def test_headers_keep_their_order_and_null_is_not_empty(settings: Settings) -> None:
    headers = [("b", b"1"), ("a", None), ("b", b""), ("b", None), ("", b"\xff")]
    topics.publish(settings, settings.topic_created, [None], partition=0, headers=headers)
    topics.publish(settings, settings.topic_created, [b""], partition=0, key=b"")
    with_headers, empty = reversed(look(settings, 0).records)
    assert with_headers.headers == [("b", "1"), ("a", None), ("b", ""), ("b", None), ("", "\\xff")]
    assert (with_headers.key, with_headers.value) == (None, None)
    assert (empty.key, empty.value, empty.headers) == ("", b"", [])


@pytest.mark.parametrize("stamp", [-1_000_000, -5, 253_402_300_800_000, 1_767_528_000_000_000, 2**63 - 1])
def test_an_invalid_timestamp_is_returned_separately(stamp: int, settings: Settings) -> None:
    topics.keep_producers_timestamps(settings)
    publish_raw(settings, settings.topic_created, [RawRecord(b"x")])
    publish_raw(settings, settings.topic_created, [RawRecord(b"odd", timestamp_ms=stamp)])
    found = {record.value: record for record in look(settings, None).records}
    assert found[b"x"].timestamp_ms is not None
    if b"odd" in found:  # a broker may refuse it
        assert (found[b"odd"].timestamp_ms, found[b"odd"].invalid_timestamp) == (None, stamp)
