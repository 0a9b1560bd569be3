"""Results over the seeds: a row for each run of a study, with means and standard deviations."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from vanishing import config, paths
from vanishing.console import say
from vanishing.results import store
from vanishing.results.columns import METRICS, SETTINGS
from vanishing.results.store import Result

CHANCE_LOSS = 0.01
"""Relative distance from that of chance within which a training loss counts as such."""

CHANCE_ACCURACY = 0.02
"""Accuracy above chance, as a fraction, within which a validation accuracy counts as chance."""


@dataclass(frozen=True)
class Cell:
    """Mean and standard deviation (n - 1) over the seeds that have a value.

    The deviation is NaN for one such seed, both are for none.
    """

    mean: float
    std: float


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
    def network(self) -> str:
        """Name the network by its depth and its cures."""
        model = self.configuration.model
        cures = [{"batch": "BN"}.get(model.norm, model.norm)] * (model.norm != "none")
        cures += ["RC"] * (model.shortcut == "identity")
        return ", ".join([f"{self.results[0].summary['layers']} layers", *filter(None, [" and ".join(cures)])])

    @property
    def devices(self) -> list[str]:
        """Return the kinds of device that the seeds were trained on, in alphabetical order."""
        return sorted({str(result.summary["environment"].get("device", "?")) for result in self.results})

    def values(self, metric: str) -> dict[int, float]:
        """Return a metric of each completed seed, NaN for one that has none."""
        data, value = self.configuration.data, METRICS[metric].value
        guess = data.chance("train").loss, data.chance("val").loss
        return {result.seed: value(result, self.average, guess) for result in self.completed}

    def cell(self, metric: str) -> Cell:
        """Return a metric over the completed seeds."""
        return spread(self.values(metric).values())

    def uncertainty(self, metric: str) -> float:
        """Return the standard error of a metric's mean: over the seeds, or for one seed over its final epochs."""
        if len(self.completed) == 1 and metric in store.HISTORY_COLUMNS:
            final = self.completed[0].final(self.average)[metric]
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
        """Whether every seed ends where it began: at the loss and the accuracy of an answer that ignores the image."""
        return bool(self.results) and all(self._guesses(result) for result in self.results)

    @property
    def learns(self) -> bool:
        """Whether no seed ends at chance."""
        return not any(self._guesses(result) for result in self.results)

    def _guesses(self, result: Result) -> bool:
        loss, accuracy = self.configuration.data.chance("train").loss, self.configuration.data.chance("val").accuracy
        return (
            not result.diverged
            and abs(result.summary["train"]["loss"] - loss) <= CHANCE_LOSS * loss
            and bool(result.summary["validation"]["accuracy"] <= accuracy + CHANCE_ACCURACY)
        )


def collect(settings: config.Parameters, keys: Iterable[str] | None = None) -> dict[str, list[Row]]:
    """Read the rows of studies, all if `keys` is None; see `rows_of_studies` and `read_results`."""
    chosen = list(settings.studies if keys is None else keys)
    runs = {run for key in chosen for run in settings.study(key).runs}
    return rows_of_studies(settings, read_results(settings, runs), chosen)


def read_results(settings: config.Parameters, runs: Collection[str]) -> dict[str, list[Result]]:
    """Read the complete results of runs, a seed each; what another configuration made is left out, with a line."""
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


def rows_of_studies(
    settings: config.Parameters, results: Mapping[str, list[Result]], keys: Iterable[str]
) -> dict[str, list[Row]]:
    """Return the rows of studies; those without results are left out."""
    studies = {key: settings.study(key) for key in keys}
    rows = {
        key: [Row(run, settings.run(run), results[run], study.average) for run in study.runs if run in results]
        for key, study in studies.items()
    }
    return {key: of_study for key, of_study in rows.items() if of_study}


def study_frame(rows: list[Row]) -> pd.DataFrame:
    """Return the table of a study: a row a run, each metric with mean and standard deviation over n seeds."""
    return pd.DataFrame([_record(row) for row in rows])


def spread(values: Iterable[float]) -> Cell:
    """Return mean and standard deviation (n - 1) of `values` without NaN."""
    series = pd.Series(list(values), dtype=float)
    return Cell(float(series.mean()), float(series.std(ddof=1)))


def _record(row: Row) -> dict[str, object]:
    record: dict[str, object] = {
        "run": row.run,
        "layers": row.results[0].summary["layers"],
        "parameters": row.results[0].summary["parameters"],
        **{key: getattr(row.configuration.train, key) for key in SETTINGS},
        "averaged_epochs": row.average,
        "n": len(row.results),
        "diverged": len(row.results) - len(row.completed),
        "devices": " ".join(row.devices),
    }
    for metric in METRICS:
        cell = row.cell(metric)
        record |= {f"{metric}_mean": cell.mean, f"{metric}_std": cell.std}
    return record
