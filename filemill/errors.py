"""Errors that several parts of filemill raise or handle. Imports nothing of filemill.

Each error has a `code`, for programs. Its text is for people: no decision depends on it.
"""

import enum
from typing import ClassVar

# A reason may quote the record. Longer ones are cut.
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


class InvalidToken(Exception):
    """A token of an identity provider, or its response to a sign-in, is not acceptable. The text quotes no secret."""

    code: ClassVar[str] = "invalid-token"


class MemberExpelled(Unavailable):
    """The client lost its membership of a group and with it all its partitions. A new client may join the group."""

    default_code = "member-expelled"


class DeadLetterCode(enum.StrEnum):
    """Why a record became a dead letter. The header `filemill-code` contains it."""

    INVALID_MESSAGE = "invalid_message"
    HEADERS_UNREADABLE = "headers_unreadable"
    OBJECT_EXISTS = "object_exists"
    RECORD_TOO_LARGE = "record_too_large"
    DELIVERY_LIMIT = "delivery_limit"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    REJECTED_BY_HANDLER = "rejected_by_handler"
    HANDLER_UNKNOWN = "handler_unknown"
    PARAMETERS_INVALID = "parameters_invalid"
    INPUT_MISSING = "input_missing"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    MEMORY_EXCEEDED = "memory_exceeded"
    DISK_EXCEEDED = "disk_exceeded"
    HANDLER_CRASHED = "handler_crashed"
    RESULT_INVALID = "result_invalid"


class PermanentError(Exception):
    """A record cannot be processed, however often it is retried.

    A handler raises it with the reason alone. `trace` is the traceback of another process.
    """

    def __init__(self, reason: str, code: DeadLetterCode = DeadLetterCode.REJECTED_BY_HANDLER, trace: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.trace = trace


class RetryLater(Exception):
    """A handler asks to be run again after `seconds`. This does not count as an attempt."""

    code: ClassVar[str] = "retry-later"

    def __init__(self, seconds: float, reason: str = "the handler asked for a later attempt") -> None:
        super().__init__(reason)
        self.seconds = seconds


class AttemptFailed(Exception):
    """An attempt of a handler failed. It counts, and the next one may succeed.

    `code` is the cause, and the code of the dead letter after the last attempt. `trace` is the traceback of the
    handler's process, empty if it was killed.
    """

    def __init__(self, reason: str, code: DeadLetterCode = DeadLetterCode.ATTEMPTS_EXHAUSTED, trace: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.trace = trace


class InvalidHandler(Exception):
    """A handler cannot be used: its module, its name or its parameters are wrong. The text names it."""

    code: ClassVar[str] = "invalid-handler"


class NotFound(Exception):
    """The object does not exist."""

    code: ClassVar[str] = "not-found"


class AlreadyExists(Exception):
    """An object with this key exists already."""

    code: ClassVar[str] = "already-exists"


class Conflict(Exception):
    """The present state of the server's objects does not allow the operation. `code` names the reason, for programs."""

    def __init__(self, reason: str, code: str) -> None:
        super().__init__(reason)
        self.code = code


class Forbidden(Exception):
    """The principal's role does not allow the operation. `permission` is the one that is missing."""

    code: ClassVar[str] = "forbidden"

    def __init__(self, reason: str, permission: str) -> None:
        super().__init__(reason)
        self.permission = permission


class NotLeader(Exception):
    """Another process holds the lease. Nothing of this step was written; the caller must stop at once."""

    code: ClassVar[str] = "not-leader"


class UnusableData(Exception):
    """The database refuses a value of a batch. The record is the cause, not the server. Nothing was written."""

    code: ClassVar[str] = "unusable-data"


class InvalidMessage(ValueError):
    """The value or the headers of a record do not have the format of its topic.

    The reason may quote the value, so its length is limited.
    """

    code: ClassVar[str] = "invalid-message"

    def __init__(self, reason: str) -> None:
        super().__init__(reason if len(reason) <= _REASON_MAX_CHARACTERS else f"{reason[:_REASON_MAX_CHARACTERS]} …")


class InvalidRequest(ValueError):
    """A request breaks a limit. `field` names the part of the request, `reason` is the rest of the sentence."""

    code: ClassVar[str] = "invalid-request"

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


class FileIdOutOfRange(InvalidRequest):
    """A whole number that cannot be the id of a file."""

    code = "file-id-out-of-range"
