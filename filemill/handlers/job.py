"""What a handler gets: the request, and how it reports what it does."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

CHECKPOINT_MAX_BYTES = 1024 * 1024
PROGRESS_TEXT_MAX_CHARACTERS = 200

P = TypeVar("P")


class JobRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a job, as the processor describes it. `parameters` is JSON, `inputs` are paths by name."""

    handler: str
    parameters: bytes = b"{}"
    id: int
    run: int = 1
    attempt: int = 1
    title: str = ""
    description: str = ""
    requested_at: datetime
    tags: dict[str, str] = {}
    inputs: dict[str, str] = {}


class JobControl(Protocol):
    """Where the reports of a job go."""

    @property
    def cancelled(self) -> bool:
        """Whether the result is no longer needed."""

    def progress(self, fraction: float, text: str) -> None:
        """Report progress."""

    def checkpoint(self, data: bytes) -> None:
        """Store a checkpoint; returns when it is durable."""

    async def checkpoint_async(self, data: bytes) -> None:
        """The same for a handler that is a coroutine."""

    def resume(self) -> bytes | None:
        """The last checkpoint of an earlier attempt."""

    def log(self, text: str) -> None:
        """Add a line to the log of the attempt."""


class Job(Generic[P]):
    """One attempt of a job.

    `parameters` have the type in the handler's annotation. `id`, `run` and `attempt` identify the attempt, the last two
    counted from 1. `requested_at` is the time of the request (UTC): a deterministic handler uses it instead of the
    current time. `inputs` are files to read, by name. `folder` is an empty folder that is removed after the attempt.
    """

    def __init__(self, request: JobRequest, parameters: P, folder: Path, control: JobControl) -> None:
        self.parameters = parameters
        self.id = request.id
        self.run = request.run
        self.attempt = request.attempt
        self.title = request.title
        self.description = request.description
        self.requested_at = request.requested_at
        self.tags: Mapping[str, str] = request.tags
        self.inputs: Mapping[str, Path] = {name: Path(path) for name, path in request.inputs.items()}
        self.folder = folder
        self._control = control

    @property
    def resume(self) -> bytes | None:
        """The last checkpoint of an earlier attempt of this run, made by any worker; None if there is none."""
        return self._control.resume()

    @property
    def cancelled(self) -> bool:
        """Whether the result is no longer needed.

        The process of a plain function is killed at a cancel, so there it is always False. A coroutine is cancelled at
        its next await; a thread that it started can ask here.
        """
        return self._control.cancelled

    def progress(self, fraction: float, text: str = "") -> None:
        """Report progress: a fraction between 0 and 1, and a short text. Cheap: only the newest is sent, now and then.

        Raises ValueError if the fraction is outside of 0 and 1.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"progress: the fraction must be between 0 and 1, not {fraction}")
        self._control.progress(float(fraction), text[:PROGRESS_TEXT_MAX_CHARACTERS])

    def checkpoint(self, data: bytes) -> None:
        """Store up to 1 MiB. Returns when it is durable; the next attempt gets it as `resume`.

        Raises ValueError if it is larger. In an `async def` handler use `checkpoint_async`.
        """
        self._control.checkpoint(_checked(data))

    async def checkpoint_async(self, data: bytes) -> None:
        """`checkpoint` for an `async def` handler."""
        await self._control.checkpoint_async(_checked(data))

    def log(self, text: str) -> None:
        """Add a line to the log of this attempt, of which the last 64 KiB are kept."""
        self._control.log(text)


def _checked(data: bytes) -> bytes:
    if len(data) > CHECKPOINT_MAX_BYTES:
        raise ValueError(f"a checkpoint may have {CHECKPOINT_MAX_BYTES} bytes, not {len(data)}")
    return bytes(data)
