"""Differences between runs: what stands behind "one is better than the other".

Where two runs have `statistics.OWN` seeds in common, the difference is paired by seed, and its interval is Student's.
Fewer say too little of the spread: two have a quantile of 12.7, and one has no interval at all. Then the difference is
that of the means over all seeds of either run, and the standard deviation of one training is borrowed: the one pooled
over the runs of the study that learn under the same schedule, or the run's own where that is larger, with the degrees
of freedom of `statistics.margin`. For a run at chance, whose trainings all end alike, it is an upper bound. Networks
need not scatter alike, so a borrowed interval is the weaker statement.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean, stdev

import pandas as pd

from vanishing import config
from vanishing.results import aggregate, lending, statistics
from vanishing.results.aggregate import Row
from vanishing.results.columns import METRICS
from vanishing.results.lending import Pool
from vanishing.results.statistics import Spread

COMPARED = ("val_accuracy", "test_accuracy")
"""Metrics that runs are compared by."""


@dataclass(frozen=True)
class Difference:
    """A metric of one run minus that of another."""

    first: str
    second: str
    metric: str
    counts: tuple[int, int]
    """Trainings of each run: the seeds in common where the difference is paired, else all that completed."""
    mean: float
    """NaN without a training."""
    margin: float
    """Half the width of the interval of confidence; NaN where there is none."""
    borrowed: bool
    """Whether the width is pooled over the runs of the study."""

    @property
    def verdict(self) -> str:
        """`higher` or `lower` where the interval leaves 0 out, else `cannot tell`."""
        if not abs(self.mean) > self.margin:
            return "cannot tell"
        return "higher" if self.mean > 0 else "lower"


def of_study(study: config.Study, rows: list[Row]) -> Iterator[Difference]:
    """Yield the differences that a study asks for, as far as both runs have results."""
    by_run, lent = {row.run: row for row in rows}, Pool(tuple(rows))
    for first, second in study.pairs:
        if first in by_run and second in by_run:
            for metric in COMPARED:
                yield between(by_run[first], by_run[second], metric, lent)


def between(first: Row, second: Row, metric: str, lent: Pool | None = None) -> Difference:
    """Return the difference of two runs, paired by seed where they have enough in common or nothing is `lent`."""
    left, right = first.values(metric), second.values(metric)
    paired = [left[seed] - right[seed] for seed in left if seed in right]
    if len(paired) < statistics.OWN and lent and (found := _borrowed(first, second, metric, lent)):
        return found
    cell, n = aggregate.spread(paired), len(paired)
    margin = statistics.quantile(n - 1) * cell.std / math.sqrt(n) if n > 1 else math.nan
    return Difference(first.run, second.run, metric, (n, n), cell.mean, margin, borrowed=False)


def frame(found: list[Difference]) -> pd.DataFrame:
    """Return a row for each difference, in fractions; the interval is mean - margin to mean + margin."""
    columns = ["first", "second", "metric", "first_n", "second_n", "mean", "margin", "spread", "verdict"]
    records = [
        (
            it.first,
            it.second,
            it.metric,
            *it.counts,
            it.mean,
            it.margin,
            "borrowed" if it.borrowed else "own",
            it.verdict,
        )
        for it in found
    ]
    return pd.DataFrame(records, columns=columns)


def _borrowed(first: Row, second: Row, metric: str, lent: Pool) -> Difference | None:
    """Return the difference of means with a borrowed spread; None where there is no mean, or none is lent."""
    values, pooled, parts = [lending.scaled(row, metric) for row in (first, second)], dict[Spread, float](), []
    for row, own in zip((first, second), values, strict=True):
        spread = lent.of_learners(row, metric)
        if not own or not spread:
            return None
        # the only lender may be the run itself, whose spread is then the pooled one up to rounding
        if len(own) > 1 and (std := stdev(own)) > spread.std and not math.isclose(std, spread.std):
            parts.append((Spread(std, len(own) - 1), 1 / len(own)))
        else:
            pooled[spread] = pooled.get(spread, 0.0) + 1 / len(own)  # one estimate, where both are of one schedule
    mean, scale = fmean(values[0]) - fmean(values[1]), METRICS[metric].scale
    counts, margin = (len(values[0]), len(values[1])), statistics.margin([*pooled.items(), *parts]) / scale
    return Difference(first.run, second.run, metric, counts, mean / scale, margin, borrowed=True)
