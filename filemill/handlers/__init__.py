"""Handlers: functions that make files. This package is the public API for their authors.

    import msgspec
    from filemill.handlers import Job, handler

    class Greeting(msgspec.Struct):
        name: str

    @handler("greeting", content_type="text/plain", extension="txt", deterministic=True)
    def greeting(job: Job[Greeting]) -> bytes:
        return f"Hello {job.parameters.name}".encode()

`docs/handlers.md` is the guide. The package imports only the standard library, msgspec, `filemill.domain` and
`filemill.errors`.
"""

from filemill.errors import InvalidHandler, PermanentError, RetryLater
from filemill.handlers.definition import Handler, handler
from filemill.handlers.job import Job

__all__ = ["Handler", "InvalidHandler", "Job", "PermanentError", "RetryLater", "handler"]
