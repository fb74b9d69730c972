"""Orders for a running embedded stack, from another process of the same user: scale, stop, kill workers; faults.

The supervisor listens on a socket in a folder that only its user can enter (`filemill_infra.embedded.control`). Its
address is in the state file. One line of JSON each way.
"""

import socket
from typing import Literal

import msgspec

from filemill.errors import Unavailable
from filemill.runtime.stack_state import StackState

# A worker that is stopped may drain for seconds.
TIMEOUT_SECONDS = 15.0
RESPONSE_MAX_BYTES = 64 * 1024
FAULT_SECONDS_MAX = 600.0

FaultKind = Literal["killed", "stopped"]


class SupervisorCommand(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to do: scale a `role` to `count`; stop `worker` for good; kill it, after which it is started again; a fault.

    A fault is done to `target`, a server or a worker: `killed`, down for `seconds`, or `stopped` (SIGSTOP) for as long.
    The answer comes when it has begun. `key` is the name that it has in the journal.
    """

    action: Literal["scale", "stop", "kill", "fault"]
    role: str = ""
    count: int = 0
    worker: str = ""
    fault: FaultKind = "killed"
    target: str = ""
    seconds: float = 0.0
    key: str = ""


class SupervisorResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of it: the ids of the workers of a role that was scaled; or why it was refused."""

    workers: list[str] = []
    error: str | None = None


class CommandRejected(ValueError):
    """The supervisor would not do it; the text says why."""


def send(stack: StackState, command: SupervisorCommand) -> SupervisorResponse:
    """Have the supervisor do something, and wait for it. Raises OrderRefused; Unavailable where it is gone."""
    if stack.control is None:
        raise Unavailable("the stack takes no orders: it was started by an older version")
    try:
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(TIMEOUT_SECONDS)
            channel.connect(stack.control)
            channel.sendall(msgspec.json.encode(command) + b"\n")
            with channel.makefile("rb") as lines:
                line = lines.readline(RESPONSE_MAX_BYTES)
        answer = msgspec.json.decode(line, type=SupervisorResponse)
    except (OSError, msgspec.DecodeError) as error:
        raise Unavailable(f"the stack's supervisor does not answer: {error}") from None
    if answer.error is not None:
        raise CommandRejected(answer.error)
    return answer
