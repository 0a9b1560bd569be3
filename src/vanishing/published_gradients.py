"""What the reports say of gradients in numbers, held against gradient flow measured in their manner.

`published_gradients.csv` has a row for each bound that is stated or read off an axis: on `statistic` (min or max) over
`layers` of mean |dL/dW|, with an empty cell where there is none. `layers` are all, scales of normalisation among
them, or weight layers by number. As in the reports, ours are measured on augmented images, at snapshots from epoch 1.

A bound **holds** where the median of ours, over seeds and snapshots, respects it: plots show what most epochs do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import pandas as pd

from vanishing import files, latex, parameters, paths, results
from vanishing.published import FAILS, HOLDS, NOT_RUN, OTHER

COLUMNS = [
    "report", "place", "origin", "run", "layers", "statistic", "low", "high", "smallest", "median", "largest", "n",
    "verdict",
]  # fmt: skip
"""Of the table for machines."""


@dataclass(frozen=True)
class Bound:
    """A published bound on gradients."""

    report: str
    place: str
    origin: str
    """Who trained: `handout` of the course, or the author of the `report`."""
    runs: tuple[str, ...]
    """Ours that repeat it, the one with the schedule per epoch first."""
    layers: str
    statistic: str
    low: float
    """NaN for none, and so for `high`."""
    high: float

    @property
    def several(self) -> bool:
        """Whether there is more than one layer to take the smallest or largest of."""
        return not self.layers.isdigit()

    def measure(self, result: results.Result) -> list[float]:
        """Return the statistic over these layers at each snapshot from epoch 1 of one training."""
        rows = _reported(result)
        if self.layers != "all":
            first, _, last = self.layers.partition("-")
            numbered = rows.layer.between(int(first), int(last or first))
            rows = rows[numbered & (rows.kind != "normalisation")]
        return [float(value) for value in rows.groupby("epoch").mean_abs_gradient.agg(self.statistic)]

    def admits(self, value: float) -> bool:
        """Return whether a number respects the bound."""
        return not (value < self.low or value > self.high)


@dataclass(frozen=True)
class Claim:
    """A published bound beside ours."""

    bound: Bound
    run: str
    values: list[float]
    """Of every seed and snapshot."""
    n: int
    """Seeds that were measured on augmented images and did not diverge."""
    comparable: bool
    """Whether ours is of CIFAR-100."""

    @property
    def quantiles(self) -> list[float]:
        """Smallest, median and largest value; NaN where there is none."""
        return [float(of(self.values)) for of in (np.min, np.median, np.max)] if self.values else [math.nan] * 3

    @property
    def verdict(self) -> str:
        """By the rule of this module."""
        if not self.values:
            return NOT_RUN
        if not self.comparable:
            return OTHER
        return HOLDS if self.bound.admits(self.quantiles[1]) else FAILS


@cache
def load() -> tuple[Bound, ...]:
    """Return every published bound."""
    with (resources.files("vanishing") / "published_gradients.csv").open(encoding="utf-8") as handle:
        records = pd.read_csv(handle, dtype={"layers": str}).drop(columns="note").to_dict("records")
    return tuple(
        Bound(**{str(key): record[key] for key in record} | {"runs": tuple(record["runs"].split())})
        for record in records
    )


def entry_scales(settings: parameters.Parameters, run: str) -> list[float]:
    """Return mean |dL/dW| of the entry's normalisation, which bounds on weight layers leave out, as `Bound.measure`."""
    completed = (result for result in results.of_run(settings, run) if not result.diverged)
    rows = [rows[(rows.layer == 1) & (rows.kind == "normalisation")] for rows in map(_reported, completed)]
    return [float(value) for of_seed in rows for value in of_seed.mean_abs_gradient]


def make(settings: parameters.Parameters) -> None:
    """Write `results/comparison/gradients.csv` and the table of the report."""
    claims = list(everything(settings))
    results.write_table(paths.COMPARISON / "gradients.csv", table(claims))
    files.write(paths.REPORT / "comparison" / "gradients.tex", tabular(claims))


def everything(settings: parameters.Parameters) -> Iterator[Claim]:
    """Yield every bound with each of our runs that repeats it, those without results among them."""
    for bound in load():
        for run in bound.runs:
            completed = [result for result in results.of_run(settings, run) if not result.diverged]
            measured = [values for result in completed if (values := bound.measure(result))]
            values = [value for of_seed in measured for value in of_seed]
            yield Claim(bound, run, values, len(measured), settings.data.set == "cifar100")


def _reported(result: results.Result) -> pd.DataFrame:
    """Return what the reports measured: augmented images, from epoch 1."""
    table = result.gradients
    return table[(table["images"] == "augmented") & (table.epoch > 0)]


def table(claims: list[Claim]) -> pd.DataFrame:
    """Return a row for each bound and run."""
    records = [
        (
            claim.bound.report, claim.bound.place, claim.bound.origin, claim.run, claim.bound.layers,
            claim.bound.statistic, claim.bound.low, claim.bound.high, *claim.quantiles, claim.n, claim.verdict,
        )
        for claim in claims
    ]  # fmt: skip
    return pd.DataFrame(records, columns=COLUMNS)


def tabular(claims: list[Claim]) -> str:
    """Return the same in LaTeX, without what was not run."""
    head = [
        r"& & & & \multicolumn{2}{c}{Published} & \multicolumn{3}{c}{Ours over the snapshots} & \\",
        r"\cmidrule(lr){5-6}\cmidrule(lr){7-9}",
        r"Source & Run & Layers & & from & to & smallest & median & largest & \\",
    ]
    body = [
        [
            f"{claim.bound.report}, {claim.bound.place}",
            latex.code(claim.run),
            claim.bound.layers.replace("-", "--"),
            {"min": "smallest", "max": "largest"}[claim.bound.statistic] if claim.bound.several else "",
            *("" if math.isnan(value) else latex.number(value) for value in (claim.bound.low, claim.bound.high)),
            *map(latex.number, claim.quantiles),
            claim.verdict,
        ]
        for claim in claims
        if claim.values
    ]
    return latex.tabular("llllrrrrrl", head, body)
