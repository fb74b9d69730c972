"""The Universal Scalability Law: throughput against workers, with what sharing and what agreeing cost.

X(n) = rate · n / (1 + contention · (n - 1) + coherency · n · (n - 1))       (N. Gunther, 1993)
"""

from collections.abc import Sequence

import msgspec
import numpy as np


class ScalingLaw(msgspec.Struct, frozen=True):
    """A fit. `rate`: of one worker, per second; `contention` and `coherency` are shares, 0 for perfect scaling."""

    rate: float
    contention: float
    coherency: float

    def at(self, workers: float) -> float:
        """The throughput that the law gives for so many workers."""
        return self.rate * workers / (1 + self.contention * (workers - 1) + self.coherency * workers * (workers - 1))

    @property
    def peak(self) -> float:
        """The number of workers beyond which more make it slower; infinity where coherency costs nothing."""
        if self.coherency <= 0:
            return float("inf")
        return float(np.sqrt(max(0.0, 1 - self.contention) / self.coherency))


def fit(workers: Sequence[float], throughput: Sequence[float]) -> ScalingLaw:
    """The law through these points, by least squares on n / X, which is linear in its coefficients.

    Raises ValueError for fewer than three numbers of workers: it has three unknowns.
    """
    if len(set(workers)) < 3:
        raise ValueError("a law of three unknowns needs at least three different numbers of workers")
    n = np.asarray(workers, dtype=float)
    inverse = n / np.asarray(throughput, dtype=float)
    columns = np.stack([np.ones_like(n), n - 1, n * (n - 1)], axis=1)
    (base, shared, agreed), *_ = np.linalg.lstsq(columns, inverse, rcond=None)
    return ScalingLaw(1 / float(base), max(0.0, float(shared / base)), max(0.0, float(agreed / base)))
