"""Errors of the embedded servers, with advice for the user."""

from collections.abc import Sequence
from typing import ClassVar


class EmbeddedError(Exception):
    """An error of the embedded stack.

    `problem` says what failed, `where` names an address, a folder or a process, `log` has the last lines of the log,
    and `advice` says what to do. `str()` combines them for a terminal. `code` names the kind of error for programs.
    """

    code: ClassVar[str] = "embedded-error"

    def __init__(self, problem: str, *, where: str = "", log: Sequence[str] = (), advice: str = "") -> None:
        self.problem = problem
        self.where = where
        self.log = tuple(log)
        self.advice = advice
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [f"{self.problem} ({self.where})" if self.where else self.problem]
        lines += [f"    {line}" for line in self.log]
        if self.advice:
            lines.append(f"What to do: {self.advice}")
        return "\n".join(lines)


class HomeError(EmbeddedError):
    """The home folder cannot be used: it is a file, read-only, full, or another user's."""

    code = "home-unusable"


class HomeInUseError(EmbeddedError):
    """Another stack uses this home. `pid` is its supervisor, `page` the URL of its page, if known."""

    code = "home-in-use"

    def __init__(self, home: str, pid: int | None, page: str | None) -> None:
        self.pid = pid
        self.page = page
        known = ", ".join(part for part in (f"pid {pid}" if pid else "", page or "") if part)
        super().__init__(
            f"A stack is already running in {home}",
            where=known,
            advice="use it, stop it with `filemill down`, or give another folder with --home.",
        )


class DownloadError(EmbeddedError):
    """Apache Kafka's jars could not be downloaded, or have another hash."""

    code = "download-failed"


class StartError(EmbeddedError):
    """A server did not start, or did not become ready in time."""

    code = "start-failed"


class PortTakenError(StartError):
    """A server could not bind its port, because another process had taken it meanwhile."""

    code = "port-taken"


class CancelledError(EmbeddedError):
    """The start was cancelled by Ctrl-C or `stop()`; everything that was started has been stopped."""

    code = "cancelled"

    def __init__(self, what: str = "The start was cancelled") -> None:
        super().__init__(what)
