"""What the tables of the servers' errors share: `postgres_errors`, `kafka_errors`, `s3_errors`."""

import enum

MAX_TEXT_CHARACTERS = 300


class ErrorCategory(enum.Enum):
    """What follows an error of a server.

    All but the last two are `Unavailable`: REST answers 503 with the sentence, the command ends with exit code 3,
    and every role waits and tries again. `MISSING` is `errors.NotFound`. `BUG` stays what it was raised as: REST answers
    500, a command shows a traceback.
    """

    RETRY = "the server undid all of it, and the same may succeed at once"
    TRANSIENT = "it passes by itself"
    ACTION_REQUIRED = "somebody has to do something about the server or the settings"
    NOT_FOUND = "the object that was asked for is not there"
    BUG = "the error is in what was sent"


def first_line(error: BaseException | None) -> str:
    """The first line of a driver's message, cut: the others can hold statements, values or a whole request."""
    text = str(error).strip()
    return text.splitlines()[0][:MAX_TEXT_CHARACTERS] if text else type(error).__name__
