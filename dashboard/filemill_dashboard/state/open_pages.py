"""How many pages each person or address has open in this process: the number of their WebSockets."""

from collections import Counter


class OpenPages:
    """The counts. Changed by the event loop's thread only; any thread may read. `most` is for each; 0: any number."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: Counter[str] = Counter()

    def count(self, key: str) -> int:
        """How many are open."""
        return self._open[key]

    def is_full(self, key: str) -> bool:
        """Whether no more may be opened."""
        return 0 < self.most <= self._open[key]

    def add(self, key: str) -> None:
        """One was opened."""
        self._open[key] += 1

    def remove(self, key: str) -> None:
        """One has ended."""
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]
