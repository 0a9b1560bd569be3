"""Every published number against ours, and which learning-rate schedule a published row may have been trained with.

`results/comparison/published.csv` has a row for every published value and run that repeats it, those not run
among them; `schedules.csv` has a row for every published row that a run of ours predicts, `scatter.csv` one for every
training, and `brackets.csv` one for every uncertainty that r2 prints.

**Which schedule.** A schedule is rejected for a row where the row would be improbable as one more training of the run
with that schedule: where the smallest of the probabilities of its k values is below 5 % / k (Bonferroni). What is not
rejected is possible, and so is one without a prediction (not run, or without a spread); a row that rejects all of them
came from none of these.

**A second test** needs no level. The rate of one schedule is small in the final epochs, that of the others is not, and
so the validation accuracy of consecutive epochs scatters differently. Its standard deviation over the final five
epochs of each of our trainings of CIFAR-100 for 100 epochs in minibatches of 100, pooled by schedule, stands against
what r2 prints in brackets, which may be that standard deviation or the standard error of the mean: the ratio of the
variances by Fisher's test, without a correction for networks and rates that scatter differently.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from statistics import fmean

import pandas as pd

from vanishing import config
from vanishing.results import published, statistics
from vanishing.results.aggregate import Row
from vanishing.results.columns import SETTLED
from vanishing.results.published import DIVERGED, JUDGED, OTHER, SCHEDULES, Claim, Published

LEVEL = 1 - statistics.CONFIDENCE
"""Probability with which a row is rejected under the schedule that it was trained with, at most."""

EPOCHS, BATCH = 100, 100
"""Of r2's trainings, but for sizes in its second table: with others the rate ends elsewhere, or at another phase."""

NONE, UNTESTED = "none of these", "not tested"

READINGS = {"standard deviation": 1.0, "standard error": math.sqrt(SETTLED)}
"""What a bracket of r2 may be, and how many times the bracket the standard deviation over those epochs then is."""


@dataclass(frozen=True)
class Attribution:
    """A published row, and how probable it is under each schedule."""

    source: Published
    probabilities: dict[str, float | None]
    """By schedule: the smallest of the values' probabilities times their number, at most 1; None for no prediction."""
    comparable: bool

    @property
    def verdict(self) -> str:
        """What the row may have been trained with."""
        return judge(self.probabilities) if self.comparable else OTHER


@dataclass(frozen=True)
class Scatter:
    """The standard deviation (n - 1) of a training's validation accuracy over its final epochs, in points."""

    run: str
    seed: int
    schedule: str
    epochs: int
    batch_size: int
    std: float


@dataclass(frozen=True)
class Bracket:
    """An uncertainty that r2 prints, in one of its readings, beside our trainings under each schedule."""

    source: Published
    reading: str
    low: float
    """What it stands for, in points, as far as its rounding leaves it open."""
    high: float
    probabilities: dict[str, float | None]
    """By schedule; None where nothing was trained."""


def judge(probabilities: Mapping[str, float | None]) -> str:
    """Say which schedule a row may have been trained with, by its probability under each; None for no prediction."""
    tested = {key: each for key, each in probabilities.items() if each is not None}
    possible = [SCHEDULES[key] for key, each in tested.items() if each >= LEVEL]
    if len(tested) == len(SCHEDULES):
        return " or ".join(possible) or NONE
    return " or ".join([*possible, UNTESTED])


def bonferroni(probabilities: Sequence[float]) -> float | None:
    """Return the Bonferroni-corrected smallest of several probabilities; None for no value."""
    return min(1.0, len(probabilities) * min(probabilities)) if probabilities else None


def attribute(claims: Iterable[Claim]) -> Iterator[Attribution]:
    """Hold every published row against the schedules, where a run of ours predicts it under one at least."""
    by_source: dict[Published, dict[str, list[Claim]]] = {}
    for claim in claims:
        if claim.verdict in (*JUDGED, DIVERGED, OTHER):
            by_source.setdefault(claim.source, {}).setdefault(claim.schedule, []).append(claim)
    for source, found in by_source.items():
        probabilities = {
            key: bonferroni([claim.probability for claim in found.get(key, ()) if not math.isnan(claim.probability)])
            for key in SCHEDULES
        }
        comparable = all(claim.comparable for of_one in found.values() for claim in of_one)
        yield Attribution(source, probabilities, comparable)


def schedules_frame(found: Iterable[Attribution]) -> pd.DataFrame:
    """Return a row for each published row: probabilities by schedule, NaN for no prediction."""
    records = [
        (
            item.source.report, item.source.table, item.source.origin, item.source.runs[0],
            *(math.nan if each is None else each for each in item.probabilities.values()), item.verdict,
        )
        for item in found
    ]  # fmt: skip
    return pd.DataFrame(records, columns=["report", "table", "origin", "run", *SCHEDULES, "verdict"])


def final_scatter(studies: Mapping[str, list[Row]]) -> Iterator[Scatter]:
    """Yield the scatter of every training that is long enough and completed.

    Trainings at chance are skipped: their accuracy hardly varies.
    """
    rows: dict[str, Row] = {row.run: row for found in studies.values() for row in found}
    for row in rows.values():
        deviations, train = row.values("val_final_std"), row.configuration.train
        for result in row.completed:
            std = 100 * deviations[result.seed]
            if not math.isnan(std) and result.summary["status"] == "completed" and not row.at_chance:
                yield Scatter(row.run, result.seed, train.schedule, train.epochs, train.batch_size, std)


def brackets_of(settings: config.Parameters, scattered: Iterable[Scatter]) -> list[Bracket]:
    """List r2's brackets beside our trainings; on other images than r2's none of ours counts."""
    return list(read_brackets(scattered if settings.data.set == "cifar100" else []))


def read_brackets(scattered: Iterable[Scatter]) -> Iterator[Bracket]:
    """Yield every bracket of a mean over final epochs, in each reading, with its probability under each schedule."""
    ours = _pooled(scattered)
    for source in published.load():
        printed = source.printed.get("val_accuracy", "")
        if source.average == SETTLED and "(" in printed:
            for reading, factor in READINGS.items():
                std = factor * published.uncertainty(printed)
                half = factor * published.unit(printed) / 2
                probabilities = {key: _ratio(std - half, std + half, ours.get(key)) for key in SCHEDULES}
                yield Bracket(source, reading, std - half, std + half, probabilities)


def fitting(brackets: Iterable[Bracket], schedule: str, reading: str) -> tuple[int, int]:
    """Count the brackets that fit a schedule in a reading, and those that were tested."""
    found = [item.probabilities[schedule] for item in brackets if item.reading == reading]
    tested = [each for each in found if each is not None]
    return sum(each >= LEVEL for each in tested), len(tested)


def scatter_frame(scattered: Iterable[Scatter]) -> pd.DataFrame:
    """Return a row for each training, in points of accuracy."""
    columns = ["run", "seed", "schedule", "epochs", "batch_size", "std"]
    return pd.DataFrame([astuple(item) for item in scattered], columns=columns)


def brackets_frame(brackets: Iterable[Bracket]) -> pd.DataFrame:
    """Return a row for each bracket and reading: the standard deviation that it stands for, in points; how likely."""
    records = [
        (
            item.source.report, item.source.table, item.source.runs[0], item.source.printed["val_accuracy"],
            item.reading, item.low, item.high,
            *(math.nan if each is None else each for each in item.probabilities.values()),
        )
        for item in brackets
    ]  # fmt: skip
    return pd.DataFrame(records, columns=["report", "table", "run", "published", "reading", "low", "high", *SCHEDULES])


def _pooled(scattered: Iterable[Scatter]) -> dict[str, tuple[float, int]]:
    """Return the pooled standard deviation of each schedule, with its degrees of freedom."""
    found = stds_by_schedule(scattered).items()
    return {key: (root_mean_square(stds), (SETTLED - 1) * len(stds)) for key, stds in found}


def stds_by_schedule(scattered: Iterable[Scatter]) -> dict[str, list[float]]:
    """List the scatter of trainings that end as r2's do, by schedule."""
    found: dict[str, list[float]] = {}
    for item in scattered:
        if (item.epochs, item.batch_size) == (EPOCHS, BATCH):
            found.setdefault(item.schedule, []).append(item.std)
    return found


def _ratio(low: float, high: float, ours: tuple[float, int] | None) -> float | None:
    """Return the probability of a printed standard deviation, wherever between `low` and `high` it is most probable."""
    if ours is None:
        return None
    if not ours[0]:  # ours do not scatter at all, and a bracket is never 0
        return 0.0
    nearest = min(max(ours[0], low), high)
    return statistics.variance_ratio((nearest / ours[0]) ** 2, SETTLED - 1, ours[1])


def root_mean_square(values: list[float]) -> float:
    """Return the root of the mean of squares."""
    return math.sqrt(fmean(value**2 for value in values))
