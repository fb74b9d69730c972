"""Scaling, stopping and killing the file processors of the embedded stack that a page belongs to."""

import sqlalchemy as sa

from filemill.domain.permissions import Permission, Principal
from filemill.runtime.stack_state import StackState
from filemill.runtime.supervisor_client import (
    CommandRejected,
    CommandRejection,
    SupervisorCommand,
    SupervisorResponse,
    send,
)
from filemill.services.access import authorize
from filemill.services.audit import log_refusal, record

PROCESSORS_MAX = 64


def send_supervisor_command(
    engine: sa.Engine, stack: StackState, command: SupervisorCommand, principal: Principal
) -> SupervisorResponse:
    """Send a command for file processors to the stack's supervisor, and record it.

    Raises CommandRejected, Forbidden, Unavailable: nothing was done. A rejection is logged, not recorded.
    """
    action = f"stack.{command.action}"
    authorize(engine, principal, Permission.MANAGE_WORKERS, command=action, worker=command.worker or command.role)
    try:
        check_allowed(stack, command)
        response = send(stack, command)
    except CommandRejected as error:
        log_refusal(principal, action, str(error), worker=command.worker or command.role)
        raise
    scaling = command.action == "scale"
    detail = {"role": command.role, "count": command.count} if scaling else {"worker": command.worker}
    with engine.begin() as connection:
        record(connection, principal, action, detail)
    return response


def check_allowed(stack: StackState, command: SupervisorCommand) -> None:
    """Raises CommandRejected unless the command scales, stops or kills file processors: a page may do no more."""
    if command.action == "scale":
        if command.role != "processor" or not 0 <= command.count <= PROCESSORS_MAX:
            reason = f"a page scales file processors only, to at most {PROCESSORS_MAX}"
            raise CommandRejected(reason, CommandRejection.NOT_ALLOWED)
    elif command.action not in ("stop", "kill") or command.worker not in processors(stack):
        reason = f"{command.worker or command.action!r} is not a file processor of this stack"
        raise CommandRejected(reason, CommandRejection.UNKNOWN_TARGET)


def processors(stack: StackState) -> list[str]:
    """The ids of the stack's file processors."""
    return [worker.id for worker in stack.workers if worker.role == "processor"]
