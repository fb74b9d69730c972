"""`python -m filemill.runtime.healthcheck FILE`: check the process behind a liveness file. Exit code 0 or 1.

It runs every few seconds in each container, so it loads only the standard library: 30 ms, while the `filemill` command
takes a second of CPU time. `filemill.runtime.liveness` writes the file.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# Above the longest cycle of a healthy loop: a monitor that can reach neither Kafka nor PostgreSQL, or a processor that
# drains.
STALE_SECONDS = 45.0
REQUEST_SECONDS = 4.0


class Unhealthy(Exception):
    """The process is not healthy; the text gives the reason."""


def check(path: Path) -> str:
    """Check the process; returns a line that describes its health. Raises Unhealthy."""
    try:
        content = json.loads(path.read_text())
        role, touched_at, url = str(content["role"]), float(content["touched_at"]), content.get("url")
    except OSError as error:
        raise Unhealthy(f"the liveness file {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unhealthy(f"{path} is not a liveness file") from None
    if url:
        return f"{role}: {_request(str(url))}"
    age = time.monotonic() - touched_at
    if not 0 <= age <= STALE_SECONDS:
        raise Unhealthy(f"{role}: the last loop cycle began {age:.0f} s ago")
    return f"{role}: the last loop cycle began {age:.1f} s ago"


def _request(url: str) -> str:
    if not url.startswith("http://"):
        raise Unhealthy(f"{url} is not an http URL")
    import urllib.request  # noqa: PLC0415 - half the time of a check, and only the dashboard has a URL

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=REQUEST_SECONDS) as response:
            return f"{url} answers {response.status}"
    except OSError as error:  # URLError, HTTPError and time-outs are OSErrors
        raise Unhealthy(f"{url}: {error}") from None


def main(arguments: Sequence[str]) -> int:
    """Print the result; returns the exit code."""
    if len(arguments) != 1:
        print("usage: python -m filemill.runtime.healthcheck LIVENESS_FILE", file=sys.stderr)
        return 2
    try:
        print(check(Path(arguments[0])))
    except Unhealthy as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
