"""What a page has workers do: quiet and resume over Kafka; stop, kill and scale where the stack is an embedded one.

Each is on record in `operations`.
"""

from filemill.services.audit import record, tell_refused
from filemill.domain.worker_commands import WorkerCommandKind
from filemill.runtime.stack_state import StackState
from filemill.runtime.supervisor_client import CommandRejected, SupervisorCommand, SupervisorResponse, send
from filemill_dashboard.state.page_data import PageData

PROCESSORS_MAX = 64


def send_worker_command(data: PageData, order: WorkerCommandKind, worker_id: str | None, actor: str) -> None:
    """Tell one worker, or all, to be quiet or to go on. Raises Unavailable."""
    data.services.operations.order(order, worker_id, actor)


def send_supervisor_command(
    data: PageData, stack: StackState, order: SupervisorCommand, actor: str
) -> SupervisorResponse:
    """Have the stack's supervisor do something to its file processors.

    Raises Unavailable, stack_control.OrderRefused; then nothing was done, and the log has it, not the record.
    """
    try:
        check_allowed(stack, order)
        answer = send(stack, order)
    except CommandRejected as refused:
        tell_refused(actor, f"stack.{order.action}", str(refused), worker=order.worker or order.role)
        raise
    what = {"role": order.role, "count": order.count} if order.action == "scale" else {"worker": order.worker}
    with data.services.engine.begin() as connection:
        record(connection, actor, f"stack.{order.action}", what)
    return answer


def check_allowed(stack: StackState, order: SupervisorCommand) -> None:
    """Raises OrderRefused for what no page may do: only file processors are stopped, killed and scaled from one."""
    if order.action == "scale":
        if order.role != "processor" or not 0 <= order.count <= PROCESSORS_MAX:
            raise CommandRejected(f"a page scales file processors only, to {PROCESSORS_MAX} at most")
    elif order.action not in ("stop", "kill") or order.worker not in processors(stack):
        raise CommandRejected(f"{order.worker or order.action!r} is no file processor of this stack")


def processors(stack: StackState) -> list[str]:
    """The ids of the stack's file processors."""
    return [worker.id for worker in stack.workers if worker.role == "processor"]
