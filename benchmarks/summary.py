"""From samples to figures: medians with their spread, and what is promised of them."""

import statistics
from collections.abc import Callable, Sequence

import msgspec

from benchmarks.rounds import Sample


class ArmSummary(msgspec.Struct, frozen=True):
    """One arm over all rounds. Rates in files per second."""

    arm: str
    median: float
    least: float
    greatest: float
    rounds: int
    files: int
    worker_cpu_us: float
    server_cpu_us: float
    rss_bytes: int
    seconds: float
    figures: dict[str, float] = {}  # medians of what only this arm measures
    cpu_us_by_server: dict[str, float] = {}

    @property
    def spread(self) -> float:
        """How far apart the rounds are, as a part of their median."""
        return (self.greatest - self.least) / self.median


class TargetResult(msgspec.Struct, frozen=True):
    """A promise, and whether it holds: `value` of `measure`, as a multiple of `against` where that is another arm."""

    measure: str
    against: str
    value: float
    target: float
    holds: bool


class RatioTarget(msgspec.Struct, frozen=True):
    """What is compared: the arm's median ÷ that which `pick` takes from those of `of`: at least `target`."""

    measure: str
    arm: str
    against: str
    of: tuple[str, ...]
    target: float
    pick: Callable[[Sequence[float]], float] = min


RAW = (
    "raw produce",
    "raw consume",
    "raw put",
    "raw insert (unnest)",
    "raw insert (copy)",
    "raw update (unnest)",
    "raw update (json)",
    "raw claim",
)
TARGETS = (
    RatioTarget("end to end", "end to end", "FastStream with boto3", ("FastStream, boto3",), 8.0),
    RatioTarget("end to end", "end to end", "the seed's design", ("seed's design, boto3",), 8.0),
    RatioTarget("end to end", "end to end", "the slowest raw limit", RAW, 0.6),
    RatioTarget(
        "processor, real S3", "processor (real S3)", "raw obstore PUT, same number in flight", ("raw put",), 0.8
    ),
    RatioTarget("relay", "relay", "the lower of raw produce and raw claim + DELETE", ("raw produce", "raw claim"), 0.6),
    RatioTarget(
        "status sync",
        "sync",
        "raw batched UPDATE, by the quicker of unnest and JSON",
        ("raw update (unnest)", "raw update (json)"),
        0.6,
        max,
    ),
    RatioTarget(
        "submit many",
        "submit many",
        "raw INSERT of both rows, by the quicker of unnest and COPY",
        ("raw insert (unnest)", "raw insert (copy)"),
        0.7,
        max,
    ),
)


def summarize(samples: Sequence[Sample]) -> list[ArmSummary]:
    """A line per arm, in the order in which the arms are first met by name."""
    found = []
    for name in dict.fromkeys(sample.arm for sample in samples):
        own = [sample.measured for sample in samples if sample.arm == name]
        rates = [measured.rate for measured in own]
        found.append(
            ArmSummary(
                arm=name,
                median=statistics.median(rates),
                least=min(rates),
                greatest=max(rates),
                rounds=len(own),
                files=own[0].files,
                worker_cpu_us=statistics.median(measured.worker_cpu_us for measured in own),
                server_cpu_us=statistics.median(measured.server_cpu_us for measured in own),
                rss_bytes=max(measured.rss_bytes for measured in own),
                seconds=statistics.median(measured.seconds for measured in own),
                figures={
                    name: statistics.median(measured.figures[name] for measured in own) for name in own[0].figures
                },
                cpu_us_by_server={
                    name: statistics.median(
                        measured.server_cpu_seconds[name] / measured.files * 1e6 for measured in own
                    )
                    for name in own[0].server_cpu_seconds
                },
            )
        )
    return found


def check_targets(found: Sequence[ArmSummary]) -> list[TargetResult]:
    """The promises whose arms were all measured."""
    medians = {line.arm: line.median for line in found}
    kept = []
    for ratio in TARGETS:
        if ratio.arm in medians and all(name in medians for name in ratio.of):
            value = medians[ratio.arm] / ratio.pick([medians[name] for name in ratio.of])
            kept.append(at_least(ratio.measure, ratio.against, value, ratio.target))
    return kept


def at_least(measure: str, against: str, value: float, target: float) -> TargetResult:
    """A promise that holds from its target on."""
    return TargetResult(measure, against, round(value, 3), target, value >= target)


def at_most(measure: str, against: str, value: float, target: float) -> TargetResult:
    """A promise that holds up to its target."""
    return TargetResult(measure, against, round(value, 3), target, value <= target)
