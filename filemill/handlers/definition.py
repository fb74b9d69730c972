"""The decorator that makes a function a handler, and its limits."""

import dataclasses
import functools
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from filemill.domain.handlers import TEXT_HANDLER, HandlerSpec
from filemill.errors import InvalidHandler
from filemill.handlers.job import Job
from filemill.handlers.parameters import ParameterType, parameter_type

_CONTENT_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(; ?[\w-]+=[\w.+-]+)*")
_SIZE = re.compile(r"(?P<number>[0-9]+) ?(?P<unit>B|KiB|MiB|GiB|TiB)")
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}

Result = bytes | Path | Iterable[bytes]
Function = Callable[[Job[Any]], Result | Awaitable[Result] | AsyncIterator[bytes]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Handler:
    """A handler: its function, what it makes, and its limits. Times in seconds, sizes in bytes.

    `memory` is for the address space of one process; `disk` is for the folder of an attempt. `max_concurrency` limits
    the attempts at a time of one processor; 0 means no limit but the number of processes.
    """

    name: str
    function: Function
    content_type: str
    extension: str
    deterministic: bool
    timeout: float
    memory: int
    disk: int
    attempts: int
    max_concurrency: int
    queue: str | None
    version: str

    def __call__(self, job: Job[Any]) -> Any:  # noqa: ANN401 - the function's own result
        """Call the function, without any limit."""
        return self.function(job)

    @property
    def on_loop(self) -> bool:
        """Whether the function is a coroutine, which runs in the processor itself."""
        return inspect.iscoroutinefunction(self.function) or inspect.isasyncgenfunction(self.function)

    @functools.cached_property
    def parameters(self) -> ParameterType:
        """The type of the parameters. Raises InvalidHandler."""
        return parameter_type(self.name, self.function)

    def spec(self) -> HandlerSpec:
        """What a worker announces of this handler. Raises InvalidHandler."""
        return HandlerSpec(
            name=self.name,
            version=self.version,
            schema=self.parameters.schema,
            content_type=self.content_type,
            extension=self.extension,
            deterministic=self.deterministic,
            timeout=self.timeout,
            memory=self.memory,
            attempts=self.attempts,
            max_concurrency=self.max_concurrency or None,
            queue=self.queue,
        )


def handler(
    name: str,
    *,
    content_type: str,
    extension: str,
    deterministic: bool,
    timeout: float = 60.0,
    memory: int | str = "512 MiB",
    disk: int | str = "1 GiB",
    attempts: int = 5,
    max_concurrency: int = 0,
    queue: str | None = None,
    version: str = "1",
) -> Callable[[Function], Handler]:
    """Make a function a handler.

    `deterministic`: the same request always gives the same bytes. Then they are stored under one key, and `verify`
    makes them again to compare. `timeout` in seconds; at the deadline the attempt's processes are killed. `memory` and
    `disk` in bytes or as "512 MiB". `attempts`: how often it is tried before the request becomes a dead letter. Change
    `version` if the parameters or the bytes change. Raises InvalidHandler.
    """

    def make(function: Function) -> Handler:
        made = Handler(
            name=name,
            function=function,
            content_type=content_type,
            extension=extension.removeprefix("."),
            deterministic=deterministic,
            timeout=float(timeout),
            memory=size_in_bytes(name, memory),
            disk=size_in_bytes(name, disk),
            attempts=attempts,
            max_concurrency=max_concurrency,
            queue=queue,
            version=version,
        )
        _check(made)
        return made

    return make


def size_in_bytes(name: str, size: int | str) -> int:
    """A size as a number of bytes. Raises InvalidHandler, which names the handler."""
    if isinstance(size, int):
        return size
    match = _SIZE.fullmatch(size)
    if match is None:
        raise InvalidHandler(f'The handler "{name}" has the limit "{size}". Write it as "512 MiB"')
    return int(match["number"]) * _UNITS[match["unit"]]


def _check(made: Handler) -> None:
    name = made.name
    wrong = [
        (name == TEXT_HANDLER, "the name belongs to the text of the reference design"),
        (_CONTENT_TYPE.fullmatch(made.content_type) is None, f'"{made.content_type}" is not a content type'),
        (not 0 < made.timeout <= 7 * 86_400, "timeout must be above 0 and at most 7 days"),
        (made.memory < 2**24 or made.disk < 0, "memory must be at least 16 MiB, and disk not negative"),
        (made.attempts < 1 or made.max_concurrency < 0, "attempts must be at least 1, max_concurrency not negative"),
        (not callable(made.function), "it is not a function"),
    ]
    try:
        msgspec.convert(msgspec.to_builtins(made.spec()), HandlerSpec)
    except msgspec.ValidationError as error:
        wrong.append((True, str(error)))
    for is_wrong, reason in wrong:
        if is_wrong:
            raise InvalidHandler(f'The handler "{name}" cannot be used: {reason}')
