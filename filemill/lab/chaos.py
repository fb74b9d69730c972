"""All the faults that the pipeline must survive, in an order and at moments that a seed decides."""

import random
import time
from collections.abc import Callable

import msgspec

from filemill.lab import faults
from filemill.lab.clock import libfaketime
from filemill.lab.session import SESSION_SECONDS
from filemill.lab.stack import Lab
from filemill.runtime.fault import Fault

# In a long storm one fault after the other, on average, in so many seconds.
BETWEEN_SECONDS = 14.0
# Faults that need what a machine may lack; a storm may be asked to do without.
CLOCK = "clock jumps"
SKEW = "clock skewed"
ONCE_PER_RUN = {"partitions added", "kafka stopped for long", "topic recreated"}


class Durations(msgspec.Struct, frozen=True):
    """How long things last, in seconds: shorter in a short storm."""

    minutes: float

    @property
    def outage(self) -> float:
        """The long stop of Kafka: a minute, in a storm of ten."""
        return min(60.0, 6.0 * self.minutes)

    @property
    def brief(self) -> float:
        """A server's outage."""
        return min(5.0, max(2.0, self.minutes))

    @property
    def kills(self) -> int:
        """Kills in a row."""
        return max(3, min(10, round(self.minutes)))


class ScheduledFault(msgspec.Struct, frozen=True):
    """A fault of the schedule: seconds from the storm's beginning, which, and a number that picks its target."""

    at: float
    name: str
    pick: int


FaultFactory = Callable[[Lab, int, Durations], Fault]

ZOMBIE_SECONDS = SESSION_SECONDS + 2.0
LEASE_SECONDS = 5.0

FAULTS: dict[str, FaultFactory] = {
    "processor killed before the PUT": lambda lab, pick, _: faults.kill_before_put(lab, pick),
    "processor killed between PUT and event": lambda lab, pick, _: faults.kill_between_put_and_event(lab, pick),
    "processor killed between event and commit": lambda lab, pick, _: faults.kill_between_event_and_commit(lab, pick),
    "processors killed in a row": lambda lab, _, pace: faults.kills_in_a_row(lab, pace.kills),
    "processor stopped for longer than its session": lambda lab, pick, _: faults.suspend(
        lab, pick, seconds=ZOMBIE_SECONDS
    ),
    "processor joins, leaves, joins": lambda lab, _pick, _: faults.join_leave_join(lab),
    "processor asked to leave": lambda lab, pick, _: faults.terminate(lab, pick),
    "partitions added": lambda lab, _pick, _: faults.add_partitions(lab, 2 * lab.parameters.partitions),
    "kafka killed": lambda lab, _, pace: faults.kill_server(lab, "kafka", seconds=pace.brief),
    "kafka stopped for long": lambda lab, _, pace: faults.suspend_server(lab, "kafka", seconds=pace.outage),
    "postgres killed": lambda lab, _, pace: faults.kill_server(lab, "postgres", seconds=pace.brief),
    "s3 killed": lambda lab, _, pace: faults.kill_server(lab, "s3", seconds=pace.brief),
    "s3 hanging": lambda lab, _, pace: faults.suspend_server(lab, "s3", seconds=pace.brief),
    "s3 answers 503": lambda lab, _, pace: faults.s3_answers(lab, 503, seconds=pace.brief),
    "s3 answers 404": lambda lab, _, pace: faults.s3_answers(lab, 404, seconds=pace.brief),
    "s3 fails a third": lambda lab, _, pace: faults.s3_answers(lab, 503, seconds=pace.brief, share=1 / 3),
    "relay killed": lambda lab, pick, _: faults.kill_worker(lab, pick, "relay"),
    "relay stopped": lambda lab, pick, _: faults.suspend(lab, pick, "relay", seconds=LEASE_SECONDS),
    "sync killed": lambda lab, pick, _: faults.kill_worker(lab, pick, "sync"),
    "sync stopped": lambda lab, pick, _: faults.suspend(lab, pick, "sync", seconds=LEASE_SECONDS),
    "poisonous message": lambda lab, _pick, _: faults.poison(lab),
    "bad header": lambda lab, pick, _: faults.bad_headers(lab, pick),
    "records deleted": lambda lab, pick, _: faults.delete_requests(lab, pick),
    "topic recreated": lambda lab, _pick, _: faults.recreate_results(lab),
    "database read-only": lambda lab, _, pace: faults.read_only_database(lab, seconds=pace.brief),
    CLOCK: lambda lab, _pick, _: faults.clock_jump(lab, ahead_seconds=3600, seconds=10),
    SKEW: lambda lab, _pick, _: faults.clock_skewed(lab, ahead_seconds=6 * 3600, seconds=10),
}


def schedule(seed: int, minutes: float, without: frozenset[str] = frozenset()) -> list[ScheduledFault]:
    """The schedule: every listed fault once, in a drawn order, and more of them where there is time. Pure.

    Raises ValueError for a fault that is not listed.
    """
    unknown = without - FAULTS.keys()
    if unknown:
        raise ValueError(f"not among the faults: {', '.join(sorted(unknown))}; they are {', '.join(FAULTS)}")
    draw = random.Random(seed)
    names = [name for name in FAULTS if name not in without]
    repeated = [name for name in names if name not in ONCE_PER_RUN]
    more = max(0, int(minutes * 60 / BETWEEN_SECONDS) - len(names))
    order = names + draw.choices(repeated, k=more)
    draw.shuffle(order)
    between = minutes * 60 / (len(order) + 1)
    return [
        ScheduledFault(round(between * (number + 1 + draw.uniform(-0.4, 0.4)), 2), name, draw.randrange(1000))
        for number, name in enumerate(order)
    ]


def unavailable_faults() -> frozenset[str]:
    """Listed faults that this machine cannot have."""
    return frozenset() if libfaketime() else frozenset({CLOCK, SKEW})


def run_schedule(
    lab: Lab,
    planned: list[ScheduledFault],
    pace: Durations,
    before_each: Callable[[], None],
    say: Callable[[str], None] = lambda _line: None,
) -> None:
    """Inject them, one after the other, none before its time; `before_each` waits until the pipeline is at work."""
    began = time.monotonic()
    for one in planned:
        time.sleep(max(0.0, one.at - (time.monotonic() - began)))
        before_each()
        say(f"{time.monotonic() - began:6.1f} s  {one.name}")
        fault = FAULTS[one.name](lab, one.pick, pace)
        fault.name = one.name
        lab.inject(fault)
