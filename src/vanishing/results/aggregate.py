"""Results over the seeds: a row for each run of a study, with means and standard deviations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

from vanishing import config, paths
from vanishing.report import latex
from vanishing.results import store
from vanishing.console import say
from vanishing.results.store import Result

METRICS = {
    "train_loss": ("train", "loss"),
    "train_accuracy": ("train", "accuracy"),
    "val_loss": ("validation", "loss"),
    "val_accuracy": ("validation", "accuracy"),
    "best_epoch": ("best", "epoch"),
    "best_val_accuracy": ("best", "accuracy"),
    "test_loss": ("test", "loss"),
    "test_accuracy": ("test", "accuracy"),
}
"""Columns of a table, and where `summary.json` has them."""

ONSET = 0.1
"""Distance in nats from ln(classes) beyond which a training loss has left that of a guess."""

SETTLED = 5
"""Final epochs over which the validation accuracy of one training is said to vary; those of r2's means and brackets."""

CHANCE_LOSS = 0.01
"""Relative distance from ln(classes) within which a training loss counts as that of chance."""

CHANCE_ACCURACY = 0.02
"""Accuracy above chance, as a fraction, within which a validation accuracy counts as chance."""


def onset(history: pd.DataFrame, classes: int) -> float:
    """Return the first epoch whose training loss is more than `ONSET` from ln(classes), NaN where none is."""
    left = history.epoch[(history.train_loss - math.log(classes)).abs() > ONSET]
    return float(left.min())


def peak_loss(history: pd.DataFrame, classes: int) -> float:
    """Return the highest training loss in nats from the onset on, the onset's own included; NaN without onset."""
    return float(history.train_loss[history.epoch >= onset(history, classes)].max())


def final_deviation(history: pd.DataFrame, _: int) -> float:
    """Return the standard deviation (n - 1) of validation accuracy over the final epochs, NaN for too few of them."""
    final = history.sort_values("epoch").tail(SETTLED).val_accuracy
    return float(final.std(ddof=1)) if len(final) == SETTLED else math.nan


DYNAMICS: dict[str, Callable[[pd.DataFrame, int], float]] = {
    "onset": onset,
    "peak_loss": peak_loss,
    "val_final_std": final_deviation,
}
"""Columns of a table that say how a training went, worked out from its history and the number of classes."""


@dataclass(frozen=True)
class Cell:
    """Mean and standard deviation (n - 1) over the seeds that have a value.

    The deviation is NaN for one such seed, both are for none.
    """

    mean: float
    std: float

    def text(self, scale: float = 1, digits: int = 2) -> str:
        """Write the cell in LaTeX, times `scale`; a dash for no value."""
        if math.isnan(self.mean):
            return "--"
        mean = latex.number(self.mean * scale, digits)
        return mean if math.isnan(self.std) else f"{mean} $\\pm$ {latex.number(self.std * scale, digits)}"


@dataclass(frozen=True)
class Row:
    """One run of a study, over its seeds."""

    run: str
    configuration: config.Run
    results: list[Result]
    average: int = 1
    """Final epochs that losses and accuracies of training and validation are the mean of."""

    @property
    def completed(self) -> list[Result]:
        """Return the seeds that did not diverge: those that means are taken over."""
        return [result for result in self.results if not result.diverged]

    @property
    def devices(self) -> list[str]:
        """Return the kinds of device that the seeds were trained on, in alphabetical order."""
        return sorted({str(result.summary["environment"].get("device", "?")) for result in self.results})

    def values(self, metric: str) -> dict[int, float]:
        """Return a metric of each completed seed, NaN for one that has none."""
        if metric in DYNAMICS:
            classes = self.configuration.data.classes
            return {result.seed: DYNAMICS[metric](result.history, classes) for result in self.completed}
        part, key = METRICS[metric]
        if metric in store.HISTORY_COLUMNS:
            return {result.seed: float(self._final(result)[metric].mean()) for result in self.completed}
        return {result.seed: result.summary[part][key] for result in self.completed}

    def cell(self, metric: str) -> Cell:
        """Return a metric over the completed seeds."""
        return spread(self.values(metric).values())

    def uncertainty(self, metric: str) -> float:
        """Return the standard error of a metric's mean: over the seeds, or for one seed over its final epochs."""
        if len(self.completed) == 1 and metric in store.HISTORY_COLUMNS:
            final = self._final(self.completed[0])[metric]
            return float(final.std(ddof=1) / math.sqrt(len(final)))
        return self.cell(metric).std / math.sqrt(max(1, len(self.completed)))

    def gradient(self, layer: int, snapshot: int) -> Cell:
        """Return mean |dL/dW| of a weight layer (0 the first, -1 the last) at a snapshot, over the completed seeds."""
        found = []
        for result in self.completed:
            table = store.weight_layers(result.gradients)
            epoch = sorted(table.epoch.unique())[snapshot]
            found.append(table[table.epoch == epoch].sort_values("layer").mean_abs_gradient.iloc[layer])
        return spread(found)

    @property
    def at_chance(self) -> bool:
        """Whether every seed ends where it began: at the loss and the accuracy of a uniform guess."""
        classes = self.configuration.data.classes
        loss, accuracy = math.log(classes), 1 / classes
        return bool(self.results) and all(
            not result.diverged
            and abs(result.summary["train"]["loss"] - loss) <= CHANCE_LOSS * loss
            and result.summary["validation"]["accuracy"] <= accuracy + CHANCE_ACCURACY
            for result in self.results
        )

    def _final(self, result: Result) -> pd.DataFrame:
        return result.history.sort_values("epoch").tail(self.average)


def collect(settings: config.Parameters, keys: Iterable[str] | None = None) -> dict[str, list[Row]]:
    """Read the rows of studies, all if `keys` is None; those without results are left out.

    What another configuration made is left out too, with a line.
    """
    studies = {key: settings.study(key) for key in (settings.studies if keys is None else keys)}
    found = _read(settings, {run for study in studies.values() for run in study.runs})
    rows = {
        key: [Row(run, settings.run(run), found[run], study.average) for run in study.runs if run in found]
        for key, study in studies.items()
    }
    return {key: of_study for key, of_study in rows.items() if of_study}


def spread(values: Iterable[float]) -> Cell:
    """Return mean and standard deviation (n - 1) of `values` without NaN."""
    series = pd.Series(list(values), dtype=float)
    return Cell(float(series.mean()), float(series.std(ddof=1)))


def scale(metric: str) -> int:
    """Return what a metric is multiplied by for people: per cent for accuracies, points for their deviation."""
    return 100 if metric.endswith("accuracy") or metric == "val_final_std" else 1


def digits(metric: str) -> int:
    """Return the decimals that a metric is printed with."""
    return 0 if metric in ("best_epoch", "onset") else 3 if metric.endswith("loss") else 2


def _read(settings: config.Parameters, runs: set[str]) -> dict[str, list[Result]]:
    found: dict[str, list[Result]] = {}
    for name, seed in settings.jobs():
        if name not in runs:
            continue
        if store.is_available(settings, name, seed):
            found.setdefault(name, []).append(store.read(name, seed))
        elif paths.results(name, seed).exists():
            say(f"{paths.results(name, seed)}: incomplete, or made with another configuration; left out")
    if not found:
        say("no results yet")
    return found
