"""Deletions wait, can be undone, and say what happened."""

import threading
from collections.abc import Sequence

import pytest

from filemill.domain.file_actions import ActionResult, FileRefusal, RefusalCode
from filemill.domain.permissions import Principal
from filemill.errors import Unavailable
from filemill_dashboard.state import deletions
from filemill_dashboard.state.deletions import Deletions
from filemill_dashboard.state.jobs import Job, Jobs
from tests.principals import PAGE

WAIT_SECONDS = 20


class Store:
    """Records what was deleted."""

    def __init__(self, error: Exception | None = None) -> None:
        self.deleted: list[int] = []
        self.ended = threading.Event()
        self._error = error

    def delete(self, ids: Sequence[int], principal: Principal) -> ActionResult:
        assert principal is PAGE
        if self._error is not None:
            raise self._error
        self.deleted += ids
        return ActionResult(
            list(ids)[:1], [FileRefusal(one, "it is pending", RefusalCode.WRONG_STATUS) for one in ids[1:]]
        )


def test_an_undone_deletion_changes_nothing() -> None:
    store = Store()
    waiting = Deletions(store.delete, store.ended.set)
    waiting.request([3, 4, 3], PAGE)
    waiting.request([4, 5], PAGE)
    view = waiting.view()
    assert view is not None
    assert (view.files, waiting.waiting_files()) == ((3, 4, 5), {3, 4, 5})
    assert view.seconds_left == pytest.approx(deletions.UNDO_SECONDS, abs=5)
    assert waiting.undo() == 3
    assert (waiting.view(), waiting.waiting_files(), store.deleted) == (None, set(), [])


@pytest.mark.parametrize(
    ("error", "deleted", "problem"),
    [
        (None, 1, "#2: it is pending"),
        (Unavailable("PostgreSQL is unreachable"), 0, "PostgreSQL is unreachable"),
        (RuntimeError("bug"), 0, "internal error: see the dashboard's log"),
    ],
)
def test_a_deletion_that_is_due_is_carried_out_and_reported(
    error: Exception | None, deleted: int, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletions, "UNDO_SECONDS", 0.0)
    store = Store(error)
    waiting = Deletions(store.delete, store.ended.set)
    waiting.request([1, 2], PAGE)
    assert store.ended.wait(WAIT_SECONDS)
    view = waiting.view()
    assert view is not None
    assert (view.files, view.seconds_left, view.deleted, view.problem) == ((1, 2), None, deleted, problem)
    assert waiting.undo() == 0
    assert waiting.view() is None


def test_a_job_that_waits_for_an_undo_changes_nothing_when_it_is_stopped() -> None:
    ended, begun = threading.Event(), threading.Event()
    jobs = Jobs(on_end=ended.set)

    def work(job: Job) -> None:
        begun.set()
        job.wait_for_undo(600)
        raise AssertionError("it was carried out")

    jobs.start("Delete 3 files", 3, work)
    assert begun.wait(WAIT_SECONDS)
    jobs.stop()
    assert ended.wait(WAIT_SECONDS)
    view = jobs.view()
    assert view is not None
    assert (view.error, view.begins_in_seconds) == ("undone, nothing was changed", None)
