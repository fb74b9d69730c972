"""Medians of samples with their spread, and the targets for them."""

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
    figures: dict[str, float] = {}  # medians of figures that only this arm measures
    cpu_us_by_server: dict[str, float] = {}

    @property
    def spread(self) -> float:
        """The range of the rounds, relative to their median."""
        return (self.greatest - self.least) / self.median


class TargetResult(msgspec.Struct, frozen=True):
    """Whether a target holds: `value` is that of `measure`, or its ratio to `against` if that is another arm."""

    measure: str
    against: str
    value: float
    target: float
    holds: bool


class RatioTarget(msgspec.Struct, frozen=True):
    """A target: the median of `arm` divided by the one that `pick` selects from `of` is at least `target`."""

    measure: str
    arm: str
    against: str
    of: tuple[str, ...]
    target: float
    pick: Callable[[Sequence[float]], float] = min


# An urgent request starts within this time, although another queue occupies every place.
URGENT_START = "urgent start, p99, ms"
URGENT_START_MS_MAX = 1000.0

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
    RatioTarget("end to end", "end to end", "the reference design", ("reference design, boto3",), 8.0),
    RatioTarget("end to end, a trivial handler", "end to end, handler", "the text handler", ("end to end",), 0.6),
    RatioTarget("REST POST, signed in", "REST POST, signed in", "without sign-in", ("REST POST",), 0.93),
    RatioTarget("REST list, signed in", "REST list, signed in", "without sign-in", ("REST list",), 0.93),
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
    """A summary per arm, in the order of the arms' first samples."""
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
    """The targets whose arms were all measured."""
    medians = {line.arm: line.median for line in found}
    kept = []
    for ratio in TARGETS:
        if ratio.arm in medians and all(name in medians for name in ratio.of):
            value = medians[ratio.arm] / ratio.pick([medians[name] for name in ratio.of])
            kept.append(at_least(ratio.measure, ratio.against, value, ratio.target))
    waits = [line.figures[URGENT_START] for line in found if URGENT_START in line.figures]
    kept += [at_most(URGENT_START, "one second", wait, URGENT_START_MS_MAX) for wait in waits]
    return kept


def at_least(measure: str, against: str, value: float, target: float) -> TargetResult:
    """A target that holds from this value up."""
    return TargetResult(measure, against, round(value, 3), target, value >= target)


def at_most(measure: str, against: str, value: float, target: float) -> TargetResult:
    """A target that holds up to this value."""
    return TargetResult(measure, against, round(value, 3), target, value <= target)


def describe_targets(targets: Sequence[TargetResult]) -> str:
    """Which targets hold and which are missed, in one or two lines."""
    if not targets:
        return "No targets were measured."
    missed = [one for one in targets if not one.holds]
    text = f"Targets: {len(targets) - len(missed)} of {len(targets)} hold."
    if missed:
        names = "; ".join(f"{one.measure} ({one.value:g}, target {one.target:g})" for one in missed)
        text += f"\nMissed: {names}."
    return text
