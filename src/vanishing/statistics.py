"""Spreads over seeds, prediction intervals, and the distributions that they stand on.

All functions are pure. Probabilities are two-sided; Student's and Fisher's distributions come from the incomplete beta
function (Abramowitz & Stegun 1964, 26.5 to 26.7), with degrees of freedom that need not be whole.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import mpmath

CONFIDENCE = 0.95
"""Of every interval."""

NORMAL = 1e6
"""Degrees of freedom from which on Student's distribution is taken for the normal one."""

OWN = 3
"""Values from which on their own spread is used."""


@dataclass(frozen=True)
class Spread:
    """A standard deviation between single trainings, and the degrees of freedom that it was estimated with."""

    std: float
    freedom: float


@dataclass(frozen=True)
class Prediction:
    """Where one more training would end: Student's distribution about `mean`, times `scale`."""

    mean: float
    scale: float
    freedom: float
    borrowed: bool
    """Whether the spread is that of other runs."""

    @property
    def half_width(self) -> float:
        """Half the width of the interval that holds one more training with the probability `CONFIDENCE`."""
        return quantile(self.freedom) * self.scale if self.scale else 0.0

    def probability(self, value: float, uncertainty: float = 0.0) -> float:
        """Return how likely one more training is to end as far from `mean` as `value`, or farther.

        Args:
            value: what was printed.
            uncertainty: of its rounding; the value is moved towards the mean by so much.
        """
        distance = max(0.0, abs(value - self.mean) - uncertainty)
        if not self.scale:
            return 1.0 if distance == 0 else 0.0
        return student(distance / self.scale, self.freedom)


def predict(values: Sequence[float], borrowed: Spread | None, sampling: float = 0.0) -> Prediction | None:
    r"""Predict one more training, on other images of the same kind, from those that there are.

    The variance is s^2 (1 + 1/n) + `sampling`: the new training's spread, that of the mean over n, and that of the two
    sets of images. Only s is estimated, so the degrees of freedom are those of Satterthwaite (1946).

    Args:
        values: of n trainings; from `OWN` of them on, s is their own standard deviation (n - 1).
        borrowed: s for fewer values.
        sampling: variance between two sets of images, taken as known; 0 where both are the same.

    Returns:
        None without a value, or without a spread.
    """
    own = len(values) >= OWN
    spread = Spread(math.sqrt(variance(values)), len(values) - 1) if own else borrowed
    if not values or spread is None:
        return None
    seeds = spread.std**2 * (1 + 1 / len(values))
    total = seeds + sampling
    freedom = spread.freedom * (total / seeds) ** 2 if seeds else math.inf
    return Prediction(fmean(values), math.sqrt(total), freedom if freedom <= NORMAL else math.inf, borrowed=not own)


def pool(groups: Iterable[Sequence[float]]) -> Spread | None:
    """Pool the spread within groups, each weighted by its degrees of freedom; None if no group has two values."""
    estimated = [(len(group) - 1, variance(group)) for group in groups if len(group) > 1]
    freedom = sum(weight for weight, _ in estimated)
    if not freedom:
        return None
    return Spread(math.sqrt(sum(weight * each for weight, each in estimated) / freedom), freedom)


@functools.cache
def quantile(freedom: float) -> float:
    """Return what Student's |t| stays below with the probability `CONFIDENCE`."""
    return float(mpmath.findroot(lambda t: _student(t, freedom) - (1 - CONFIDENCE), 2))


def student(t: float, freedom: float) -> float:
    """Return the probability that Student's |t| is at least `t`; infinite degrees of freedom are a normal."""
    return float(_student(mpmath.mpf(t), freedom))


def fisher(ratio: float, first: float, second: float) -> float:
    """Return the two-sided probability of a ratio of two variances, with `first` and `second` degrees of freedom."""
    x = mpmath.mpf(first) * ratio / (first * ratio + second)
    below = mpmath.betainc(first / 2, second / 2, 0, x, regularized=True)
    return float(min(1, 2 * min(below, 1 - below)))


def _student(t: mpmath.mpf, freedom: float) -> mpmath.mpf:
    if freedom > NORMAL:
        return mpmath.erfc(abs(t) / mpmath.sqrt(2))
    return mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + t**2), regularized=True)
