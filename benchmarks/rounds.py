"""Interleaved rounds: each round runs all arms, so that changes of the machine affect all of them."""

import random
import time
from collections.abc import Callable, Sequence

import msgspec

from benchmarks.arm import Arm
from benchmarks.meter import Measured
from benchmarks.servers import embedded_servers, isolated_pipeline

# The least number of files, for trying a benchmark out.
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
    """Run all arms in every round, each round in another order. Raises WorkIncomplete, ProcessFailed, TimeoutError.

    `scale` is a factor for the number of files. The orders are the same in each run. `after_round` gets all samples so
    far, so that an interrupted run keeps its finished rounds.
    """
    samples = []
    with embedded_servers() as servers:
        for number in range(1, rounds + 1):
            order = list(arms)
            random.Random(number).shuffle(order)
            for one in order:
                began = time.monotonic()
                with isolated_pipeline(servers, **one.settings) as pipeline:
                    measured = one.run(pipeline, max(LEAST_FILES, round(one.files * scale)))
                samples.append(Sample(number, one.name, measured))
                took = time.monotonic() - began
                say(f"round {number} of {rounds}: {one.name}: {measured.rate:,.0f} files/s ({took:.0f} s in all)")
            after_round(samples)
    return samples
