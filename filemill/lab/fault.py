"""What a fault is: something that begins, lasts, and is undone whatever happens meanwhile."""

import time
from collections.abc import Callable

import msgspec

from filemill.lab.journal import Entry


def _nothing() -> None:
    pass


class Fault(msgspec.Struct, kw_only=True):
    """A fault, ready to be injected. `begin` may put what it learns into the entry's `detail`."""

    name: str
    begin: Callable[[Entry], None]
    undo: Callable[[], None] = _nothing
    seconds: float = 0.0
    target: str = ""

    def run(self, entry: Entry) -> None:
        """Begin, let it last for its seconds, undo."""
        try:
            self.begin(entry)
            time.sleep(self.seconds)
        finally:
            self.undo()
