"""Limits of what one person or program may submit, and the rule that decides.

Requests per second follow GCRA (the generic cell rate algorithm): one number, the time at which a steady sender would
send its next request, says how much of a burst is left. Bytes are counted per day in UTC.
"""

import math
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import ClassVar

import msgspec

from filemill.domain.files import NewFile
from filemill.domain.origins import client_key
from filemill.domain.permissions import Principal

DAY_SECONDS = 86_400
# When a file ends is unknown: a sender with too many files in flight asks again after this.
IN_FLIGHT_RETRY_SECONDS = 2.0


class Limits(msgspec.Struct, frozen=True):
    """What one person or program may submit. 0: no limit.

    `writes_per_second` and `burst` count requests; a request of a page may have many files. `files_in_flight` are those
    that are pending or processing. `bytes_per_day` counts titles, descriptions and parameters.
    """

    writes_per_second: float = 0.0
    burst: int = 0
    files_in_flight: int = 0
    bytes_per_day: int = 0

    @property
    def active(self) -> bool:
        """Whether there is any limit."""
        return bool(self.writes_per_second or self.files_in_flight or self.bytes_per_day)


class Usage(msgspec.Struct, frozen=True):
    """What a principal has used. `next_at`: GCRA's theoretical time of the next request, in seconds since the epoch."""

    next_at: float = 0.0
    day: date = date.min
    bytes: int = 0
    in_flight: int = 0

    def bytes_on(self, day: date) -> int:
        """The bytes of a day."""
        return self.bytes if self.day == day else 0


class RateLimitPolicy(msgspec.Struct, frozen=True):
    """One limit, as the header field RateLimit-Policy has it. `window` is in seconds; None: it has no window."""

    name: str
    quota: int
    unit: str
    window: int | None = None


class LimitExceeded(Exception):
    """A principal submits more than it may. Nothing was accepted.

    `code` names the limit, for programs. `remaining` of the quota is left; `retry_after` is in seconds.
    """

    default_code: ClassVar[str] = "limit_exceeded"

    def __init__(self, reason: str, code: str, policy: RateLimitPolicy, retry_after: float, remaining: int = 0) -> None:
        super().__init__(reason)
        self.code = code
        self.policy = policy
        self.retry_after = max(1, math.ceil(retry_after))
        self.remaining = remaining


def day_of(moment: float) -> date:
    """The day in UTC of a moment in seconds since the epoch."""
    return datetime.fromtimestamp(moment, UTC).date()


def size_of(file: NewFile) -> int:
    """The bytes of a request that count."""
    return sum(len(text.encode()) for text in (file.title, file.description, file.parameters or ""))


def limit_key(principal: Principal) -> str | None:
    """Whose usage it is: a person's, or an address's in modes without sign-in of people; None: no limit.

    Commands and notebooks have the credentials of the servers, so limits would have no effect.
    """
    authentication, address = principal.source.authentication, principal.source.address
    if authentication == "cli" or (authentication == "local" and not address):
        return None
    return f"address {client_key(address)}" if authentication in {"local", "launch token"} else f"name {principal.name}"


def burst_left(limits: Limits, usage: Usage, now: float) -> int:
    """How many requests would be accepted at once now."""
    if not limits.writes_per_second:
        return 0
    capacity = max(1, limits.burst)
    waiting = max(0.0, usage.next_at - now) * limits.writes_per_second
    return max(0, math.floor(capacity - waiting + 1e-6))


def use(limits: Limits, usage: Usage, now: float, files: Iterable[NewFile]) -> Usage:
    """The usage after one request with these files. Raises LimitExceeded.

    `now` is in seconds since the epoch.
    """
    files = list(files)
    day, size = day_of(now), sum(map(size_of, files))
    next_at = usage.next_at
    if limits.writes_per_second:
        interval, capacity = 1 / limits.writes_per_second, max(1, limits.burst)
        if not burst_left(limits, usage, now):
            window = math.ceil(capacity * interval)
            raise LimitExceeded(
                f"more than {limits.writes_per_second:g} requests a second, and {capacity} at once: wait",
                "too_many_writes",
                RateLimitPolicy("writes", capacity, "requests", window),
                next_at - now - (capacity - 1) * interval,
            )
        next_at = max(next_at, now) + interval
    in_flight = usage.in_flight + len(files)
    if limits.files_in_flight and in_flight > limits.files_in_flight:
        raise LimitExceeded(
            f"{usage.in_flight} of your files are in flight, and at most {limits.files_in_flight} may be: wait until "
            "some have ended",
            "too_many_files_in_flight",
            RateLimitPolicy("files-in-flight", limits.files_in_flight, "concurrent-requests"),
            IN_FLIGHT_RETRY_SECONDS,
            max(0, limits.files_in_flight - usage.in_flight),
        )
    used = usage.bytes_on(day)
    if limits.bytes_per_day and used + size > limits.bytes_per_day:
        raise LimitExceeded(
            f"{used} bytes were accepted today, and at most {limits.bytes_per_day} are: wait until tomorrow (UTC)",
            "too_many_bytes_today",
            RateLimitPolicy("bytes-a-day", limits.bytes_per_day, "content-bytes", DAY_SECONDS),
            DAY_SECONDS - now % DAY_SECONDS,
            max(0, limits.bytes_per_day - used),
        )
    return Usage(next_at, day, used + size, in_flight)
