"""The places of a processor: how many records of each queue may be in progress.

Queues with records that wait share the places by their weights. A queue without such records leaves its share to the
others. A place that is in use is not taken away: the shares are restored as records finish. Reserved places belong to
one queue alone and are kept in addition, so that its next record starts at once, whatever the other queues do.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from filemill.domain.queues import Queue


class _Share(msgspec.Struct):
    """A queue's weight and reserve, its records in progress, and those that could start now.

    `turns` grows with each shared place that it gets, by less the greater its weight is. It decides between queues that
    use the same part of their shares, so that each gets its turn even if there are fewer places than queues.
    """

    weight: int
    reserved: int
    used: int = 0
    waiting: int = 0
    turns: float = 0.0

    @property
    def shared_used(self) -> int:
        return max(0, self.used - self.reserved)

    @property
    def shared_demand(self) -> int:
        """The records that wait for a shared place."""
        return max(0, self.waiting - max(0, self.reserved - self.used))


class Places:
    """Divides the places of a processor among its queues. Any thread."""

    def __init__(self, limit: int, queues: Iterable[Queue]) -> None:
        """`limit`: the records in progress in all queues together, without those on reserved places."""
        self._limit = limit
        self._shares = {queue.name: _Share(queue.weight, queue.reserved) for queue in queues}
        self._lock = threading.Lock()

    def claim(self, queue: str, used: int, waiting: int) -> int:
        """How many of the queue's waiting records may start now.

        `used`: its records in progress; `waiting`: those that could start now, 0 if none may.
        """
        with self._lock:
            share = self._shares[queue]
            if waiting and not share.waiting and not share.used:
                self._join(share)
            share.used, share.waiting = used, waiting
            granted = min(waiting, max(0, share.reserved - used))
            free = self._limit - sum(other.shared_used for other in self._shares.values())
            shared = self._divide(share, free)
            share.turns += shared / share.weight
            granted += shared
            share.used += granted
            share.waiting -= granted
            return granted

    def _join(self, share: _Share) -> None:
        """A queue that was idle has saved no turns."""
        active = [other.turns for other in self._shares.values() if other.waiting or other.used]
        share.turns = max(share.turns, min(active, default=share.turns))

    def _divide(self, asking: _Share, free: int) -> int:
        """How many of the free shared places the queue gets."""
        wanted = asking.shared_demand
        others = [other for other in self._shares.values() if other is not asking and other.shared_demand]
        if not others or free <= 0 or not wanted:
            return max(0, min(free, wanted))
        heads = [_Head(one, one.shared_used, one.turns, one.shared_demand) for one in (asking, *others)]
        granted = 0
        for _ in range(free):
            heads = [head for head in heads if head.demand]
            if not any(head.share is asking for head in heads):
                break
            head = min(heads, key=lambda one: (one.used / one.share.weight, one.turns))
            head.used += 1
            head.turns += 1 / head.share.weight
            head.demand -= 1
            granted += head.share is asking
        return granted


class _Head(msgspec.Struct):
    """A queue while places are dealt out. Only what the asking queue gets is granted."""

    share: _Share
    used: int
    turns: float
    demand: int


class ProcessPlaces:
    """Divides the processes that run handlers among the queues, by the same rule. For one event loop.

    Without it, an urgent job would wait until the processes have done all jobs of other queues that came before it.
    """

    def __init__(self, size: int, queues: Sequence[Queue]) -> None:
        """`size`: the processes for all queues; those on reserved places come in addition."""
        self._places = Places(size, queues)
        self._used = {queue.name: 0 for queue in queues}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {queue.name: deque() for queue in queues}

    async def acquire(self, queue: str) -> None:
        """Wait for a place for a job of this queue. Its caller must release it."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting[queue].append(turn)
        self._admit(queue)
        try:
            await turn
        except BaseException:
            if turn.cancelled():
                self._waiting[queue].remove(turn)
                self._admit(queue)
            else:  # its turn came in the same moment
                self.release(queue)
            raise

    def release(self, queue: str) -> None:
        """A job of this queue has ended."""
        self._used[queue] -= 1
        self._admit(queue)

    def _admit(self, changed: str) -> None:
        """Give places to those whose turn it is, after a change of one queue.

        What a queue leaves in the first pass, another takes in the second.
        """
        waiting = [queue for queue, turns in self._waiting.items() if turns]
        if changed not in waiting:
            self._claim(changed)
        for queue in waiting if len(waiting) < 2 else [*waiting, *waiting]:
            self._claim(queue)

    def _claim(self, queue: str) -> None:
        waiting = self._waiting[queue]
        for _ in range(self._places.claim(queue, self._used[queue], len(waiting))):
            self._used[queue] += 1
            waiting.popleft().set_result(None)
