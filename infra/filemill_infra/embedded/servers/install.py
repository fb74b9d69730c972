"""`python -m filemill_infra.embedded.servers.install`: download and prepare Apache Kafka before the first start.

The first start would do the same; as a part of an installation, users expect to wait.
"""

import sys
import tempfile
from pathlib import Path

from filemill_infra.embedded.errors import EmbeddedError
from filemill_infra.embedded.ports import PortAllocator
from filemill_infra.embedded.processes.commands import ServerContext
from filemill_infra.embedded.servers.jars import DownloadProgress, default_cache, installed_jars
from filemill_infra.embedded.servers.kafka_training import trained_cache


def install(cache: Path) -> None:
    """Put Kafka's jars and its class cache into `cache`, unless they exist. Raises DownloadError."""

    def show_progress(progress: DownloadProgress) -> None:
        print(f"\rApache Kafka: {progress.done} of {progress.total} jars", end="", file=sys.stderr)

    jars = installed_jars(cache, show_progress)
    with tempfile.TemporaryDirectory(prefix="filemill-install-") as scratch:
        home = Path(scratch)
        context = ServerContext(home=home, ports=PortAllocator(home, defaults=False), report=_print)
        trained_cache(jars, context, home / "training.log")


def _print(line: str) -> None:
    print(f"\n{line}", file=sys.stderr)


def main() -> int:
    """Install into the user's cache folder; returns the exit code, 1 for a failure."""
    try:
        install(default_cache())
    except EmbeddedError as error:
        _print(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
