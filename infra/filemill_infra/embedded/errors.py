"""What goes wrong with the embedded servers, said so that a person can act on it."""

from collections.abc import Sequence


class EmbeddedError(Exception):
    """Something about the embedded stack failed.

    `what` failed, `where` (an address, a folder, a process), `log` (the last lines of the log that explains it) and
    `advice` (what to do) are apart so that a page can lay them out; `str()` is all of them, for a terminal.
    """

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
    """The home folder cannot be used: it is a file, read-only, full, or not ours."""


class HomeInUseError(EmbeddedError):
    """Another stack runs under this home folder: `pid` is its supervisor, `page` the address of its page if known."""

    def __init__(self, home: str, pid: int | None, page: str | None) -> None:
        self.pid = pid
        self.page = page
        known = ", ".join(part for part in (f"pid {pid}" if pid else "", page or "") if part)
        super().__init__(
            f"A stack runs already under {home}",
            where=known,
            advice="use it, stop it with `filemill down`, or give another folder with --home.",
        )


class DownloadError(EmbeddedError):
    """Apache Kafka's jars could not be downloaded, or are not what they should be."""


class StartError(EmbeddedError):
    """A server did not start, or did not answer in time."""


class PortTakenError(StartError):
    """A server could not listen because something else took its port between choosing it and binding it."""


class CancelledError(EmbeddedError):
    """The start was given up on request (Ctrl-C, `stop()`); what had been started is stopped."""

    def __init__(self, what: str = "The start was cancelled") -> None:
        super().__init__(what)
