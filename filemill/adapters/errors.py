"""What the tables of the servers' errors share: `postgres.errors`, `kafka.errors`, `s3.errors`."""

import enum

MAX_TEXT_CHARACTERS = 300


class ErrorCategory(enum.Enum):
    """What the caller does about an error of a server.

    RETRY, TRANSIENT and ACTION_REQUIRED are raised as `Unavailable`: REST answers 503, a command ends with exit code
    3, and every role waits and retries. NOT_FOUND is raised as `NotFound`. BUG keeps the driver's exception: REST
    answers 500, a command shows a traceback.
    """

    RETRY = "the server rolled everything back, and an immediate retry may succeed"
    TRANSIENT = "the error passes without a change"
    ACTION_REQUIRED = "the server or the settings must be changed"
    NOT_FOUND = "the requested object does not exist"
    BUG = "the request itself is wrong"


def first_line(error: BaseException | None) -> str:
    """The first line of a driver's message, cut: other lines can hold statements, values or a whole request."""
    text = str(error).strip()
    return text.splitlines()[0][:MAX_TEXT_CHARACTERS] if text else type(error).__name__
