"""Errors that several parts of filemill raise or handle. Imports nothing of filemill."""

# A reason may quote the record; longer ones are cut.
_REASON_MAX_CHARACTERS = 500


class Unavailable(Exception):
    """A server that is away or refuses everybody. Transient: the record is innocent.

    `advice` is what to do about it, where that is known; the exception's text is both. `summary` follows the server's
    name in a headline.
    """

    def __init__(self, problem: str = "", advice: str = "", *, summary: str = "is away") -> None:
        super().__init__(f"{problem}. {advice}" if advice else problem)
        self.problem = problem
        self.advice = advice
        self.summary = summary


class MemberExpelled(Unavailable):
    """The client gave its membership of a group up for good: what it held is lost; a new client may join again."""


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
