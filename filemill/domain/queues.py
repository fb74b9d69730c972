"""Queues: a topic, a consumer group and a share of a processor's places. Pure.

Only requests that a service of the reference design can process go to the queue `default`, whose topic is
`file.create`: those of the handler `text`, without inputs, that ask for no queue.
"""

import re
from collections.abc import Collection, Mapping

import msgspec

from filemill.domain.handlers import TEXT_HANDLER
from filemill.errors import InvalidRequest

DEFAULT_QUEUE = "default"
JOBS_QUEUE = "jobs"
URGENT_QUEUE = "urgent"
BULK_QUEUE = "bulk"

QUEUE_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")


class Queue(msgspec.Struct, frozen=True):
    """A queue. `weight` is its share of a processor's places while several queues have records that wait.

    `reserved`: places that a processor keeps for this queue alone, in addition to its concurrency.
    """

    name: str
    topic: str
    group: str
    weight: int = 1
    reserved: int = 0


def check_queue(name: str, known: Collection[str]) -> None:
    """Raises InvalidRequest, which lists the known queues in their order, if there is no such queue."""
    if name not in known:
        raise InvalidRequest("queue", f"there is no queue {name!r}; there are: {', '.join(known)}")


def topic_of(name: str, queues: Mapping[str, "Queue"]) -> str:
    """The topic of the queue of a filter; "" for "", which is any queue. Raises InvalidRequest for an unknown one."""
    if not name:
        return ""
    check_queue(name, list(queues))
    return queues[name].topic


def choose_queue(
    asked: str | None, handler: str, handler_queue: str | None, *, inputs: bool, known: Collection[str]
) -> str:
    """The queue of a request. Raises InvalidRequest if it does not exist.

    `asked` is the queue that the request names, `handler_queue` the one that its handler announced.
    """
    plain = handler == TEXT_HANDLER and not inputs
    queue = asked or (DEFAULT_QUEUE if plain else handler_queue or JOBS_QUEUE)
    if queue == DEFAULT_QUEUE and not plain:
        raise InvalidRequest(
            "queue", f"{DEFAULT_QUEUE} takes requests of the handler {TEXT_HANDLER} without inputs only"
        )
    check_queue(queue, sorted(known))
    return queue
