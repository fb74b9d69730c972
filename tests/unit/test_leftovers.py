"""Which objects of a file nothing needs any more."""

from datetime import UTC, datetime

import pytest

from filemill.domain.files import Status, checkpoint_key, object_key
from filemill.domain.leftovers import FileEnd, LeftoverKind, leftover_kind

THEN = datetime(2026, 1, 4, 12, tzinfo=UTC)
PLAIN = object_key(7, THEN, "pdf")
WON, OTHER = object_key(7, THEN, "pdf", "run1-aaaa0000"), object_key(7, THEN, "pdf", "run1-bbbb0000")
CHECKPOINT = checkpoint_key(7, THEN, 1)
NEXT_CHECKPOINT = checkpoint_key(7, THEN, 2)


@pytest.mark.parametrize(
    ("key", "status", "run", "location", "expected"),
    [
        (WON, Status.COMPLETED, 1, WON, None),
        (WON, Status.COMPLETED, 1, f"//{WON}", None),
        (OTHER, Status.COMPLETED, 1, WON, LeftoverKind.SUPERSEDED),
        (PLAIN, Status.COMPLETED, 1, WON, LeftoverKind.SUPERSEDED),
        (PLAIN, Status.COMPLETED, 1, None, None),
        (CHECKPOINT, Status.COMPLETED, 1, WON, LeftoverKind.CHECKPOINT),
        # The attempt that is running may store, or announce, any of these.
        (OTHER, Status.PROCESSING, 1, None, None),
        (PLAIN, Status.PENDING, 2, None, None),
        (CHECKPOINT, Status.PROCESSING, 1, None, None),
        (CHECKPOINT, Status.PROCESSING, 2, None, LeftoverKind.CHECKPOINT),
        (NEXT_CHECKPOINT, Status.FAILED, 1, None, None),
        # A retry of the file finds the object under the plain key, and keeps it.
        (PLAIN, Status.FAILED, 1, None, None),
        (PLAIN, Status.CANCELLED, 1, None, None),
        (OTHER, Status.FAILED, 1, None, LeftoverKind.ENDED_ATTEMPT),
        (OTHER, Status.PENDING, 2, None, LeftoverKind.ENDED_ATTEMPT),
        (CHECKPOINT, Status.CANCELLED, 1, None, LeftoverKind.CHECKPOINT),
    ],
)
def test_an_object_is_left_over_only_if_no_run_can_need_it(
    key: str, status: Status, run: int, location: str | None, expected: LeftoverKind | None
) -> None:
    assert leftover_kind(key, FileEnd(status, run, location)) is expected


@pytest.mark.parametrize("key", [PLAIN, WON, CHECKPOINT])
def test_a_deleted_file_needs_no_object(key: str) -> None:
    assert leftover_kind(key, None) is LeftoverKind.DELETED_FILE
