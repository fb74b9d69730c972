"""Pages disable what a role does not allow, and a forged click is refused by the use case."""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import File, Operation
from filemill.config.settings import Settings
from filemill.domain.files import NewFile
from filemill.domain.permissions import Principal, Role
from filemill.services.submissions import Submissions
from filemill_dashboard.state import page_data, principals
from tests.dashboard.conftest import OpenPage, Page
from tests.integration.processes import wait_until
from tests.principals import TEST

Demote = Callable[[], None]


@pytest.fixture
def demote(monkeypatch: pytest.MonkeyPatch) -> Demote:
    """Make the viewer of all pages a person with the role viewer."""
    return lambda: monkeypatch.setattr(principals, "PAGE", Principal("vera", Role.VIEWER))


def controls(page: Page) -> dict[str, Any]:
    return {button.label: button for button in page.app.button}


def refused(engine: sa.Engine) -> list[tuple[str, str]]:
    with engine.connect() as connection:
        found = connection.execute(sa.select(Operation.actor, Operation.action, Operation.detail))
        return [(actor, detail["permission"]) for actor, action, detail in found if action == "refused"]


def submit(engine: sa.Engine) -> int:
    return Submissions(engine).submit(NewFile("A file", ""), principal=TEST).id


def files(engine: sa.Engine) -> list[tuple[str, str]]:
    with engine.connect() as connection:
        return [(title, status) for title, status in connection.execute(sa.select(File.title, File.status))]


def test_controls_are_disabled_and_say_why(
    settings: Settings, engine: sa.Engine, open_page: OpenPage, demote: Demote
) -> None:
    file_id = submit(engine)
    admin = {**controls(open_page(settings)), **controls(open_page(settings, "file", id=str(file_id)))}
    names = {
        "Create file": "Creating files requires the role submitter; vera has the role viewer",
        "Retry all matching …": "Retrying files of others requires the role operator; vera has the role viewer",
        "Delete all matching …": "Deleting files of others requires the role admin; vera has the role viewer",
        "Cancel": "Cancelling files of others requires the role operator; vera has the role viewer",
    }
    assert not any(admin[name].disabled for name in names)
    demote()
    viewer = {**controls(open_page(settings)), **controls(open_page(settings, "file", id=str(file_id)))}
    assert {name: viewer[name].help for name in names} == names
    assert all(viewer[name].disabled for name in names)


def test_a_click_after_a_demotion_is_refused(
    settings: Settings, engine: sa.Engine, open_page: OpenPage, demote: Demote
) -> None:
    file_id = submit(engine)
    form, page = open_page(settings), open_page(settings, "file", id=str(file_id))
    everything = open_page(settings)
    everything.press("Cancel all matching …")
    everything.run()
    demote()
    form.app.text_input(key="new_title").set_value("Forged")
    form.press("Create file")
    assert [notice["title"] for notice in form.run().notices("outcome")] == ["Not created"]
    page.press("Cancel")
    page.run()
    everything.press("Cancel 1 file")
    everything.run()
    jobs = page_data.current().jobs
    wait_until(lambda: (view := jobs.view()) is not None and not view.running, 10, "the end of the job")
    view = jobs.view()
    assert view is not None
    assert view.error == "Cancelling files of others requires the role operator; vera has the role viewer"
    assert files(engine) == [("A file", "pending")]
    assert refused(engine) == [
        ("vera", "files.create"),
        ("vera", "files.cancel-own"),
        ("vera", "files.cancel"),
    ]
