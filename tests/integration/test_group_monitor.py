"""The group monitor: samples that agree with the broker, whatever the group does meanwhile."""

import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta

import pytest
import sqlalchemy as sa

from filemill.adapters.kafka.record_source import KafkaRecordSource
from filemill.adapters.postgres.tables import File, GroupSample, LagSample, StatusCount
from filemill.config.settings import Settings
from filemill.entrypoints import bootstrap
from filemill.errors import Unavailable
from filemill.queries.outbox import outbox_history
from tests.integration.harness import PipelineHarness
from tests.integration.processes import wait_until
from tests.servers import RunningServers, isolated_settings


class _Deaf:
    """A listener to whom assignments mean nothing."""

    def on_assigned(self, committed: Mapping[int, tuple[int, str]]) -> None:
        pass

    def on_revoked(self, partitions: Sequence[int]) -> None:
        pass

    def on_lost(self, partitions: Sequence[int]) -> None:
        pass


def test_samples_say_what_the_broker_says(harness: PipelineHarness) -> None:
    harness.run_in_threads("relay", "sync")
    harness.start("processor", "monitor", processing_seconds=0)
    ids = harness.submit(7)
    harness.wait_for(ids)

    def latest() -> list[tuple[int | None, ...]]:
        newest = sa.select(sa.func.max(LagSample.sampled_at)).scalar_subquery()
        columns = sa.select(LagSample.partition, LagSample.end_offset, LagSample.committed_offset, LagSample.lag)
        with harness.engine.connect() as connection:
            rows = connection.execute(columns.where(LagSample.sampled_at == newest).order_by(LagSample.partition))
            return [tuple(row) for row in rows]

    wait_until(lambda: latest() == [(0, 3, 3, 0), (1, 2, 2, 0), (2, 2, 2, 0)], 15, "all seven are seen committed")
    with harness.engine.connect() as connection:
        members = connection.execute(
            sa.select(GroupSample.members, GroupSample.state).order_by(GroupSample.sampled_at.desc()).limit(1)
        ).one()
    assert members.state == "STABLE"
    assert [member["partitions"] for member in members.members] == [[0, 1, 2]]


def test_the_outbox_is_sampled_also_while_kafka_is_away(harness: PipelineHarness) -> None:
    harness.submit(4)
    nowhere = harness.settings.model_copy(update={"kafka_broker": "127.0.0.1:1", "server_timeout_seconds": 0.5})
    monitor = bootstrap.monitor(nowhere, harness.engine)
    for _ in range(2):
        with pytest.raises(Unavailable):
            monitor.sample()
    with harness.engine.connect() as connection:
        history = outbox_history(connection, timedelta(minutes=5), interval_seconds=0.001, points=10**6)
        assert connection.execute(sa.select(sa.func.count()).select_from(LagSample)).scalar_one() == 0
    assert [depth for depth in history.depths if depth is not None] == [4, 4]
    first, second = (age for age in history.ages if age is not None)
    assert 0 < first < second


@pytest.mark.timeout(90)
def test_asking_for_offsets_during_rebalances_does_not_end_the_process(servers: RunningServers) -> None:
    """confluent-kafka's AdminClient does, by SIGSEGV; see KafkaAdmin._committed."""
    settings: Settings = isolated_settings(servers)
    over = threading.Event()

    def churn() -> None:
        try:
            for _ in range(2):
                named = [settings.model_copy(update={"worker_id": f"member-{number}"}) for number in range(3)]
                members = [KafkaRecordSource(one, settings.topic_create, _Deaf()) for one in named]
                for _ in range(40):
                    for member in members:
                        member.read(10, 0.02)
                for member in members:
                    member.close()
        finally:
            over.set()

    thread = threading.Thread(target=churn)
    thread.start()
    answers = 0
    admin = bootstrap.kafka_admin(settings)
    while not over.is_set():
        try:
            admin.offsets(settings.kafka_group, settings.topic_create)
            admin.describe_group(settings.kafka_group, settings.topic_create)
            answers += 1
        except Unavailable:  # a coordinator that is being made, or moved
            continue
    thread.join()
    assert answers > 0


def test_counts_are_folded_up_and_stay_right(harness: PipelineHarness) -> None:
    for _ in range(5):
        harness.submit(2)
    monitor = bootstrap.monitor(harness.settings, harness.engine)
    stop = threading.Event()
    thread = threading.Thread(target=monitor.run, args=(stop,))
    thread.start()

    def rows() -> list[tuple[object, ...]]:
        with harness.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.select(StatusCount.status, StatusCount.delta))]

    try:
        wait_until(lambda: rows() == [("pending", 10)], 15, "one row is left, with the sum")
    finally:
        stop.set()
        thread.join()
    with harness.engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(File)).scalar_one() == 10
