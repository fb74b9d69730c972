"""Commands to a running embedded stack, from another process of the same user: scale, stop and kill workers; faults.

The supervisor listens on a socket in a folder that only its user can enter (`filemill_infra.embedded.control`). Its
path is in the state file. A command and its response are one line of JSON each.
"""

import socket
from enum import StrEnum
from typing import Literal

import msgspec

from filemill.errors import Unavailable
from filemill.runtime.stack_state import StackState

# Stopping a worker may take seconds, because it drains.
TIMEOUT_SECONDS = 15.0
RESPONSE_MAX_BYTES = 64 * 1024
FAULT_SECONDS_MAX = 600.0

FaultKind = Literal["killed", "stopped"]


class CommandRejection(StrEnum):
    """Why the supervisor rejects a command."""

    MALFORMED = "malformed"
    UNKNOWN_TARGET = "unknown-target"
    INVALID_VALUE = "invalid-value"
    NOT_ALLOWED = "not-allowed"
    FAULT_ACTIVE = "fault-active"
    NO_FAULT = "no-fault"
    FAILED = "failed"


class SupervisorCommand(msgspec.Struct, frozen=True, omit_defaults=True):
    """Scale a `role` to `count`; stop `worker` for good; kill it, after which it is restarted; inject a fault.

    A fault has a `target`, a server or a worker, which is `killed` and stays down for `seconds`, or is `stopped`
    (SIGSTOP) for `seconds`. The response comes when the fault has begun. `key` is the fault's name in the journal.
    `end-fault` ends the fault on `target` before its time is over.
    """

    action: Literal["scale", "stop", "kill", "fault", "end-fault"]
    role: str = ""
    count: int = 0
    worker: str = ""
    fault: FaultKind = "killed"
    target: str = ""
    seconds: float = 0.0
    key: str = ""


class SupervisorResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """The worker ids of the role that was scaled; or why the command was rejected: a code and a sentence."""

    workers: list[str] = []
    error: str | None = None
    code: CommandRejection | None = None


class OutcomeUnknown(Unavailable):
    """A command was sent and no response came: it was executed, or is being executed, or was not."""

    default_code = "supervisor-no-answer"


class CommandRejected(ValueError):
    """The supervisor rejected a command; `code` and the text give the reason."""

    def __init__(self, message: str, code: CommandRejection = CommandRejection.NOT_ALLOWED) -> None:
        super().__init__(message)
        self.code = code


def send(stack: StackState, command: SupervisorCommand) -> SupervisorResponse:
    """Send a command and wait for the response. Raises CommandRejected and Unavailable: it was not executed.

    Raises OutcomeUnknown if the command may have been executed.
    """
    if stack.control is None:
        raise Unavailable(
            "the stack has no control socket: it was started by an older version", code="supervisor-without-control"
        )
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(TIMEOUT_SECONDS)
        try:
            channel.connect(stack.control)
        except OSError as error:
            raise Unavailable(
                f"the stack's supervisor does not answer: {error}", code="supervisor-unreachable"
            ) from None
        try:
            channel.sendall(msgspec.json.encode(command) + b"\n")
            with channel.makefile("rb") as lines:
                response = msgspec.json.decode(lines.readline(RESPONSE_MAX_BYTES), type=SupervisorResponse)
        except (OSError, msgspec.DecodeError) as error:
            raise OutcomeUnknown(
                f"the stack's supervisor received the command and did not confirm it: {error}",
                "The list of workers shows whether it was executed",
            ) from None
    if response.error is not None:
        raise CommandRejected(response.error, response.code or CommandRejection.FAILED)
    return response
