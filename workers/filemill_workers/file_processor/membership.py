"""Runs memberships of a group, one after the other, until the worker is stopped."""

import random
import threading
from collections.abc import Callable

import structlog

from filemill.domain import retry
from filemill.errors import MemberExpelled

# The backpressure reason of a worker that was told to be quiet. The other reasons are unreachable servers.
QUIET = "quiet"

log = structlog.get_logger("processor")

# A static member that was killed may join again when its former session has expired, within a few seconds.
REJOIN_POLICY = retry.RetryPolicy(base_seconds=0.5, cap_seconds=2.0)


def run_memberships(
    stop: threading.Event, membership: Callable[[], None], policy: retry.RetryPolicy = REJOIN_POLICY
) -> None:
    """Run `membership` until `stop`. If it raises MemberExpelled, wait and run another one.

    A static member is expelled while its former session has not expired. Raises all other errors of `membership`.
    """
    jitter, failures = random.Random(), 0
    while not stop.is_set():
        try:
            membership()
        except MemberExpelled as error:
            failures += 1
            seconds = retry.backoff_seconds(policy, failures, jitter)
            log.warning("Expelled from the group; will join again", seconds=round(seconds, 3), error=str(error))
            stop.wait(seconds)
