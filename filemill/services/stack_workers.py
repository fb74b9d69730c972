"""Scaling, stopping and killing the file processors of the embedded stack that a page belongs to."""

import sqlalchemy as sa
import structlog

from filemill.domain.permissions import Permission, Principal
from filemill.errors import Unavailable
from filemill.runtime.stack_state import StackState
from filemill.runtime.supervisor_client import (
    CommandRejected,
    CommandRejection,
    OutcomeUnknown,
    SupervisorCommand,
    SupervisorResponse,
    send,
)
from filemill.services.access import authorize
from filemill.services.audit import log_refusal, record, record_refusal

log = structlog.get_logger("stack")

PROCESSORS_MAX = 64


def send_supervisor_command(
    engine: sa.Engine, stack: StackState, command: SupervisorCommand, principal: Principal
) -> SupervisorResponse:
    """Record a command for file processors, then send it to the stack's supervisor.

    Raises CommandRejected, Forbidden, Unavailable: nothing was done. Raises OutcomeUnknown: it may have been executed.
    The record comes first, so that no command is executed without one; a command that the supervisor did not execute
    is marked in it. What a page may not do at all is only logged.
    """
    action = f"stack.{command.action}"
    authorize(engine, principal, Permission.MANAGE_WORKERS, command=action, worker=command.worker or command.role)
    try:
        check_allowed(stack, command)
    except CommandRejected as error:
        log_refusal(principal, action, str(error), worker=command.worker or command.role)
        raise
    scaling = command.action == "scale"
    scaled = {"role": command.role, "before": len(processors(stack)), "count": command.count}
    detail = scaled if scaling else {"worker": command.worker}
    with engine.begin() as connection:
        operation = record(connection, principal, action, detail)
    try:
        return send(stack, command)
    except OutcomeUnknown:
        raise  # the record stays: it may have been executed
    except (CommandRejected, Unavailable) as error:
        _mark_refused(engine, principal, action, operation, str(error))
        raise


def _mark_refused(engine: sa.Engine, principal: Principal, action: str, operation: int, reason: str) -> None:
    """Record that the command was not executed. Without PostgreSQL, the log has it."""
    try:
        with engine.begin() as connection:
            record_refusal(connection, principal, action, operation, reason)
    except Unavailable as error:
        log.warning("Could not record that a command was not executed", operation=operation, error=str(error))


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
