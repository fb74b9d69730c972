"""The page Activity: the audit log with filters, pages, a drawer and exports."""

from typing import Any

import pytest
import sqlalchemy as sa

from filemill.config.settings import Settings
from filemill.domain.permissions import Principal, RequestSource, Role, local_admin
from filemill.services.audit import REFUSED, record
from filemill_dashboard.state import principals
from tests.dashboard.conftest import OpenPage, Page, closed_port
from tests.principals import PAGE

ANN = Principal("ann", Role.ADMIN, source=RequestSource("session:0123456789ab", "192.0.2.7", "req-1"))


def rows(page: Page) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.shown("grid", "audit")["rows"]
    return found


def shown(page: Page) -> list[tuple[str, str, str]]:
    return [(row["cells"]["actor"], row["cells"]["action"], row["cells"]["outcome"][0]) for row in rows(page)]


@pytest.fixture
def filled(engine: sa.Engine, settings: Settings) -> Settings:
    """Five operations, the last of which was refused."""
    with engine.begin() as connection:
        record(connection, local_admin("cli:<b>ana</b>"), "cancel", {"files": [[1, 1], [2, 1]], "asked": 2})
        record(connection, PAGE, "stack.scale", {"role": "processor", "count": 4})
        record(connection, PAGE, "retry", {"files": [[number, 2] for number in range(5000)], "asked": 5000})
        record(connection, ANN, "account.add", {"account": "bob", "role": "viewer"})
        record(connection, ANN, REFUSED, {"refused": "Deleting files requires the role admin", "permission": "x"})
    return settings


def test_all_operations_are_listed_newest_first(filled: Settings, open_page: OpenPage) -> None:
    found = rows(open_page(filled, "activity"))
    assert [(row["cells"]["actor"], row["cells"]["detail"]) for row in found] == [
        ("ann", "Deleting files requires the role admin"),
        ("ann", "account bob, role viewer"),
        ("page", "retry: 5,000 files requested"),
        ("page", "4 × processor"),
        ("cli:<b>ana</b>", "cancel: 2 files"),
    ]
    assert found[0]["cells"]["outcome"] == ["refused", "bad"]
    assert found[0]["cells"]["address"] == "192.0.2.7"


def test_an_empty_log_says_so(settings: Settings, open_page: OpenPage) -> None:
    assert open_page(settings, "activity").shown("grid", "audit")["empty"]["title"] == "No operations yet"
    page = open_page(settings, "activity", person="nobody")
    assert page.shown("grid", "audit")["empty"]["title"] == "No matching rows"


def test_filters_of_the_url_and_of_the_controls(filled: Settings, open_page: OpenPage) -> None:
    assert [one[1] for one in shown(open_page(filled, "activity", person="ann"))] == ["refused", "account.add"]
    assert [one[1] for one in shown(open_page(filled, "activity", action="retry"))] == ["retry"]
    assert [one[1] for one in shown(open_page(filled, "activity", object="#2"))] == ["retry", "cancel"]
    assert [one[1] for one in shown(open_page(filled, "activity", object="bob"))] == ["account.add"]
    assert [one[2] for one in shown(open_page(filled, "activity", outcome="Refused"))] == ["refused"]
    assert "refused" not in [one[2] for one in shown(open_page(filled, "activity", outcome="Done"))]
    page = open_page(filled, "activity")
    page.app.selectbox(key="select-person").set_value("page")
    assert [one[1] for one in shown(page.run())] == ["retry", "stack.scale"]
    hrefs = [page.shown("links", f"audit-{form}")["items"][0]["href"] for form in ("csv", "ndjson")]
    assert hrefs == [f"/api/audit/export?format={form}&actor=page" for form in ("csv", "ndjson")]


@pytest.mark.parametrize(
    "url", [{"cursor": "x"}, {"entry": "x"}, {"person": "x" * 999}, {"object": "\0"}, {"outcome": "x"}]
)
def test_an_edited_url_shows_no_error(url: dict[str, str], filled: Settings, open_page: OpenPage) -> None:
    assert len(rows(open_page(filled, "activity", **url))) in {0, 5}


def test_pages_follow_each_other(settings: Settings, engine: sa.Engine, open_page: OpenPage) -> None:
    with engine.begin() as connection:
        for number in range(60):
            record(connection, PAGE, "quiet", {"worker": f"w{number}"})
    page = open_page(settings, "activity")
    assert [row["key"] for row in rows(page)] == [str(number) for number in range(60, 10, -1)]
    page.press("Older")
    assert [row["key"] for row in rows(page.run())] == [str(number) for number in range(10, 0, -1)]
    page.press("Newest")
    assert rows(page.run())[0]["key"] == "60"


def test_a_row_opens_with_its_source_and_whole_details(filled: Settings, open_page: OpenPage) -> None:
    page = open_page(filled, "activity", entry="4")
    facts = {fact["name"]: fact["value"] for fact in page.shown("facts", "entry")["facts"]}
    assert (facts["Signed in by"], facts["Address"], facts["Request id"]) == (
        "session:0123456789ab",
        "192.0.2.7",
        "req-1",
    )
    assert '"account": "bob"' in page.shown("preview", "entry-detail")["text"]
    bulk = open_page(filled, "activity", entry="3").shown("preview", "entry-detail")
    assert len(bulk["text"]) == 20_000
    missing = open_page(filled, "activity", entry="99")
    assert missing.notices("entry-none")[0]["title"] == "There is no such row"


def test_a_submitter_sees_nothing_of_it(filled: Settings, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(principals, "PAGE", Principal("sue", Role.SUBMITTER))
    page = open_page(filled, "activity", entry="4")
    assert [notice["title"] for notice in page.notices()] == ["Not allowed"]
    with pytest.raises(AssertionError, match="shows no grid"):
        rows(page)
    with pytest.raises(AssertionError, match="shows no facts"):
        page.shown("facts", "entry")


def test_the_page_works_while_the_database_is_unreachable(settings: Settings, open_page: OpenPage) -> None:
    nowhere = {"database_port": closed_port(), "server_timeout_seconds": 1.0}
    page = open_page(settings.model_copy(update=nowhere), "activity")
    page.until_noticed()
    assert page.shown("grid", "audit")["empty"]["title"] == "No data yet"
