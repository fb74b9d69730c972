"""What a run varies: the stack's shape and its workers' behaviour."""

from typing import Any

import msgspec


class StackParameters(msgspec.Struct, frozen=True, kw_only=True):
    """An isolated stack. Times in seconds; `settings` are further fields of `filemill.config.settings.Settings`."""

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
        """The processors' part, by field of the settings."""
        return {
            "group_protocol": self.protocol,
            "concurrency": str(self.concurrency),
            "ordering": self.ordering,
            "processing_seconds": str(self.processing_seconds),
            "processing_steps": str(self.processing_steps),
            "drain_seconds": str(self.drain_seconds),
        }
