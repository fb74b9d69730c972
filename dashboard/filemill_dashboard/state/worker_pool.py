"""What a page has workers do: quiet and resume over Kafka; stop, kill and scale where the stack is an embedded one.

Each is on record in `operations`.
"""

from filemill.adapters.postgres.operations import record, tell_refused
from filemill.domain.worker_commands import Order
from filemill.runtime.stack_state import StackState
from filemill.runtime.supervisor_client import OrderRefused, StackAnswer, StackOrder, give
from filemill_dashboard.state.data import Data

PROCESSORS_MAX = 64


def tell(data: Data, order: Order, worker_id: str | None, actor: str) -> None:
    """Tell one worker, or all, to be quiet or to go on. Raises Unavailable."""
    data.services.operations.order(order, worker_id, actor)


def command(data: Data, stack: StackState, order: StackOrder, actor: str) -> StackAnswer:
    """Have the stack's supervisor do something to its file processors.

    Raises Unavailable, stack_control.OrderRefused; then nothing was done, and the log has it, not the record.
    """
    try:
        check(stack, order)
        answer = give(stack, order)
    except OrderRefused as refused:
        tell_refused(actor, f"stack.{order.do}", str(refused), worker=order.worker or order.role)
        raise
    what = {"role": order.role, "count": order.count} if order.do == "scale" else {"worker": order.worker}
    with data.services.engine.begin() as connection:
        record(connection, actor, f"stack.{order.do}", what)
    return answer


def check(stack: StackState, order: StackOrder) -> None:
    """Raises OrderRefused for what no page may do: only file processors are stopped, killed and scaled from one."""
    if order.do == "scale":
        if order.role != "processor" or not 0 <= order.count <= PROCESSORS_MAX:
            raise OrderRefused(f"a page scales file processors only, to {PROCESSORS_MAX} at most")
    elif order.do not in ("stop", "kill") or order.worker not in processors(stack):
        raise OrderRefused(f"{order.worker or order.do!r} is no file processor of this stack")


def processors(stack: StackState) -> list[str]:
    """The ids of the stack's file processors."""
    return [worker.id for worker in stack.workers if worker.role == "processor"]
