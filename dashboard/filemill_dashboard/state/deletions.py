"""Deletions that can be undone: files are deleted `UNDO_SECONDS` after the request, and until then nothing has changed.

So rows, objects, tombstones and the ledger never disagree. A deletion that waits ends with the process: its files stay.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from filemill.domain.file_actions import ActionResult
from filemill.domain.permissions import Principal
from filemill.errors import Forbidden, Unavailable

log = structlog.get_logger("jobs")

UNDO_SECONDS = 10.0
# The outcome of a deletion is shown for this long.
SHOWN_SECONDS = 8.0

Delete = Callable[[Sequence[int], Principal], ActionResult]


@dataclass(frozen=True)
class DeletionsView:
    """The deletions of this process: those that can be undone, or else the outcome of the last one.

    `seconds_left`: until the first of them is carried out; None: none waits.
    """

    files: tuple[int, ...]
    seconds_left: float | None
    deleted: int = 0
    problem: str = ""


class _Deletion:
    def __init__(self, ids: Sequence[int], principal: Principal) -> None:
        self.ids = tuple(dict.fromkeys(ids))
        self.principal = principal
        self.due_at = time.monotonic() + UNDO_SECONDS
        self.timer: threading.Timer | None = None


class Deletions:
    """The deletions that were requested on pages of this process. Every viewer sees them and can undo them."""

    def __init__(self, delete: Delete, on_end: Callable[[], None] = lambda: None) -> None:
        self._delete = delete
        self._on_end = on_end
        self._lock = threading.Lock()
        self._waiting: list[_Deletion] = []
        self._outcome: tuple[float, DeletionsView] | None = None

    def request(self, ids: Sequence[int], principal: Principal) -> None:
        """Delete these files after `UNDO_SECONDS`. Files whose deletion waits already keep their time."""
        with self._lock:
            known = {file_id for one in self._waiting for file_id in one.ids}
            deletion = _Deletion([file_id for file_id in ids if file_id not in known], principal)
            if not deletion.ids:
                return
            self._waiting.append(deletion)
            deletion.timer = threading.Timer(UNDO_SECONDS, self._carry_out, [deletion])
            deletion.timer.daemon = True
            deletion.timer.start()

    def undo(self, only: Principal | None = None) -> int:
        """Drop the deletions that wait, and hide the last outcome; returns how many files stay.

        `only`: whose deletions are dropped; None: all.
        """
        with self._lock:
            dropped = [one for one in self._waiting if only is None or one.principal.name == only.name]
            self._waiting = [one for one in self._waiting if one not in dropped]
            self._outcome = None
        for deletion in dropped:
            if deletion.timer is not None:
                deletion.timer.cancel()
        return sum(len(deletion.ids) for deletion in dropped)

    def view(self) -> DeletionsView | None:
        """What waits, or the last outcome for a while."""
        now = time.monotonic()
        with self._lock:
            if self._waiting:
                files = tuple(file_id for one in self._waiting for file_id in one.ids)
                return DeletionsView(files, max(0.0, min(one.due_at for one in self._waiting) - now))
            if self._outcome is None or now - self._outcome[0] > SHOWN_SECONDS:
                return None
            return self._outcome[1]

    def waiting_files(self) -> set[int]:
        """The files whose deletion waits."""
        with self._lock:
            return {file_id for one in self._waiting for file_id in one.ids}

    def _carry_out(self, deletion: _Deletion) -> None:
        with self._lock:
            if deletion not in self._waiting:
                return  # undone
            self._waiting.remove(deletion)
        view = self._result_of(deletion)
        with self._lock:
            self._outcome = (time.monotonic(), view)
        self._on_end()

    def _result_of(self, deletion: _Deletion) -> DeletionsView:
        try:
            result = self._delete(deletion.ids, deletion.principal)
        except (Forbidden, Unavailable) as error:
            return DeletionsView(deletion.ids, None, 0, str(error))
        except Exception:
            log.exception("A deletion failed", files=len(deletion.ids))
            return DeletionsView(deletion.ids, None, 0, "internal error: see the dashboard's log")
        problem = "; ".join(f"#{one.file_id}: {one.reason}" for one in result.refused[:3])
        return DeletionsView(deletion.ids, None, len(result.done), problem)
