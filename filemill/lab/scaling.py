"""The Universal Scalability Law: throughput by number of workers, with the costs of contention and coherency.

X(n) = rate · n / (1 + contention · (n - 1) + coherency · n · (n - 1))       (N. Gunther, 1993)
"""

from collections.abc import Sequence

import msgspec
import numpy as np


class ScalingLaw(msgspec.Struct, frozen=True):
    """A fitted law. `rate` is that of one worker per second; the other coefficients are 0 for perfect scaling."""

    rate: float
    contention: float
    coherency: float

    def at(self, workers: float) -> float:
        """The throughput of this number of workers by the law."""
        return self.rate * workers / (1 + self.contention * (workers - 1) + self.coherency * workers * (workers - 1))

    @property
    def peak(self) -> float:
        """The number of workers with the greatest throughput; infinity if coherency is 0."""
        if self.coherency <= 0:
            return float("inf")
        return float(np.sqrt(max(0.0, 1 - self.contention) / self.coherency))


def fit(workers: Sequence[float], throughput: Sequence[float]) -> ScalingLaw:
    """Fit the law to these points by least squares on n / X, which is linear in its coefficients.

    Raises ValueError for fewer than three different numbers of workers.
    """
    if len(set(workers)) < 3:
        raise ValueError("a law of three unknowns needs at least three different numbers of workers")
    n = np.asarray(workers, dtype=float)
    inverse = n / np.asarray(throughput, dtype=float)
    columns = np.stack([np.ones_like(n), n - 1, n * (n - 1)], axis=1)
    (base, shared, agreed), *_ = np.linalg.lstsq(columns, inverse, rcond=None)
    return ScalingLaw(1 / float(base), max(0.0, float(shared / base)), max(0.0, float(agreed / base)))
