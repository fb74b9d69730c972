"""Interleaved rounds: all arms in every round, so that what changes on the machine meanwhile meets all of them."""

import random
import time
from collections.abc import Callable, Sequence

import msgspec

from benchmarks.arm import Arm
from benchmarks.meter import Measured
from benchmarks.servers import embedded_servers, isolated_pipeline

# Fewer files than this say nothing, and are for trying a benchmark out.
LEAST_FILES = 10


class Sample(msgspec.Struct, frozen=True):
    """One arm in one round."""

    round: int
    arm: str
    measured: Measured


def interleave(
    arms: Sequence[Arm],
    rounds: int,
    scale: float,
    say: Callable[[str], None] = lambda _line: None,
    after_round: Callable[[Sequence[Sample]], None] = lambda _samples: None,
) -> list[Sample]:
    """Run all arms in every round, each round in an order of its own. Raises Unproven, crew.Failed, TimeoutError.

    `scale` multiplies how many files each arm does. The orders are the same in each run. `after_round` gets all that
    there is so far: a quarter of an hour's work should outlive its interruption.
    """
    samples = []
    with embedded_servers() as servers:
        for number in range(1, rounds + 1):
            order = list(arms)
            random.Random(number).shuffle(order)
            for one in order:
                began = time.monotonic()
                with isolated_pipeline(servers, **one.settings) as world:
                    measured = one.run(world, max(LEAST_FILES, round(one.files * scale)))
                samples.append(Sample(number, one.name, measured))
                took = time.monotonic() - began
                say(f"round {number} of {rounds}: {one.name}: {measured.rate:,.0f} files/s ({took:.0f} s in all)")
            after_round(samples)
    return samples
