"""The Set-up page."""

from typing import Any

from filemill.config.settings import Settings
from tests.dashboard.conftest import OpenPage, Page, closed_port
from tests.integration.topics import recreate_topic


def rows(page: Page, key: str) -> dict[str, dict[str, Any]]:
    return {row["key"]: row["cells"] for row in page.shown("grid", key)["rows"]}


def test_servers_topics_and_processes_are_shown(settings: Settings, open_page: OpenPage) -> None:
    page = open_page(settings, "setup")
    servers = rows(page, "servers")
    assert {name: cells["state"][0] for name, cells in servers.items()} == {
        "postgres": "ok",
        "kafka": "ok",
        "s3": "ok",
    }
    assert servers["postgres"]["version"].startswith("18")
    assert page.notices("missing")[0]["title"] == "Set-up complete"
    assert rows(page, "topics")[settings.topic_create]["partitions"] == 3
    assert {"kafka", "postgres", "s3"} <= set(rows(page, "processes"))


def test_topics_with_producer_timestamps_are_reported(settings: Settings, open_page: OpenPage) -> None:
    assert open_page(settings, "setup").notices("dates") == []
    recreate_topic(settings, settings.topic_progress)
    page = open_page(settings, "setup")
    dated = {name: cells["timestamps"] for name, cells in rows(page, "topics").items()}
    assert dated.pop(settings.topic_progress) == "producers"
    assert set(dated.values()) == {"broker"}
    (notice,) = page.notices("dates")
    assert notice["title"] == f"Producers set the timestamps of {settings.topic_progress}"


def test_a_missing_step_is_shown_with_its_remedy(settings: Settings, open_page: OpenPage) -> None:
    page = open_page(settings.model_copy(update={"s3_bucket": "no-such-bucket"}), "setup")
    page.until_noticed()
    assert [notice["title"] for notice in page.notices("missing")] == ["S3 has no bucket no-such-bucket"]


def test_effective_settings_hide_secrets(settings: Settings, open_page: OpenPage) -> None:
    secret = {"kafka_properties": {"sasl.password": "hunter2"}}
    page = open_page(settings.model_copy(update=secret), "setup", show="Settings")
    found = {name: cells["value"] for name, cells in rows(page, "settings").items()}
    assert found["FILEMILL_KAFKA_GROUP"] == settings.kafka_group
    assert found["FILEMILL_DATABASE_PASSWORD"] == "••••••"
    assert found["FILEMILL_KAFKA_PROPERTIES"] == "sasl.password=••••••"
    shown = str(page.shown("grid", "settings"))
    assert "hunter2" not in shown
    assert settings.database_password.get_secret_value() not in shown


def test_the_page_works_while_servers_are_unreachable(settings: Settings, open_page: OpenPage) -> None:
    nowhere = {
        "database_port": closed_port(),
        "kafka_broker": f"127.0.0.1:{closed_port()}",
        "server_timeout_seconds": 1.0,
    }
    page = open_page(settings.model_copy(update=nowhere), "setup")
    page.until_noticed()
    assert rows(page, "servers")["postgres"]["state"] == ["unavailable", "bad"]
    assert page.shown("grid", "topics")["rows"] == []
