"""A chaos schedule: all faults that the pipeline must survive, in an order and at times that a seed determines."""

import random
import time
from collections.abc import Callable

import msgspec

from filemill.lab import faults
from filemill.lab.clock import libfaketime
from filemill.lab.session import SESSION_SECONDS
from filemill.lab.stack import Lab
from filemill.runtime.fault import Fault

# The average interval between two faults of a long schedule.
BETWEEN_SECONDS = 14.0
# These faults need libfaketime; a schedule can skip them.
CLOCK = "clock jumps"
SKEW = "clock skewed"
ONCE_PER_RUN = {"partitions added", "kafka stopped for long", "topic recreated"}


class ChaosDurations(msgspec.Struct, frozen=True):
    """Durations in seconds; a short schedule has shorter ones."""

    minutes: float

    @property
    def outage(self) -> float:
        """The long suspension of Kafka: a minute in a schedule of ten."""
        return min(60.0, 6.0 * self.minutes)

    @property
    def brief(self) -> float:
        """The outage of a server."""
        return min(5.0, max(2.0, self.minutes))

    @property
    def kills(self) -> int:
        """The number of kills in a row."""
        return max(3, min(10, round(self.minutes)))


class ScheduledFault(msgspec.Struct, frozen=True):
    """A fault of the schedule: `at` seconds after the beginning; `pick` selects the target."""

    at: float
    name: str
    pick: int


FaultFactory = Callable[[Lab, int, ChaosDurations], Fault]

ZOMBIE_SECONDS = SESSION_SECONDS + 2.0
LEASE_SECONDS = 5.0

FAULTS: dict[str, FaultFactory] = {
    "processor killed before the PUT": lambda lab, pick, _: faults.kill_before_put(lab, pick),
    "processor killed between PUT and event": lambda lab, pick, _: faults.kill_between_put_and_event(lab, pick),
    "processor killed between event and commit": lambda lab, pick, _: faults.kill_between_event_and_commit(lab, pick),
    "processors killed in a row": lambda lab, _, durations: faults.kills_in_a_row(lab, durations.kills),
    "processor stopped for longer than its session": lambda lab, pick, _: faults.suspend(
        lab, pick, seconds=ZOMBIE_SECONDS
    ),
    "processor joins, leaves, joins": lambda lab, _pick, _: faults.join_leave_join(lab),
    "processor asked to leave": lambda lab, pick, _: faults.terminate(lab, pick),
    "partitions added": lambda lab, _pick, _: faults.add_partitions(lab, 2 * lab.parameters.partitions),
    "kafka killed": lambda lab, _, durations: faults.kill_server(lab, "kafka", seconds=durations.brief),
    "kafka stopped for long": lambda lab, _, durations: faults.suspend_server(lab, "kafka", seconds=durations.outage),
    "postgres killed": lambda lab, _, durations: faults.kill_server(lab, "postgres", seconds=durations.brief),
    "s3 killed": lambda lab, _, durations: faults.kill_server(lab, "s3", seconds=durations.brief),
    "s3 hanging": lambda lab, _, durations: faults.suspend_server(lab, "s3", seconds=durations.brief),
    "s3 answers 503": lambda lab, _, durations: faults.s3_answers(lab, 503, seconds=durations.brief),
    "s3 answers 404": lambda lab, _, durations: faults.s3_answers(lab, 404, seconds=durations.brief),
    "s3 fails a third": lambda lab, _, durations: faults.s3_answers(lab, 503, seconds=durations.brief, share=1 / 3),
    "relay killed": lambda lab, pick, _: faults.kill_worker(lab, pick, "relay"),
    "relay stopped": lambda lab, pick, _: faults.suspend(lab, pick, "relay", seconds=LEASE_SECONDS),
    "sync killed": lambda lab, pick, _: faults.kill_worker(lab, pick, "sync"),
    "sync stopped": lambda lab, pick, _: faults.suspend(lab, pick, "sync", seconds=LEASE_SECONDS),
    "poisonous message": lambda lab, _pick, _: faults.poison(lab),
    "bad header": lambda lab, pick, _: faults.bad_headers(lab, pick),
    "records deleted": lambda lab, pick, _: faults.delete_requests(lab, pick),
    "topic recreated": lambda lab, _pick, _: faults.recreate_results(lab),
    "database read-only": lambda lab, _, durations: faults.read_only_database(lab, seconds=durations.brief),
    CLOCK: lambda lab, _pick, _: faults.clock_jump(lab, ahead_seconds=3600, seconds=10),
    SKEW: lambda lab, _pick, _: faults.clock_skewed(lab, ahead_seconds=6 * 3600, seconds=10),
}


def schedule(seed: int, minutes: float, without: frozenset[str] = frozenset()) -> list[ScheduledFault]:
    """Every fault once, in random order, and more if there is time. Pure.

    Raises ValueError for an unknown fault.
    """
    unknown = without - FAULTS.keys()
    if unknown:
        raise ValueError(f"unknown faults: {', '.join(sorted(unknown))}; the faults are {', '.join(FAULTS)}")
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
    """Faults that are not possible on this machine."""
    return frozenset() if libfaketime() else frozenset({CLOCK, SKEW})


def run_schedule(
    lab: Lab,
    planned: list[ScheduledFault],
    durations: ChaosDurations,
    before_each: Callable[[], None],
    say: Callable[[str], None] = lambda _line: None,
) -> None:
    """Inject the faults one after another, none before its time, each after a call of `before_each`."""
    began = time.monotonic()
    for one in planned:
        time.sleep(max(0.0, one.at - (time.monotonic() - began)))
        before_each()
        say(f"{time.monotonic() - began:6.1f} s  {one.name}")
        fault = FAULTS[one.name](lab, one.pick, durations)
        fault.name = one.name
        lab.inject(fault)
