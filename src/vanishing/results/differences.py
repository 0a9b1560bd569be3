"""Differences between runs, paired by seed: what stands behind "one is better than the other"."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from vanishing import config
from vanishing.results import aggregate, statistics
from vanishing.results.aggregate import Row

METRICS = ["val_accuracy", "test_accuracy"]
"""What runs are compared by."""


@dataclass(frozen=True)
class Difference:
    """A metric of one run minus that of another, for each seed that both completed."""

    first: str
    second: str
    metric: str
    values: list[float]

    @property
    def n(self) -> int:
        """The number of seeds."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Mean over the seeds; NaN for none."""
        return aggregate.spread(self.values).mean

    @property
    def margin(self) -> float:
        """Half the width of Student's confidence interval of the mean; NaN for fewer than two seeds."""
        if self.n < 2:
            return math.nan
        return statistics.quantile(self.n - 1) * aggregate.spread(self.values).std / math.sqrt(self.n)

    @property
    def verdict(self) -> str:
        """`higher` or `lower` where the interval leaves 0 out, else `cannot tell`."""
        if not abs(self.mean) > self.margin:
            return "cannot tell"
        return "higher" if self.mean > 0 else "lower"


def paired_differences(study: config.Study, rows: list[Row]) -> Iterator[Difference]:
    """Yield the differences that a study asks for, as far as both runs have results."""
    by_run = {row.run: row for row in rows}
    for first, second in study.pairs:
        if first in by_run and second in by_run:
            for metric in METRICS:
                yield between(by_run[first], by_run[second], metric)


def between(first: Row, second: Row, metric: str) -> Difference:
    """Pair two runs by seed."""
    left, right = first.values(metric), second.values(metric)
    return Difference(first.run, second.run, metric, [left[seed] - right[seed] for seed in left if seed in right])


def differences_frame(found: list[Difference]) -> pd.DataFrame:
    """Return a row for each difference, in fractions; the interval is mean - margin to mean + margin."""
    columns = ["first", "second", "metric", "n", "mean", "margin", "verdict"]
    return pd.DataFrame([[getattr(item, column) for column in columns] for item in found], columns=columns)
