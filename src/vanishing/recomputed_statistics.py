"""Spreads, prediction intervals and their distributions a second time, by the standard library alone.

Nothing is shared with `statistics`: the incomplete beta function is a continued fraction here (DLMF 8.17.22).
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence

PROBABILITY = 0.95
"""Of every interval."""

NORMAL = 1e6
"""Degrees of freedom beyond which Student's distribution is taken for the normal one."""

Estimate = tuple[float, float]
"""A standard deviation and its degrees of freedom."""

Predicted = tuple[float, float, float]
"""Mean, scale and degrees of freedom of one more training."""


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
    between = estimate[0] * estimate[0] * (len(values) + 1) / len(values)
    scale = math.sqrt(between + sampling)
    freedom = estimate[1] * ((between + sampling) / between) ** 2 if between else math.inf
    return mean, scale, math.inf if freedom > NORMAL else freedom


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
    if freedom > NORMAL:
        return math.erfc(t / math.sqrt(2))
    return beta(freedom / 2, 0.5, freedom / (freedom + t * t))


def fisher(ratio: float, first: float, second: float) -> float:
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
