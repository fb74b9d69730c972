"""`python -m filemill.runtime.healthcheck FILE`: check the process behind a liveness file. Exit code 0 or 1.

Asked every few seconds in each container: it loads nothing but the standard library (30 ms; the `filemill` command
takes a second of a core). See `filemill.runtime.liveness` for who writes the file.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# Above the longest turn of a healthy loop: a monitor's with both Kafka and PostgreSQL out of reach, a processor's that
# drains what it has in hand.
STALE_SECONDS = 45.0
ANSWER_SECONDS = 4.0


class Unhealthy(Exception):
    """Why the process is not well."""


def check(path: Path) -> str:
    """What there is to say of a healthy process. Raises Unwell."""
    try:
        said = json.loads(path.read_text())
        role, beat, url = str(said["role"]), float(said["beat"]), said.get("url")
    except OSError as error:
        raise Unhealthy(f"no sign of life yet: {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unhealthy(f"{path} is not a pulse file") from None
    if url:
        return f"{role}: {_request(str(url))}"
    age = time.monotonic() - beat
    if not 0 <= age <= STALE_SECONDS:
        raise Unhealthy(f"{role}: its loop last came round {age:.0f} s ago")
    return f"{role}: its loop came round {age:.1f} s ago"


def _request(url: str) -> str:
    if not url.startswith("http://"):
        raise Unhealthy(f"{url} is not an address to ask")
    import urllib.request  # noqa: PLC0415 - half the time of a check, and only the page is asked

    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with straight.open(url, timeout=ANSWER_SECONDS) as answer:
            return f"{url} answers {answer.status}"
    except OSError as error:  # URLError, HTTPError and time-outs are OSErrors
        raise Unhealthy(f"{url}: {error}") from None


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    if len(arguments) != 1:
        print("usage: python -m filemill.runtime.healthcheck PULSE_FILE", file=sys.stderr)
        return 2
    try:
        print(check(Path(arguments[0])))
    except Unhealthy as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
