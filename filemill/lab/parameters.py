"""The parameters of a run: the size of the stack and the settings of its workers."""

from typing import Any

import msgspec


class StackParameters(msgspec.Struct, frozen=True, kw_only=True):
    """An isolated stack. Times are in seconds; `settings` are more fields of `filemill.config.settings.Settings`."""

    workers: int = 2
    partitions: int = 3
    protocol: str = "consumer"
    concurrency: int = 1000
    ordering: str = "unordered"
    processing_seconds: float = 0.0
    processing_steps: int = 6
    drain_seconds: float = 3.0
    relays: int = 1
    syncs: int = 1
    monitors: int = 0
    settings: dict[str, Any] = {}

    def for_processors(self) -> dict[str, str]:
        """The settings of the processors, by field."""
        return {
            "group_protocol": self.protocol,
            "concurrency": str(self.concurrency),
            "ordering": self.ordering,
            "processing_seconds": str(self.processing_seconds),
            "processing_steps": str(self.processing_steps),
            "drain_seconds": str(self.drain_seconds),
        }
