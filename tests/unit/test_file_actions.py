"""Why an action on a file is refused: the code for programs, and the sentence for people."""

import pytest

from filemill.domain.file_actions import RUN_MAX, FileAction, FileSelection, RefusalCode, refusals
from filemill.domain.files import Status


@pytest.mark.parametrize(
    ("action", "row", "code"),
    [
        (FileAction.RETRY, None, RefusalCode.NOT_FOUND),
        (FileAction.RETRY, (Status.PENDING, 1), RefusalCode.WRONG_STATUS),
        (FileAction.RETRY, (Status.COMPLETED, 1), RefusalCode.WRONG_STATUS),
        (FileAction.RETRY, (Status.FAILED, RUN_MAX), RefusalCode.LAST_RUN),
        (FileAction.RETRY, (Status.COMPLETED, RUN_MAX), RefusalCode.WRONG_STATUS),
        (FileAction.CANCEL, (Status.COMPLETED, 1), RefusalCode.WRONG_STATUS),
        (FileAction.DELETE, (Status.PROCESSING, 1), RefusalCode.WRONG_STATUS),
        (FileAction.DELETE, (Status.CANCELLED, 1), RefusalCode.BEING_PUBLISHED),
    ],
)
def test_each_refusal_has_a_code(action: FileAction, row: tuple[Status, int] | None, code: RefusalCode) -> None:
    (refused,) = refusals(action, [7], {} if row is None else {7: row})
    assert (refused.file_id, refused.code) == (7, code)
    assert refused.reason


def test_a_reason_names_the_status() -> None:
    (refused,) = refusals(FileAction.CANCEL, [7], {7: (Status.COMPLETED, 1)})
    assert refused.reason == "it is completed"


def test_a_selection_is_limited_to_the_statuses_that_allow_the_action() -> None:
    assert FileSelection().eligible(FileAction.RETRY) == (Status.FAILED, Status.CANCELLED)
    assert FileSelection(Status.FAILED).eligible(FileAction.RETRY) == (Status.FAILED,)
    assert FileSelection(Status.COMPLETED).eligible(FileAction.RETRY) == ()
