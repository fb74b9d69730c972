"""A background job that creates the requests of a CSV file."""

from collections.abc import Callable, Sequence

from filemill.domain.files import NewFile
from filemill.domain.permissions import Principal
from filemill.errors import InvalidRequest
from filemill_dashboard.state.bulk import BATCH_FILES
from filemill_dashboard.state.jobs import Job
from filemill_dashboard.state.services import Services


def create_rows(services: Services, files: Sequence[NewFile], key: str, principal: Principal) -> Callable[[Job], None]:
    """A job that creates these files, in batches. `key`: an idempotency key, so that a batch may be retried."""

    def work(job: Job) -> None:
        for start in range(0, len(files), BATCH_FILES):
            batch = files[start : start + BATCH_FILES]

            def submit(batch: Sequence[NewFile] = batch, start: int = start) -> None:
                services.submissions.submit_many_once(batch, f"{key} {start}", principal=principal)

            try:
                job.run_batch(submit)
            except InvalidRequest as error:  # the handlers or queues have changed since the preview
                job.error = str(error)
                return
            job.advance(len(batch))

    return work
