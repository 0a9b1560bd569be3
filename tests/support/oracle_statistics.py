"""An independent implementation of spreads, prediction intervals and their distributions, by the standard library.

Nothing is shared with `vanishing.results.statistics`: the incomplete beta function is a continued fraction here
(DLMF 8.17.22).
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

PROBABILITY = 0.95
"""Of every interval."""

Estimate = tuple[float, float]
"""A standard deviation and its degrees of freedom."""


class Predicted(NamedTuple):
    """Where one more training would end."""

    mean: float
    between: float
    """Variance between trainings, estimated."""
    freedom: float
    sampling: float
    """Variance between sets of images, known."""


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation (n - 1), NaN where there are too few values, or one is not finite."""
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) if len(values) > 1 and math.isfinite(mean) else math.nan


def pooled(groups: Sequence[Sequence[float]]) -> Estimate | None:
    """Pool the squared distances from each group's mean."""
    several = [group for group in groups if len(group) > 1]
    squares = [(value - statistics.fmean(group)) ** 2 for group in several for value in group]
    freedom = len(squares) - len(several)
    return (math.sqrt(math.fsum(squares) / freedom), freedom) if freedom else None


def predicted(values: Sequence[float], lent: Estimate | None, sampling: float | None) -> Predicted | None:
    """Predict one more training: from three values on by their own spread, else by the one that is lent."""
    mean, std = spread(values)
    estimate = (std, len(values) - 1) if len(values) > 2 else lent
    if not values or estimate is None or sampling is None:
        return None
    return Predicted(mean, estimate[0] * estimate[0] * (len(values) + 1) / len(values), estimate[1], sampling)


def margin_of_difference(estimates: Sequence[Estimate], counts: Sequence[int], shared: bool) -> float:
    """Return the margin of a difference of two means (Satterthwaite 1946); `shared`: both have one estimate."""
    of_means = [std**2 / n for (std, _), n in zip(estimates, counts, strict=True)]
    variance = sum(of_means)
    if shared:
        return quantile(estimates[0][1]) * math.sqrt(variance)
    squares = [each**2 / freedom for each, (_, freedom) in zip(of_means, estimates, strict=True)]
    return quantile(variance**2 / sum(squares)) * math.sqrt(variance)


def half_width(of: Predicted) -> float:
    """Return half the width of the interval: the quantiles of both variances, added as squares."""
    normal = statistics.NormalDist().inv_cdf((1 + PROBABILITY) / 2)
    return math.sqrt(quantile(of.freedom) ** 2 * of.between + normal**2 * of.sampling)


def probability(of: Predicted, distance: float) -> float:
    """Return 1 less the confidence of the interval that is as wide as `distance` on either side."""
    if distance <= 0:
        return 1.0
    if not of.between:
        return math.erfc(distance / math.sqrt(2 * of.sampling)) if of.sampling else 0.0

    def excess(t: float) -> float:
        tail = max(student(t, of.freedom), 1e-300)
        return t * t * of.between + statistics.NormalDist().inv_cdf(tail / 2) ** 2 * of.sampling - distance * distance

    low, high = 0.0, distance / math.sqrt(of.between)
    for _ in range(80 if of.sampling else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    return student(high, of.freedom)


@functools.cache
def quantile(freedom: float) -> float:
    """Return what Student's |t| stays below with `PROBABILITY`, by bisection."""
    low, high = 0.0, 1000.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if student(middle, freedom) > 1 - PROBABILITY else (low, middle)
    return low


def student(t: float, freedom: float) -> float:
    """Return the probability of an |t| of at least `t`."""
    if math.isinf(freedom):
        return math.erfc(t / math.sqrt(2))
    return beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def variance_ratio(ratio: float, first: float, second: float) -> float:
    """Return the two-sided probability of a ratio of variances."""
    below = beta(first / 2, second / 2, first * ratio / (first * ratio + second))
    return min(1.0, 2 * below, 2 * (1 - below))


def beta(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    value = 0.0
    for m in range(400, 0, -1):  # the fraction from its far end; it converges in O(sqrt(max(a, b))) terms
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        value = odd / (1 + even / (1 + value))
    return front / (a * (1 + value))
