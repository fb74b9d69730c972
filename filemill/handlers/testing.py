"""Runs a handler in a unit test: in the test's process, without limits and without servers.

from filemill.handlers.testing import run

def test_an_invoice_has_its_number() -> None:
assert b"2026-17" in run(invoice, Invoice(number="2026-17", lines=[])).body
"""

import asyncio
import dataclasses
import inspect
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from filemill.handlers.definition import Handler
from filemill.handlers.job import Job, JobRequest
from filemill.handlers.runner import chunks

# The time of the request, unless a test gives another one.
REQUESTED_AT = datetime(2026, 1, 4, 12, tzinfo=UTC)


@dataclasses.dataclass(frozen=True)
class HandlerRun:
    """What a handler did: the bytes of its result, and what it reported, in order."""

    body: bytes
    progress: list[tuple[float, str]]
    checkpoints: list[bytes]
    log: list[str]


class _Recorder:
    cancelled = False

    def __init__(self, resume: bytes | None) -> None:
        self._resume = resume
        self.reports: list[tuple[float, str]] = []
        self.checkpoints: list[bytes] = []
        self.lines: list[str] = []

    def progress(self, fraction: float, text: str) -> None:
        self.reports.append((fraction, text))

    def checkpoint(self, data: bytes) -> None:
        self.checkpoints.append(data)

    async def checkpoint_async(self, data: bytes) -> None:
        self.checkpoint(data)

    def resume(self) -> bytes | None:
        return self._resume

    def log(self, text: str) -> None:
        self.lines.append(text)


def run(
    handler: Handler,
    parameters: object = None,
    *,
    inputs: Mapping[str, str | Path] | None = None,
    resume: bytes | None = None,
    title: str = "A title",
    description: str = "",
    requested_at: datetime = REQUESTED_AT,
    attempt: int = 1,
) -> HandlerRun:
    """Run a handler once; returns its result and its reports.

    `parameters` are an object of the handler's type, or what its JSON would be; they are checked like those of a
    request. `inputs` are paths by name; `resume` is a checkpoint of an earlier attempt. Raises what the handler raises,
    PermanentError if the parameters are invalid, and ResultInvalid if the result is none.
    """
    dump = getattr(parameters, "model_dump", None)  # pydantic
    request = JobRequest(
        handler=handler.name,
        parameters=msgspec.json.encode(dump(mode="json") if dump else {} if parameters is None else parameters),
        id=1,
        attempt=attempt,
        title=title,
        description=description,
        requested_at=requested_at,
        inputs={name: str(path) for name, path in (inputs or {}).items()},
    )
    recorder = _Recorder(resume)
    with tempfile.TemporaryDirectory(prefix="filemill-handler-") as folder:
        job: Job[Any] = Job(request, handler.parameters.decode(request.parameters), Path(folder), recorder)
        body = asyncio.run(_collect(handler, job)) if handler.on_loop else b"".join(chunks(handler, handler(job)))
    return HandlerRun(body, recorder.reports, recorder.checkpoints, recorder.lines)


async def _collect(handler: Handler, job: Job[Any]) -> bytes:
    result = handler(job)
    if inspect.isasyncgen(result):
        return b"".join([chunk async for part in result for chunk in chunks(handler, [part])])
    return b"".join(chunks(handler, await result))
