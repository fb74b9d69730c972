"""Background jobs on many files: create them; retry, cancel or delete all that match; resubmit lost ones."""

from collections.abc import Callable, Sequence
from functools import partial

from filemill.domain.file_actions import FileAction, FileSelection
from filemill.domain.files import new_file
from filemill.domain.permissions import Principal
from filemill_dashboard.state import deletions
from filemill_dashboard.state.jobs import Job
from filemill_dashboard.state.services import Services

BATCH_FILES = 500


def create_many(
    services: Services, title: str, description: str, count: int, key: str, principal: Principal
) -> Callable[[Job], None]:
    """A job that creates `count` files with numbered titles, once per `key`. Raises InvalidRequest at once."""
    new_file(f"{title} {count}", description)

    def work(job: Job) -> None:
        for first in range(1, count + 1, BATCH_FILES):
            numbers = range(first, min(first + BATCH_FILES, count + 1))
            files = [new_file(f"{title} {number}", description) for number in numbers]
            # If only the answer to the commit was lost, the retry finds the batch's key and creates nothing.
            submit = partial(services.submissions.submit_many_once, files, f"{key}-{first}", principal=principal)
            job.run_batch(submit)
            job.advance(len(files))

    return work


def apply_to_all(
    services: Services, action: FileAction, selection: FileSelection, upto: int, principal: Principal
) -> Callable[[Job], None]:
    """A job that applies `action` to all matching files up to the id `upto`. A deletion can be undone at first."""
    operations = services.operations

    def next_ids(after: int) -> list[int]:
        operations.authorize_all(action, principal)
        return operations.matching_ids(action, selection, after=after, upto=upto, limit=BATCH_FILES)

    work = _in_batches(next_ids, lambda ids: len(operations.apply(action, ids, principal).done))

    def undoable(job: Job) -> None:
        job.wait_for_undo(deletions.UNDO_SECONDS)
        work(job)

    return undoable if action is FileAction.DELETE else work


def resubmit_all(services: Services, principal: Principal) -> Callable[[Job], None]:
    """A job that resubmits all requests whose records are gone from Kafka."""
    operations = services.operations

    def next_ids(after: int) -> list[int]:
        return operations.gone_requests(after=after, limit=BATCH_FILES)

    return _in_batches(next_ids, lambda ids: len(operations.resubmit(ids, principal)))


def _in_batches(next_ids: Callable[[int], list[int]], apply: Callable[[Sequence[int]], int]) -> Callable[[Job], None]:
    """Apply something to all ids in their order. `next_ids` has those after an id, `apply` returns how many it did."""

    def work(job: Job) -> None:
        after, ended = 0, False

        def batch() -> None:
            nonlocal after, ended
            ids = next_ids(after)
            if not ids:
                ended = True
                return
            done = apply(ids)
            after = ids[-1]
            job.advance(done, len(ids) - done)

        while not ended:
            job.run_batch(batch)

    return work
