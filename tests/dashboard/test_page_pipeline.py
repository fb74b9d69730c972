"""The Pipeline page."""

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.postgres.tables import (
    File,
    GroupSample,
    LagSample,
    LeaseRow,
    Operation,
    OutboxRow,
    OutboxSample,
    Publication,
    RequestLoss,
)
from filemill.adapters.postgres.topics import register_topics
from filemill.adapters.postgres.worker_events import store_events
from filemill.config.settings import Settings
from filemill.domain.files import new_file
from filemill.domain.worker_events import EventKind, WorkerEvent
from filemill.entrypoints import bootstrap
from filemill.ports import ReceivedEvent
from filemill.services.audit import record
from filemill_dashboard.state import page_data
from filemill_dashboard.state.jobs import JobView
from tests.dashboard.conftest import OpenPage, Page, closed_port
from tests.integration import topics
from tests.integration.processes import wait_until
from tests.principals import PAGE


def sample(
    engine: sa.Engine, settings: Settings, lags: list[int | None], owned: list[list[int]], *, ago: float = 0.5
) -> None:
    """One sample of the group monitor, some seconds ago."""
    at = datetime.now(UTC) - timedelta(seconds=ago)
    members = [
        {"memberId": f"id-{place}", "clientId": f"processor-{place}", "host": "127.0.0.1", "partitions": partitions}
        for place, partitions in enumerate(owned, start=1)
    ]
    with engine.begin() as connection:
        for partition, lag in enumerate(lags):
            connection.execute(
                sa.insert(LagSample).values(
                    group_id=settings.kafka_group,
                    sampled_at=at,
                    partition=partition,
                    begin_offset=0,
                    end_offset=1000 - int(ago),
                    committed_offset=None if lag is None else 1000 - int(ago) - lag,
                    lag=lag,
                )
            )
        group = {"state": "STABLE", "protocol": "consumer", "members": members}
        connection.execute(sa.insert(GroupSample).values(group_id=settings.kafka_group, sampled_at=at, **group))
        expires = datetime.now(UTC) + timedelta(minutes=5)
        connection.execute(sa.delete(LeaseRow))
        for name in ("relay", "sync", "monitor"):
            connection.execute(sa.insert(LeaseRow).values(name=name, holder=f"{name}-1", fencing=1, expires_at=expires))


def stages(page: Page) -> dict[str, Any]:
    found = {stage["name"]: stage for stage in page.shown("flow_strip", "strip")["stages"]}
    return {**found, **{end["name"]: end for end in found["Finished"]["ends"]}}


def of_operations(chart: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations without the starts of the servers of this test session."""
    return [mark for mark in chart["annotations"] if not mark["text"].endswith(" started")]


def facts(page: Page, key: str) -> dict[str, str | None]:
    return {fact["name"]: fact["value"] for fact in page.shown("facts", key)["facts"]}


def test_unknown_values_are_not_shown_as_zero(settings: Settings, open_page: OpenPage) -> None:
    page = open_page(settings, "pipeline")
    assert stages(page)["Accepted"]["value"] == 0  # the table exists and is empty
    assert stages(page)["Outbox"]["note"] == "empty"
    assert stages(page)["Backlog"]["value"] is None
    assert facts(page, "group")["Total lag"] is None
    assert page.shown("chart", "lag")["message"] == "no samples in this period"
    assert page.shown("assignment", "assignment")["empty"] == "No sample of the group yet."
    advice = [notice["title"] for notice in page.notices("advice")]
    assert "The group monitor has not reported yet" in advice
    assert "No status sync is active" in advice


def test_the_flow_strip_counts_requests_per_stage(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    with engine.begin() as connection:
        ids = insert_many(connection, [new_file(f"file {number}") for number in range(6)])
        for status, number in (("processing", 0), ("completed", 1), ("completed", 2), ("failed", 3)):
            connection.execute(sa.update(File).where(File.id == ids[number]).values(status=status))
        connection.execute(sa.delete(OutboxRow).where(OutboxRow.file_id != ids[5]))
        connection.execute(sa.update(OutboxRow).values(accepted_at=sa.func.now() - timedelta(seconds=150)))
    sample(engine, settings, [5, 0, 7], [[0], [1], [2]])

    page = open_page(settings, "pipeline")
    shown = stages(page)
    assert [shown[name]["value"] for name in ("Accepted", "Outbox", "Backlog", "In progress")] == [6, 1, 12, 1]
    assert [shown[name]["value"] for name in ("Completed", "Failed")] == [2, 1]
    assert (shown["Outbox"]["note"], shown["Outbox"]["tone"]) == ("oldest 2 min", "warn")
    assert shown["Backlog"]["partitions"] == [
        {"partition": 0, "lag": 5},
        {"partition": 1, "lag": 0},
        {"partition": 2, "lag": 7},
    ]
    assert shown["Completed"]["note"] == "rate unknown"
    (advice,) = page.notices("advice")
    assert advice["title"] == "1 accepted request waits in the outbox"


def test_an_outage_of_kafka_hides_what_is_learned_through_it(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    sample(engine, settings, [5, 0, 7], [[0], [1], []])
    with engine.begin() as connection:
        connection.execute(sa.update(LeaseRow).values(expires_at=sa.func.now()))
    away = settings.model_copy(update={"kafka_broker": f"127.0.0.1:{closed_port()}"})
    page = open_page(away, "pipeline")
    page.until_noticed()
    (banner,) = page.notices()
    assert "Kafka" in banner["title"]
    assert page.notices("advice") == []
    group = page.shown("facts", "group")
    assert group["stale"]
    assert facts(page, "group")["State"] == "unknown: Kafka is unreachable"
    assert (facts(page, "group")["Time lag"], facts(page, "group")["Trend"]) == (None, None)
    assert facts(page, "roles")["Status sync"] == "unknown: Kafka is unreachable"
    assert page.shown("assignment", "assignment")["stale"]
    assert page.shown("chart", "rebalances")["stale"]
    dimmed = {stage["name"]: bool(stage.get("stale")) for stage in page.shown("flow_strip", "strip")["stages"]}
    assert dimmed == {"Accepted": False, "Outbox": False, "Backlog": True, "In progress": True, "Finished": True}


def test_owners_idle_members_and_unowned_partitions_are_shown(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    sample(engine, settings, [0, 0, 0], [[0], [2], [], []])
    page = open_page(settings, "pipeline")
    matrix = page.shown("assignment", "assignment")
    assert matrix["partitions"] == [
        {"partition": 0, "owned": True},
        {"partition": 1, "owned": False},
        {"partition": 2, "owned": True},
    ]
    assert [member["partitions"] for member in matrix["members"]] == [[0], [2], [], []]
    advice = [notice["title"] for notice in page.notices("advice")]
    assert advice == ["Partition 1 without an owner", "4 workers, 3 partitions: 2 idle"]
    assert facts(page, "group")["State"] == "stable"
    assert facts(page, "group")["Protocol"] == "consumer"
    assert facts(page, "group")["Members"] == "4"
    assert facts(page, "roles")["Outbox relay"] == "relay-1"


def test_lost_requests_are_reported_and_resubmitted(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    sample(engine, settings, [0, 0, 0], [[0, 1, 2]])
    with engine.begin() as connection:
        (file_id,) = insert_many(connection, [new_file("gone")])
        connection.execute(sa.delete(OutboxRow))
        place = {"file_id": file_id, "run": 1, "partition": 0, "offset": 3}
        connection.execute(sa.insert(Publication).values(publish_number=1, **place))
        loss = {"group_id": settings.kafka_group, "requests": 1, "counted_at": datetime.now(UTC)}
        connection.execute(sa.insert(RequestLoss).values(**loss))
    topics.recreate_topic(settings, settings.topic_create)
    with engine.begin() as connection:
        register_topics(connection, bootstrap.kafka_admin(settings).identities([settings.topic_create]))
    page = open_page(settings, "pipeline")
    titles = [notice["title"] for key in ("losses", "advice") for notice in page.notices(key)]
    assert "One request was removed from Kafka before being processed" in titles
    assert f"The topic {settings.topic_create} was deleted and created again" in titles
    page.app.button(key="resubmit-gone").click()
    page.run()

    def again() -> bool:
        with engine.connect() as connection:
            found = connection.execute(sa.select(OutboxRow.file_id, OutboxRow.run)).all()
        return [tuple(row) for row in found] == [(file_id, 2)]

    wait_until(again, 20.0, "the request is in the outbox again, as run 2")
    jobs = page_data.current().jobs
    wait_until(lambda: (view := jobs.view()) is None or not view.running, 20.0, "the job has ended")


def test_an_unknown_lag_makes_the_total_unknown(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    sample(engine, settings, [5, None, 7], [[0, 1, 2]])
    page = open_page(settings, "pipeline")
    assert stages(page)["Backlog"]["value"] is None
    assert stages(page)["Backlog"]["partitions"][1] == {"partition": 1, "lag": None}


def test_lag_is_shown_in_seconds_with_its_trend(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    sample(engine, settings, [0], [[0]], ago=30)  # end offset 970
    sample(engine, settings, [20], [[0]], ago=1)  # 979 of 999 committed
    page = open_page(settings, "pipeline")
    outlook = stages(page)["Backlog"]["more"]
    assert re.fullmatch(r"(28|29|30) s behind, growing by 0\.7 /s", outlook)
    assert facts(page, "group")["Time lag"] == outlook.partition(",")[0]
    sample(engine, settings, [0], [[0]], ago=0)
    assert stages(open_page(settings, "pipeline"))["Backlog"]["more"] == ""


def test_a_silent_group_monitor_is_reported(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    sample(engine, settings, [1], [[0]], ago=300)
    page = open_page(settings, "pipeline")
    assert page.notices("advice")[0]["title"] == "The group monitor has been silent for 5 min"
    assert (facts(page, "group")["Sampled"] or "").startswith("30")


@pytest.mark.parametrize(("period", "moments"), [("5 min", 2), ("1 h", 3), ("nonsense", 2)])
def test_the_period_is_in_the_url(
    period: str, moments: int, settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    for ago in (1, 100, 2000):
        sample(engine, settings, [3], [[0]], ago=ago)
    page = open_page(settings, "pipeline", period=period)
    (line,) = page.shown("chart", "lag")["figure"]["data"]
    assert line["name"] == "P0"
    # A gap between two samples is an extra moment without a value.
    assert line["y"] == [3, None] * (moments - 1) + [3]


def test_the_page_works_and_shows_a_banner_while_postgres_is_unreachable(
    settings: Settings, open_page: OpenPage
) -> None:
    page = open_page(settings.model_copy(update={"database_port": closed_port()}), "pipeline")
    (notice,) = page.notices()
    assert notice["title"] == "PostgreSQL is unreachable"
    assert {stages(page)[name]["value"] for name in ("Accepted", "Outbox", "Backlog", "In progress")} == {None}
    assert page.notices("advice") == []
    assert page.shown("chart", "lag")["message"] == "no data yet"
    assert facts(page, "roles")["Status sync"] is None


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"kafka_broker": "127.0.0.1:{port}"}, "Kafka is unreachable"),
        ({"s3_endpoint": "http://127.0.0.1:{port}"}, "S3 is unreachable"),
        ({"s3_bucket": "no-such-bucket"}, "S3 has no bucket no-such-bucket"),
        (
            {"topic_create": "no.such.topic"},
            "Kafka is missing the topics no.such.topic, no.such.topic.jobs, no.such.topic.urgent, no.such.topic.bulk",
        ),
    ],
)
def test_a_server_that_is_unreachable_or_not_set_up_has_one_banner(
    changes: dict[str, str], what: str, settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    sample(engine, settings, [1], [[0]])
    port = closed_port()
    values = {name: value.format(port=port) for name, value in changes.items()}
    page = open_page(settings.model_copy(update={**values, "server_timeout_seconds": 1.0}), "pipeline")
    page.until_noticed()
    (notice,) = page.notices()
    assert notice["title"] == what
    assert stages(page)["Backlog"]["value"] == 1


def test_partitions_are_added_after_their_topic_was_named_and_are_recorded_in_the_audit_log(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    sample(engine, settings, [0, 0, 0], [[0], [1], [2], []])
    page = open_page(settings, "pipeline")
    page.press("Add partitions …")
    page.run()
    assert page.app.number_input(key="partitions").value == 6
    page.app.number_input(key="partitions").set_value(5)
    page.run()
    changes = {fact["name"]: fact["value"] for fact in page.shown("facts", "partitions-change")["facts"]}
    assert changes == {"Topic": settings.topic_create, "Partitions": "3 → 5", "Per worker": "1/1/1/0 → 2/1/1/1"}
    go = page.app.button(key="danger-partitions-go")
    assert (go.label, go.disabled) == (f"Increase {settings.topic_create} from 3 to 5", True)
    page.app.text_input(key="partitions-name").input("file.create.other")
    assert page.run().app.button(key="danger-partitions-go").disabled
    page.app.text_input(key="partitions-name").input(settings.topic_create)
    page.run().app.button(key="danger-partitions-go").click()
    page.run()
    assert [toast.value for toast in page.app.toast] == [f"`{settings.topic_create}` now has 5 partitions"]
    assert "danger-partitions-go" not in {button.key for button in page.run().app.button}
    assert bootstrap.kafka_admin(settings).topic_partitions()[settings.topic_create] == 5
    with engine.connect() as connection:
        (act,) = connection.execute(sa.select(Operation.action, Operation.detail)).all()
    assert (act.action, act.detail["before"], act.detail["count"]) == ("topic.partitions", 3, 5)


def test_the_disabled_partitions_button_gives_the_reason(settings: Settings, open_page: OpenPage) -> None:
    button = open_page(settings, "pipeline").app.button(key="partitions-open")
    assert (button.disabled, button.help) == (True, "The number of partitions is not known")


def test_partition_owners_over_time_and_reassignments_are_shown(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    now = datetime.now(UTC)
    events = [
        WorkerEvent(
            kind=EventKind.ASSIGNED, worker_id="a", timestamp=now - timedelta(seconds=90), partitions=[0], owned=[0]
        ),
        WorkerEvent(kind=EventKind.REVOKED, worker_id="a", timestamp=now - timedelta(seconds=40), partitions=[0]),
        WorkerEvent(
            kind=EventKind.ASSIGNED,
            worker_id="b",
            timestamp=now - timedelta(seconds=37),
            partitions=[0],
            owned=[0],
            epoch=9,
        ),
        WorkerEvent(kind=EventKind.HEARTBEAT, worker_id="b", timestamp=now + timedelta(seconds=60), owned=[0], epoch=9),
    ]
    with engine.begin() as connection:
        store_events(connection, [ReceivedEvent(0, place, event) for place, event in enumerate(events)])
        record(connection, PAGE, "stack.kill", {"worker": "a"})
    page = open_page(settings, "pipeline")
    row, first = page.shown("grid", "moves")["rows"]
    assert first["cells"]["owners"] == "none → a"
    assert (row["cells"]["partition"], row["cells"]["owners"], row["cells"]["epoch"]) == ("P0", "a → b", 9)
    assert row["cells"]["pause"] == pytest.approx(3.0, abs=0.01)
    chart = page.shown("chart", "rebalances")
    assert [trace["name"] for trace in chart["figure"]["data"]] == ["a", "b"]
    assert [mark["text"] for mark in of_operations(chart)] == ["kill a · page"]
    assert page.shown("chart", "lag")["annotations"] == chart["annotations"]


def test_a_deployment_is_an_annotation(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    now = datetime.now(UTC)
    starts = [(900, "a", "1"), (800, "b", "1"), (60, "b", "2<b>"), (50, "a", "2<b>")]
    events = [
        WorkerEvent(kind=EventKind.STARTED, worker_id=worker, timestamp=now - timedelta(seconds=ago), version=version)
        for ago, worker, version in starts
    ]
    with engine.begin() as connection:
        store_events(connection, [ReceivedEvent(0, place, event) for place, event in enumerate(events)])
    page = open_page(settings, "pipeline", period="5 min")
    (mark,) = of_operations(page.shown("chart", "lag"))
    assert mark["text"] == "filemill 2&lt;b&gt; deployed · b"
    assert mark["at_ms"] == pytest.approx(1000 * (now.timestamp() - 60), abs=2)


def test_the_outbox_chart_shows_age_and_depth(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    now = datetime.now(UTC)
    with engine.begin() as connection:
        for ago, depth, age in ((60, 0, None), (20, 70, 12.5), (1, 3, 0.2)):
            at = now - timedelta(seconds=ago)
            connection.execute(sa.insert(OutboxSample).values(sampled_at=at, depth=depth, oldest_age_seconds=age))
        record(
            connection,
            PAGE,
            "fault",
            {"fault": "killed", "target": "kafka", "seconds": 20.0, "key": "k"},
        )
    chart = open_page(settings, "pipeline", period="5 min").shown("chart", "outbox")
    oldest, rows = chart["figure"]["data"]
    assert oldest["y"] == [0, None, 12.5, None, 0.2]
    assert rows["y"] == [0, None, 70, None, 3]
    (mark,) = of_operations(chart)
    assert mark["until_ms"] - mark["at_ms"] == 20_000


def until_done(page: Page) -> JobView:
    """Wait for the job that the page started."""
    deadline = time.monotonic() + 30
    while (view := page_data.current().jobs.view()) is None or view.running:
        assert time.monotonic() < deadline
        page.run()
    return view


def test_offsets_are_reset_after_a_preview(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    sample(engine, settings, [2, 0, 0], [])
    with engine.begin() as connection:
        ids = insert_many(connection, [new_file("waits"), new_file("waits, too")])
    values = [
        b'{"fileId": %d, "title": "x", "description": "", "timestamp": "2026-01-04T12:00:00Z"}' % number
        for number in ids
    ]
    topics.publish(settings, settings.topic_create, values, partition=0)
    page = open_page(settings, "pipeline")
    page.app.button(key="offsets-open").click()
    page.run()
    assert page.app.button(key="offsets-go").disabled
    page.app.segmented_control(key="offsets-target").set_value("Latest")
    page.run()
    page.app.button(key="offsets-preview").click()
    page.run()
    cells = [row["cells"] for row in page.shown("grid", "offsets-preview-table")["rows"]]
    assert [(one["current"], one["new"], one["difference"], one["skipped"]) for one in cells] == [
        (0, 2, "+2", 2),
        (0, 0, "0", 0),
        (0, 0, "0", 0),
    ]
    page.app.radio(key="offsets-then").set_value("Cancel them")
    page.run()
    go = page.app.button(key="offsets-go")
    assert (go.label, go.disabled) == ("Reset 1 partition, cancel 2", False)
    go.click()
    page.run()
    view = until_done(page)
    assert (view.error, view.done) == (None, 2)
    parts = bootstrap.kafka_admin(settings).offsets(settings.kafka_group, settings.topic_create)
    assert [part.committed for part in parts] == [2, None, None]
    with engine.connect() as connection:
        statuses = set(connection.execute(sa.select(File.status)).scalars())
        actions = set(connection.execute(sa.select(Operation.action)).scalars())
    assert (statuses, actions) == ({"cancelled"}, {"cancel", "offsets.reset"})


def test_the_disabled_offset_reset_gives_the_reason(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    sample(engine, settings, [0, 0, 0], [[0, 1], [2]])
    button = open_page(settings, "pipeline").app.button(key="offsets-open")
    assert button.disabled
    assert "the group has 2 members: stop the processors first" in button.help
    share = settings.model_copy(update={"group_protocol": "share"})
    assert "share group" in open_page(share, "pipeline").app.button(key="offsets-open").help


@pytest.mark.parametrize("text", ["noon", "2026-13-01", "９", "<b>"])
def test_an_invalid_time_shows_a_notice(text: str, settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    sample(engine, settings, [0, 0, 0], [])
    page = open_page(settings, "pipeline")
    page.app.button(key="offsets-open").click()
    page.run()
    page.app.segmented_control(key="offsets-target").set_value("Time")
    page.run()
    page.app.text_input(key="offsets-at").set_value(text)
    page.run()
    assert page.notices("offsets-problem")[0]["text"].startswith("Invalid time")
    assert page.app.button(key="offsets-preview").disabled


def test_the_timeline_limits_the_number_of_named_owners(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    now = datetime.now(UTC) - timedelta(seconds=30)
    events = [
        WorkerEvent(
            kind=EventKind.ASSIGNED, worker_id=f"<b>{number}", timestamp=now, partitions=[0], owned=[0], epoch=1
        )
        for number in range(3000)
    ]
    with engine.begin() as connection:
        store_events(connection, [ReceivedEvent(0, place, event) for place, event in enumerate(events)])
    traces = open_page(settings, "pipeline", period="5 min").shown("chart", "rebalances")["figure"]["data"]
    names = [trace["name"] for trace in traces]
    assert (len(names), names[-1]) == (21, "2,980 others")
    assert all(name.startswith("&lt;b&gt;") for name in names[:-1])
    assert sum(len(trace["x"]) for trace in traces) < 2000
