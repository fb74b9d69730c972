"""Errors that several parts of filemill raise or handle. Imports nothing of filemill."""

from typing import ClassVar

# A reason may quote the record; longer ones are cut.
_REASON_MAX_CHARACTERS = 500


class Unavailable(Exception):
    """A server is unreachable or refuses every client. Transient: the record is not the cause.

    `code` names the cause for programs: the server and the kind, such as "kafka-unreachable". `problem` says what
    failed, `advice` what to do about it, where that is known; the exception's text is both. `summary` follows the
    server's name in a headline.
    """

    default_code: ClassVar[str] = "unavailable"

    def __init__(
        self, problem: str = "", advice: str = "", *, summary: str = "is unreachable", code: str | None = None
    ) -> None:
        super().__init__(f"{problem}. {advice}" if advice else problem)
        self.problem = problem
        self.advice = advice
        self.summary = summary
        self.code = code if code is not None else self.default_code


class MemberExpelled(Unavailable):
    """The client lost its membership of a group and with it all its partitions. A new client may join the group."""

    default_code = "member-expelled"


class PermanentError(Exception):
    """A record that no number of attempts can turn into a file. `code`: the kind of fault, for programs."""

    def __init__(self, reason: str, code: str | None = None) -> None:
        super().__init__(reason)
        self.code = code


class NotFound(Exception):
    """An object that is not there."""


class AlreadyExists(Exception):
    """An object that is there already."""


class NotLeader(Exception):
    """The lease is somebody else's now: stop at once, nothing of this step was written."""


class UnusableData(Exception):
    """The database refuses a value of a batch: a record's fault, not the server's. Nothing of the batch is written."""


class InvalidMessage(ValueError):
    """A record's value that is not what its topic carries. The reason may quote the value, so it has a limit."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason if len(reason) <= _REASON_MAX_CHARACTERS else f"{reason[:_REASON_MAX_CHARACTERS]} …")
