"""What a page has workers do: quiet and resume over Kafka; stop, kill and scale where the stack is an embedded one.

Each is on record in `operations`.
"""

from dashboard.data import Data
from filemill.adapters.postgres_operations import record
from filemill.commands import Order
from filemill.stack import StackState
from filemill.stack_control import StackAnswer, StackOrder, give

PROCESSORS_MAX = 64


def tell(data: Data, order: Order, worker_id: str | None, actor: str) -> None:
    """Tell one worker, or all, to be quiet or to go on. Raises retry.Unavailable."""
    data.services.operations.order(order, worker_id, actor)


def command(data: Data, stack: StackState, order: StackOrder, actor: str) -> StackAnswer:
    """Have the stack's supervisor do something. Raises retry.Unavailable, stack_control.OrderRefused."""
    answer = give(stack, order)
    what = {"role": order.role, "count": order.count} if order.do == "scale" else {"worker": order.worker}
    with data.services.engine.begin() as connection:
        record(connection, actor, f"stack.{order.do}", what)
    return answer


def processors(stack: StackState) -> list[str]:
    """The ids of the stack's file processors."""
    return [worker.id for worker in stack.workers if worker.role == "processor"]
