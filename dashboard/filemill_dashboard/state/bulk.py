"""Many files at once, as jobs: ask for them; retry, cancel or delete all that match."""

from collections.abc import Callable
from dataclasses import dataclass

from filemill.domain.file_actions import FileAction, FileSelection
from filemill.domain.files import new_file
from filemill_dashboard.state.jobs import Job
from filemill_dashboard.state.services import Services

BATCH_FILES = 500


def create_many(services: Services, title: str, description: str, count: int) -> Callable[[Job], None]:
    """The work of asking for `count` files, numbered in their titles. Raises files.InvalidRequest at once."""
    new_file(f"{title} {count}", description)

    def work(job: Job) -> None:
        for first in range(1, count + 1, BATCH_FILES):
            numbers = range(first, min(first + BATCH_FILES, count + 1))
            files = [new_file(f"{title} {number}", description) for number in numbers]
            # Not insisted upon: a commit whose answer was lost would be repeated as other files.
            services.submissions.submit_many(files)
            job.advance(len(files))

    return work


def apply_to_all(
    services: Services, action: FileAction, selection: FileSelection, upto: int, actor: str
) -> Callable[[Job], None]:
    """The work of doing `action` to all files up to the id `upto` that match."""

    def work(job: Job) -> None:
        place = _Place()

        def batch() -> None:
            ids = services.operations.matching_ids(action, selection, after=place.after, upto=upto, limit=BATCH_FILES)
            if not ids:
                place.end = True
                return
            outcome = services.operations.apply(action, ids, actor)
            place.after = ids[-1]
            job.advance(len(outcome.done), len(outcome.refused))

        while not place.end:
            job.run_batch(batch)

    return work


def resubmit_all(services: Services, actor: str) -> Callable[[Job], None]:
    """The work of submitting again all requests whose records are gone from Kafka."""

    def work(job: Job) -> None:
        place = _Place()

        def batch() -> None:
            ids = services.operations.gone_requests(after=place.after, limit=BATCH_FILES)
            if not ids:
                place.end = True
                return
            done = services.operations.resubmit(ids, actor)
            place.after = ids[-1]
            job.advance(len(done), len(ids) - len(done))

        while not place.end:
            job.run_batch(batch)

    return work


@dataclass
class _Place:
    """How far a walk through all that match has come."""

    after: int = 0
    end: bool = False
