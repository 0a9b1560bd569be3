"""Every published number against ours, and which learning-rate schedule a published row may have been trained with.

`results/comparison/published.csv` has a row for every published value and run that repeats it, those not run
among them; `schedules.csv` has a row for every published row that a run of ours predicts, `scatter.csv` one for every
training, and `brackets.csv` one for every uncertainty that r2 prints.

**Which schedule.** A schedule is rejected for a row where the row would be improbable as one more training of the run
with that schedule: where the smallest of the probabilities of its k metrics is below 5 % / k (Bonferroni). What is not
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

from vanishing import config, files, paths
from vanishing.report import latex
from vanishing.results import aggregate, initialisation, published, published_gradients, statistics, store
from vanishing.results.aggregate import SETTLED, Row
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
    """By schedule: the smallest of the metrics' probabilities times their number, at most 1; None for no prediction."""
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


def make(settings: config.Parameters) -> None:
    """Write the tables of this comparison."""
    claims = published.everything(settings)
    found = list(attribute(claims))
    scattered = list(scatter(settings))
    brackets = brackets_of(settings, scattered)
    for name, content in (
        ("published", published.table(claims)),
        ("schedules", table(found)),
        ("scatter", scatter_table(scattered)),
        ("brackets", bracket_table(brackets)),
    ):
        store.write_table(paths.COMPARISON / f"{name}.csv", content)
    for name, text in (
        ("published", published.of_studies(settings, claims)),
        ("schedules", tabular(found)),
        ("scatter", scatter_tabular(scattered, brackets)),
    ):
        files.write(paths.REPORT / "comparison" / f"{name}.tex", text)
    published_gradients.make(settings)
    initialisation.make(settings)


def judge(probabilities: Mapping[str, float | None]) -> str:
    """Say which schedule a row may have been trained with, by its probability under each; None for no prediction."""
    tested = {key: each for key, each in probabilities.items() if each is not None}
    possible = [SCHEDULES[key] for key, each in tested.items() if each >= LEVEL]
    if len(tested) == len(SCHEDULES):
        return " or ".join(possible) or NONE
    return " or ".join([*possible, UNTESTED])


def bonferroni(probabilities: Sequence[float]) -> float | None:
    """Return how probable the least probable of several metrics is, given that it is the least; None for no metric."""
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


def table(found: Iterable[Attribution]) -> pd.DataFrame:
    """Return a row for each published row: probabilities by schedule, NaN for no prediction."""
    records = [
        (
            item.source.report, item.source.table, item.source.origin, item.source.runs[0],
            *(math.nan if each is None else each for each in item.probabilities.values()), item.verdict,
        )
        for item in found
    ]  # fmt: skip
    return pd.DataFrame(records, columns=["report", "table", "origin", "run", *SCHEDULES, "verdict"])


def tabular(found: Iterable[Attribution]) -> str:
    """Return the same in LaTeX, the handout's rows first."""
    head = [
        rf"& & \multicolumn{{{len(SCHEDULES)}}}{{c}}{{Probability}} & \\",
        rf"\cmidrule(lr){{3-{2 + len(SCHEDULES)}}}",
        rf"Source & Run & {' & '.join(SCHEDULES.values())} & Possible \\",
    ]
    rows = [
        (
            item.source.origin,
            [
                item.source.name,
                latex.code(item.source.runs[0]),
                *(_probability(each) for each in item.probabilities.values()),
                item.verdict,
            ],
        )
        for item in found
    ]
    return latex.tabular("ll" + "r" * len(SCHEDULES) + "l", head, *published.by_origin(rows))


def scatter(settings: config.Parameters) -> Iterator[Scatter]:
    """Yield the scatter of every training that is long enough and completed; one at chance has none worth the name."""
    rows: dict[str, Row] = {row.run: row for found in aggregate.collect(settings).values() for row in found}
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
        printed = source.metrics.get("val_accuracy", "")
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


def scatter_table(scattered: Iterable[Scatter]) -> pd.DataFrame:
    """Return a row for each training, in points of accuracy."""
    columns = ["run", "seed", "schedule", "epochs", "batch_size", "std"]
    return pd.DataFrame([astuple(item) for item in scattered], columns=columns)


def bracket_table(brackets: Iterable[Bracket]) -> pd.DataFrame:
    """Return a row for each bracket and reading: the standard deviation that it stands for, in points; how likely."""
    records = [
        (
            item.source.report, item.source.table, item.source.runs[0], item.source.metrics["val_accuracy"],
            item.reading, item.low, item.high,
            *(math.nan if each is None else each for each in item.probabilities.values()),
        )
        for item in brackets
    ]  # fmt: skip
    return pd.DataFrame(records, columns=["report", "table", "run", "published", "reading", "low", "high", *SCHEDULES])


def scatter_tabular(scattered: Iterable[Scatter], brackets: Iterable[Bracket]) -> str:
    """Return a line a schedule in LaTeX: our scatter, and how many of r2's brackets fit it in either reading."""
    by_schedule = _by_schedule(scattered)
    listed = list(brackets)
    head = [
        rf"& & \multicolumn{{3}}{{c}}{{Ours (points)}} & \multicolumn{{{len(READINGS)}}}{{c}}{{Brackets that fit}} \\",
        rf"\cmidrule(lr){{3-5}}\cmidrule(lr){{6-{5 + len(READINGS)}}}",
        rf"Schedule & Trainings & least & pooled & most & {' & '.join(f'as {reading}' for reading in READINGS)} \\",
    ]
    body = []
    for key, name in SCHEDULES.items():
        stds = by_schedule.get(key, [])
        figures = (
            [latex.number(each, 2) for each in (min(stds), _root_mean_square(stds), max(stds))] if stds else ["--"] * 3
        )
        counts = [fitting(listed, key, reading) for reading in READINGS]
        fit = [f"{some} of {tested}" if tested else "--" for some, tested in counts]
        body.append([name, str(len(stds)), *figures, *fit])
    return latex.tabular("lr" + "rrr" + "r" * len(READINGS), head, body)


def _probability(value: float | None) -> str:
    return "--" if value is None else "$<$ 0.001" if value < 0.001 else latex.number(value, 3)


def _pooled(scattered: Iterable[Scatter]) -> dict[str, tuple[float, int]]:
    """Return the pooled standard deviation of each schedule, with its degrees of freedom."""
    found = _by_schedule(scattered).items()
    return {key: (_root_mean_square(stds), (SETTLED - 1) * len(stds)) for key, stds in found}


def _by_schedule(scattered: Iterable[Scatter]) -> dict[str, list[float]]:
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
    return statistics.fisher((nearest / ours[0]) ** 2, SETTLED - 1, ours[1])


def _root_mean_square(values: list[float]) -> float:
    return math.sqrt(fmean(value**2 for value in values))
