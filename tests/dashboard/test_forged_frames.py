"""Forged messages of a browser to the components of each page: the use case refuses what the role does not allow.

Each page was drawn with its buttons enabled; then its viewer lost the role.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import File, Operation
from filemill.config.settings import Settings
from filemill.domain.permissions import Principal, Role
from filemill.domain.worker_events import EventKind
from filemill_dashboard.state import page_data, principals
from tests.dashboard.conftest import OpenPage
from tests.dashboard.test_page_letters import dead_letter
from tests.dashboard.test_page_workers import heartbeat, store_event

Demote = Callable[[], None]


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """Settings without an embedded stack."""
    return settings.model_copy(update={"home": tmp_path})


@pytest.fixture
def demote(monkeypatch: pytest.MonkeyPatch) -> Demote:
    """Make the viewer of all pages a person with the role viewer."""
    return lambda: monkeypatch.setattr(principals, "PAGE", Principal("vera", Role.VIEWER))


def refused(engine: sa.Engine) -> list[str]:
    """The permissions that the viewer lacked; fails if anything was done."""
    with engine.connect() as connection:
        rows = connection.execute(sa.select(Operation.actor, Operation.action, Operation.detail)).all()
    assert {(actor, action) for actor, action, _ in rows} <= {("vera", "refused")}
    return [detail["permission"] for _, _, detail in rows]


@pytest.mark.parametrize(("action", "status"), [("cancel", "pending"), ("retry", "failed"), ("delete", "failed")])
def test_actions_of_the_list_of_files(
    action: str, status: str, settings: Settings, engine: sa.Engine, open_page: OpenPage, demote: Demote
) -> None:
    (file_id,) = dead_letter(settings, engine, "no luck")
    with engine.begin() as connection:
        connection.execute(sa.update(File).values(status=status))
    page = open_page(settings)
    demote()
    page.send("file_table", "files", "act", {"action": action, "ids": [file_id]})
    assert refused(engine) == []  # the list asks for the role again, and does not call the use case
    assert not page_data.current().deletions.waiting_files()
    with engine.connect() as connection:
        assert connection.execute(sa.select(File.status, File.run)).one() == (status, 1)


def test_the_deletion_of_a_file_does_not_wait_for_an_undo(
    settings: Settings, engine: sa.Engine, open_page: OpenPage, demote: Demote
) -> None:
    (file_id,) = dead_letter(settings, engine, "no luck")
    with engine.begin() as connection:
        connection.execute(sa.update(File).values(status="failed"))
    page = open_page(settings, "file", id=str(file_id))
    demote()
    page.app.button(key="action-delete").click()
    page.run()
    assert refused(engine) == ["files.delete-own"]
    assert not page_data.current().deletions.waiting_files()


@pytest.mark.parametrize(("action", "permission"), [("quiet", "workers.command"), ("forget", "workers.forget")])
def test_actions_of_the_list_of_workers(
    action: str, permission: str, settings: Settings, engine: sa.Engine, open_page: OpenPage, demote: Demote
) -> None:
    heartbeat(engine, "w")
    if action == "forget":
        store_event(engine, "w", EventKind.STOPPED)
    page = open_page(settings, "workers")
    demote()
    page.send("grid", "workers", "action", {"row": "w", "action": action})
    assert refused(engine) == [permission]


def test_dismissal_of_a_dead_letter(settings: Settings, engine: sa.Engine, open_page: OpenPage, demote: Demote) -> None:
    dead_letter(settings, engine, "no luck")
    page = open_page(settings, "letters")
    demote()
    page.send("grid", "letters", "action", {"row": "0:0", "action": "dismiss"})
    assert refused(engine) == ["dead-letters.dismiss"]


def test_the_same_messages_of_an_operator_are_obeyed(
    settings: Settings, engine: sa.Engine, open_page: OpenPage
) -> None:
    (file_id,) = dead_letter(settings, engine, "no luck")
    open_page(settings, "letters").send("grid", "letters", "action", {"row": "0:0", "action": "dismiss"})
    open_page(settings).send("file_table", "files", "act", {"action": "retry", "ids": [file_id]})
    heartbeat(engine, "w")
    open_page(settings, "workers").send("grid", "workers", "action", {"row": "w", "action": "quiet"})
    with engine.connect() as connection:
        done = connection.execute(sa.select(Operation.action).order_by(Operation.id)).scalars().all()
    assert done == ["dlq.dismiss", "retry", "quiet"]
