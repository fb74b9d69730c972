"""Being a member of a group, again and again until told to stop."""

import random
import threading
from collections.abc import Callable

import structlog

from filemill.domain import retry
from filemill.errors import MemberExpelled

# The reason to take nothing that somebody gave; the others are servers that are away.
QUIET = "quiet"

log = structlog.get_logger("processor")

# A static member that was killed is let in again when its session is over: tried often, for that is a few seconds.
REJOIN_POLICY = retry.RetryPolicy(base_seconds=0.5, cap_seconds=2.0)


def run_memberships(stop: threading.Event, membership: Callable[[], None]) -> None:
    """Run `membership` until `stop`; where the client gave up (MemberExpelled), pause and run another one.

    That is the fate of a static member whose former self is not out of the group yet. Raises what else ends one.
    """
    jitter, failures = random.Random(), 0
    while not stop.is_set():
        try:
            membership()
        except MemberExpelled as error:
            failures += 1
            seconds = retry.backoff_seconds(REJOIN_POLICY, failures, jitter)
            log.warning("Out of the group; will join again", seconds=round(seconds, 3), error=str(error))
            stop.wait(seconds)
