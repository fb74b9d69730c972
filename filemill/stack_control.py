"""Orders for a running embedded stack, from another process of the same user: scale, stop or kill workers.

The supervisor listens on a socket in a folder that only its user can enter (`infra.embedded.control`); its address is
in the state file. One line of JSON each way.
"""

import socket
from typing import Literal

import msgspec

from filemill.retry import Unavailable
from filemill.stack import StackState

# A worker that is stopped may drain for seconds.
PATIENCE_SECONDS = 15.0
ANSWER_MAX_BYTES = 64 * 1024


class StackOrder(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to do: scale a `role` to `count`; stop `worker` for good; kill it, after which it is started again."""

    do: Literal["scale", "stop", "kill"]
    role: str = ""
    count: int = 0
    worker: str = ""


class StackAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of it: the ids of the workers of a role that was scaled; or why it was refused."""

    workers: list[str] = []
    error: str | None = None


class OrderRefused(ValueError):
    """The supervisor would not do it; the text says why."""


def give(stack: StackState, order: StackOrder) -> StackAnswer:
    """Have the supervisor do something, and wait for it. Raises OrderRefused; retry.Unavailable where it is gone."""
    if stack.control is None:
        raise Unavailable("the stack takes no orders: it was started by an older version")
    try:
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(PATIENCE_SECONDS)
            channel.connect(stack.control)
            channel.sendall(msgspec.json.encode(order) + b"\n")
            with channel.makefile("rb") as lines:
                line = lines.readline(ANSWER_MAX_BYTES)
        answer = msgspec.json.decode(line, type=StackAnswer)
    except (OSError, msgspec.DecodeError) as error:
        raise Unavailable(f"the stack's supervisor does not answer: {error}") from None
    if answer.error is not None:
        raise OrderRefused(answer.error)
    return answer
