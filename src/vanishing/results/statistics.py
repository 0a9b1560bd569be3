"""Means with their intervals, spreads over seeds, prediction intervals, and the distributions that they stand on.

All functions are pure. Probabilities are two-sided but for `fisher_exact`, and degrees of freedom need not be whole.
Student's and Fisher's distributions are those of `scipy.special`, which imports in a fifth of the time of
`scipy.stats`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

import numpy as np
import pandas as pd
from scipy import special

CONFIDENCE = 0.95
"""Of every interval."""

PRECISE = 1e-12
"""Relative, of a quantile."""

OWN = 3
"""Values from which on their own spread is used."""


@dataclass(frozen=True)
class Interval:
    """A mean over groups, with the ends of its confidence interval; NaN where they are not defined."""

    mean: float
    low: float
    high: float
    count: int
    """Of the groups."""


@dataclass(frozen=True)
class Spread:
    """A standard deviation between single trainings, and the degrees of freedom that it was estimated with."""

    std: float
    freedom: float


@dataclass(frozen=True)
class Prediction:
    """Where one more training, on other images of the same kind, would end.

    Its distance from `mean` is the sum of two: one between trainings, whose standard deviation `std` is estimated with
    `freedom` degrees, and one between sets of images, of the known variance `sampling`. Their quantiles, Student's and
    the normal one, are added as squares, which covers a little more than it promises however few the degrees are.
    """

    mean: float
    std: float
    freedom: float
    sampling: float
    borrowed: bool
    """Whether the spread between trainings is that of other runs."""

    @property
    def half_width(self) -> float:
        """Half the width of the interval that holds one more training with the probability `CONFIDENCE`."""
        return math.hypot(quantile(self.freedom) * self.std, quantile(math.inf) * math.sqrt(self.sampling))

    def probability(self, value: float, uncertainty: float = 0.0) -> float:
        """Return 1 less the confidence of the interval that ends at `value`.

        Args:
            value: what was printed.
            uncertainty: of its rounding; the value is moved towards the mean by so much.
        """
        distance = max(0.0, abs(value - self.mean) - uncertainty)
        images = math.sqrt(self.sampling)
        if not distance or not (self.std or images):
            return 0.0 if distance else 1.0
        if not self.std:
            return student(distance / images, math.inf)
        low, high = 0.0, distance / self.std  # of Student's quantile; by bisection
        while images and high - low > PRECISE * high:
            middle = (low + high) / 2
            normal = special.ndtri(student(middle, self.freedom) / 2)
            beyond = math.hypot(middle * self.std, images * normal) > distance
            low, high = (low, middle) if beyond else (middle, high)
        return student(high, self.freedom)


def interval(values: pd.Series) -> Interval:
    """Return the mean over groups with the interval of Student's distribution, which one group does not have.

    Args:
        values: indexed by the group. Those of a group are averaged first, as they are not independent.
    """
    groups = [fmean(each) for _, each in values.groupby(level=0)]
    if len(groups) < 2:
        return Interval(groups[0] if groups else math.nan, math.nan, math.nan, len(groups))
    with np.errstate(invalid="ignore"):  # of infinite values
        half = quantile(len(groups) - 1) * float(np.std(groups, ddof=1)) / math.sqrt(len(groups))
    mean = fmean(groups)
    return Interval(mean, mean - half, mean + half, len(groups))


def cosine(values: pd.Series) -> Interval:
    """Return the same for cosines: the interval ends at -1 and 1."""
    found = interval(values)
    return Interval(found.mean, max(found.low, -1.0), min(found.high, 1.0), found.count)


def ratio(first: pd.Series, second: pd.Series | float = 1.0) -> Interval:
    """Return the geometric mean of paired ratios with its interval; NaN where a ratio is not positive."""
    ratios = first / second
    found = interval(ratios.where(ratios > 0).map(math.log))
    return Interval(math.exp(found.mean), math.exp(found.low), math.exp(found.high), found.count)


def ratio_of_sums(above: pd.Series, below: pd.Series) -> Interval:
    """Return the ratio of two sums over groups, with the interval of the jackknife.

    Where the values below scatter, it is less biased than the mean of the ratios.

    Args:
        above: values, indexed by the group.
        below: the same for the denominator, in the same order.
    """
    sums = pd.DataFrame({"above": above, "below": below}).groupby(level=0).sum()
    total, count = sums.sum(), len(sums)
    with np.errstate(divide="ignore", invalid="ignore"):  # of gradients that are 0
        found = float(total.above / total.below)
    if count < 2:
        return Interval(found, math.nan, math.nan, count)
    left = (total.above - sums.above) / (total.below - sums.below)  # without each group in turn
    half = quantile(count - 1) * math.sqrt((count - 1) * float(((left - left.mean()) ** 2).mean()))
    return Interval(found, found - half, found + half, count)


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of `values` without NaN; NaN where none is left."""
    given = np.array([value for value in values if not math.isnan(value)])
    with np.errstate(divide="ignore"):  # the logarithm of 0, which makes the mean 0
        return float(np.exp(np.log(given).mean())) if len(given) else math.nan


def predict(values: Sequence[float], borrowed: Spread | None, sampling: float = 0.0) -> Prediction | None:
    """Predict one more training, on other images of the same kind, from those that there are.

    The variance between trainings is s^2 (1 + 1/n), that of the new one and that of the mean over n.

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
    std = spread.std * math.sqrt(1 + 1 / len(values))
    return Prediction(fmean(values), std, spread.freedom, sampling, borrowed=not own)


def pool(groups: Iterable[Sequence[float]]) -> Spread | None:
    """Pool the spread within groups, each weighted by its degrees of freedom; None if no group has two values."""
    estimated = [(len(group) - 1, variance(group)) for group in groups if len(group) > 1]
    freedom = sum(weight for weight, _ in estimated)
    if not freedom:
        return None
    return Spread(math.sqrt(sum(weight * each for weight, each in estimated) / freedom), freedom)


def margin(parts: Sequence[tuple[Spread, float]]) -> float:
    """Return half the width of the interval of confidence of a sum, each part of which has a spread of its own.

    The variance is the sum of theirs, with degrees of freedom by Satterthwaite (1946).

    Args:
        parts: spreads that were estimated independently, and what the variance counts of each, 1/n for a mean of n.
    """
    total = sum(share * spread.std**2 for spread, share in parts)
    freedom = total**2 / sum((share * spread.std**2) ** 2 / spread.freedom for spread, share in parts)
    return quantile(freedom) * math.sqrt(total)


@functools.cache
def quantile(freedom: float) -> float:
    """Return what Student's |t| stays below with the probability `CONFIDENCE`."""
    return float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2))


def student(t: float, freedom: float) -> float:
    """Return the probability that Student's |t| is at least `t`; infinite degrees of freedom are a normal."""
    return float(2 * special.stdtr(freedom, -abs(t)))


def variance_ratio(ratio: float, first: float, second: float) -> float:
    """Return the two-sided probability of a ratio of two variances, with `first` and `second` degrees of freedom."""
    return float(min(1, 2 * special.fdtr(first, second, ratio), 2 * special.fdtrc(first, second, ratio)))


def fisher_exact(few: int, n: int, many: int, m: int) -> float:
    """Return the one-sided probability that at most `few` of those that succeed are among the first group.

    Fisher's exact test: of n + m equal trials, few + many succeed, whichever they are.

    Args:
        few: successes in the first group.
        n: trials in it.
        many: successes in the second group.
        m: trials in it.
    """
    ways = sum(math.comb(n, each) * math.comb(m, few + many - each) for each in range(few + 1))
    return ways / math.comb(n + m, few + many)
