"""A clock that the test moves. (port: Clock)."""


class ManualClock:
    """Returns the same time until it is advanced. `reads` counts the calls."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now
        self.reads = 0

    def __call__(self) -> float:
        self.reads += 1
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
