"""What the reports say of gradients in numbers, held against gradient flow measured in their manner.

`published_gradients.csv` has a row for each bound that is stated or read off an axis: on `statistic` (min or max) over
`layers` of mean |dL/dW|, with an empty cell where there is none. `layers` are all, scales of normalisation among
them, or weight layers by number. As in the reports, ours are measured on augmented images, at snapshots from epoch 1;
the median on plain images stands beside them.

A bound **holds** where the median of ours, over seeds and epochs, respects it: plots show what most epochs do. A
snapshot stands for the epochs that are nearer to it than to others; an epoch midway between two snapshots counts half
for each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise

import pandas as pd

from vanishing import config
from vanishing.results import published
from vanishing.results.published import FAILS, HOLDS, NOT_RUN, OTHER
from vanishing.results.store import Result

COLUMNS = [
    "report", "place", "origin", "run", "layers", "statistic", "low", "high", "smallest", "median", "largest",
    "plain_median", "n", "verdict",
]  # fmt: skip
"""Of the table for machines."""


Weighted = list[tuple[float, float]]
"""Values, each with the number of epochs that it stands for."""


@dataclass(frozen=True)
class Bound:
    """A published bound on gradients."""

    report: str
    place: str
    origin: str
    """Who trained: `handout` for the course; `report` where its author printed the plot and no more is known."""
    runs: tuple[str, ...]
    """Ours that repeat it, the one with the schedule per epoch first."""
    layers: str
    statistic: str
    low: float
    """NaN for none, and so for `high`."""
    high: float

    @property
    def name(self) -> str:
        """What the bound is called in print."""
        return published.title(self.origin, self.report, self.place)

    @property
    def several(self) -> bool:
        """Whether there is more than one layer to take the smallest or largest of."""
        return not self.layers.isdigit()

    def measure(self, result: Result, images: str) -> Weighted:
        """Return the statistic over these layers at each snapshot from epoch 1 of one training."""
        rows = _from_epoch_1(result, images)
        if self.layers != "all":
            first, _, last = self.layers.partition("-")
            numbered = rows.layer.between(int(first), int(last or first))
            rows = rows[numbered & (rows.kind != "normalisation")]
        return _weighted(rows.groupby("epoch").mean_abs_gradient.agg(self.statistic))

    def admits(self, value: float) -> bool:
        """Return whether a number respects the bound."""
        return not (value < self.low or value > self.high)


@dataclass(frozen=True)
class BoundClaim:
    """A published bound beside ours."""

    bound: Bound
    run: str
    values: Weighted
    """Of every seed and snapshot, on augmented images."""
    plain: Weighted
    """On plain images."""
    n: int
    """Seeds that were measured on augmented images and did not diverge."""
    comparable: bool
    """Whether ours is of CIFAR-100."""

    @property
    def quantiles(self) -> list[float]:
        """Smallest, median and largest value; NaN where there is none."""
        if not self.values:
            return [math.nan] * 3
        return [min(self.values)[0], median(self.values), max(self.values)[0]]

    @property
    def plain_median(self) -> float:
        """The median on plain images, of the same trainings; NaN where there is none."""
        return median(self.plain) if self.values else math.nan

    @property
    def verdict(self) -> str:
        """By the rule of this module."""
        if not self.values:
            return NOT_RUN
        if not self.comparable:
            return OTHER
        return HOLDS if self.bound.admits(self.quantiles[1]) else FAILS


@cache
def published_bounds() -> tuple[Bound, ...]:
    """Return every published bound."""
    with (resources.files("vanishing.results") / "published_gradients.csv").open(encoding="utf-8") as handle:
        records = pd.read_csv(handle, dtype={"layers": str}).drop(columns="note").to_dict("records")
    return tuple(
        Bound(**{str(key): record[key] for key in record} | {"runs": tuple(record["runs"].split())})
        for record in records
    )


def median(values: Weighted) -> float:
    """Return the value below which half of the epochs are; halfway between two values where both are that."""
    ordered, below = sorted(values), 0.0
    half = sum(epochs for _, epochs in ordered) / 2
    for at, (value, epochs) in enumerate(ordered):
        below += epochs
        if below == half:  # exact: weights are multiples of 1/2
            return (value + ordered[at + 1][0]) / 2
        if below > half:
            return value
    raise ValueError("no median of nothing")


def entry_scales(results: Iterable[Result]) -> Weighted:
    """Return mean |dL/dW| of the entry's normalisation, which bounds on weight layers leave out.

    Of completed trainings, weighted as by `Bound.measure`.
    """
    found: Weighted = []
    for rows in (_from_epoch_1(result, "augmented") for result in results if not result.diverged):
        entry = rows[(rows.layer == 1) & (rows.kind == "normalisation")]
        found += _weighted(entry.set_index("epoch").mean_abs_gradient)
    return found


def bound_claims(settings: config.Parameters, results: Mapping[str, list[Result]]) -> Iterator[BoundClaim]:
    """Yield every bound with each of our runs that repeats it, those without results among them."""
    for bound in published_bounds():
        for run in bound.runs:
            augmented, plain, n = [], [], 0
            for result in results.get(run, []):
                if not result.diverged and (measured := bound.measure(result, "augmented")):
                    augmented += measured
                    plain += bound.measure(result, "plain")
                    n += 1
            yield BoundClaim(bound, run, augmented, plain, n, settings.data.set == "cifar100")


def _from_epoch_1(result: Result, images: str) -> pd.DataFrame:
    table = result.gradients
    return table[(table["images"] == images) & (table.epoch > 0)]


def _weighted(by_epoch: pd.Series[float]) -> Weighted:
    """Give each snapshot the epochs from half-way to the one before to half-way to the one after."""
    epochs = [*by_epoch.index]
    if not epochs:
        return []
    edges = [0.5, *((left + right) / 2 for left, right in pairwise(epochs)), epochs[-1] + 0.5]
    return [(float(value), end - start) for value, (start, end) in zip(by_epoch, pairwise(edges), strict=True)]


def bounds_frame(claims: Iterable[BoundClaim]) -> pd.DataFrame:
    """Return a row for each bound and run."""
    records = [
        (
            claim.bound.report, claim.bound.place, claim.bound.origin, claim.run, claim.bound.layers,
            claim.bound.statistic, claim.bound.low, claim.bound.high, *claim.quantiles, claim.plain_median, claim.n,
            claim.verdict,
        )
        for claim in claims
    ]  # fmt: skip
    return pd.DataFrame(records, columns=COLUMNS)
