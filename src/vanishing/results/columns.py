"""The columns that every table of a study has: settings of its runs, and metrics of their trainings.

To add a column, add one line here: `aggregate.study_frame` writes it for machines; report, README and terminal for
people.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from vanishing.results.store import Result

SCHEDULES = {"cosine_per_epoch": "per epoch", "cosine_per_iteration": "per iteration", "constant": "constant"}
"""The learning-rate schedules, and what people call them."""

ONSET = 0.1
"""Distance in nats beyond which a training loss has left that of a guess."""

Guess = tuple[float, float]
"""Training losses between which a network learns how frequent the classes are: that of chance, and ln(classes).

It starts at the second. Where all classes are equally frequent, both are the same.
"""

SETTLED = 5
"""Final epochs over which the validation accuracy of one training is said to vary; those of r2's means and brackets."""


@dataclass(frozen=True)
class Setting:
    """A training setting: in the report a column where the runs of a study differ in it, else a part of the caption."""

    head: str
    name: str
    """In the caption."""


SETTINGS = {
    "learning_rate": Setting("Rate", "learning rate"),
    "schedule": Setting("Schedule", "schedule"),
    "epochs": Setting("Epochs", "epochs"),
    "batch_size": Setting("Batch", "batch"),
    "weight_decay": Setting("Decay", "weight decay"),
}
"""By their keys in the block `train`."""


def onset(history: pd.DataFrame, guess: Guess) -> float:
    """Return the first epoch whose training loss is more than `ONSET` from those of a guess, NaN where none is."""
    left = history.epoch[(history.train_loss - history.train_loss.clip(*guess)).abs() > ONSET]
    return float(left.min())


def peak_loss(history: pd.DataFrame, guess: Guess) -> float:
    """Return the highest training loss in nats from the onset on, the onset's own included; NaN without onset."""
    return float(history.train_loss[history.epoch >= onset(history, guess)].max())


def final_deviation(history: pd.DataFrame, _: Guess) -> float:
    """Return the standard deviation (n - 1) of validation accuracy over the final epochs, NaN for too few of them."""
    final = history.sort_values("epoch").tail(SETTLED).val_accuracy
    return float(final.std(ddof=1)) if len(final) == SETTLED else math.nan


Value = Callable[[Result, int, Guess], float]
"""Returns a metric of a training, given the number of final epochs that it is a mean over, and losses of a guess."""


def _final(column: str) -> Value:
    """Read a metric off the final epochs of the history."""
    return lambda result, average, _: float(result.final(average)[column].mean())


def _summary(part: str, key: str) -> Value:
    """Read a metric off `summary.json`, NaN where that has null."""
    return lambda result, *_: math.nan if (value := result.summary[part][key]) is None else value


def _dynamics(of: Callable[[pd.DataFrame, Guess], float]) -> Value:
    """Work a metric out from the whole history."""
    return lambda result, _, guess: of(result.history, guess)


@dataclass(frozen=True)
class Metric:
    """A metric of a training: losses in nats, accuracies as fractions."""

    value: Value
    decimals: int
    """In print, once it is multiplied by `scale`."""
    scale: int = 1
    """For people: 100 for per cent of an accuracy, and points of its deviation."""
    part: str = ""
    """Column group in printed tables; empty for metrics only in the CSV."""
    head: str = ""

    @property
    def title(self) -> str:
        """What it is called where it stands alone, such as `validation accuracy`."""
        return f"{self.part} {self.head}".lower()


DYNAMICS = "Dynamics"
"""The part of metrics that say how a training went; the report has a table of their own."""

METRICS = {
    "train_loss": Metric(_final("train_loss"), 3, 1, "Training", "Loss"),
    "train_accuracy": Metric(_final("train_accuracy"), 2, 100, "Training", "Accuracy"),
    "val_loss": Metric(_final("val_loss"), 3, 1, "Validation", "Loss"),
    "val_accuracy": Metric(_final("val_accuracy"), 2, 100, "Validation", "Accuracy"),
    "best_epoch": Metric(_summary("best", "epoch"), 0),
    "best_val_accuracy": Metric(_summary("best", "accuracy"), 2, 100),
    "test_loss": Metric(_summary("test", "loss"), 3),
    "test_accuracy": Metric(_summary("test", "accuracy"), 2, 100, "Test", "Accuracy"),
    "onset": Metric(_dynamics(onset), 0, 1, DYNAMICS, "Onset"),
    "peak_loss": Metric(_dynamics(peak_loss), 3, 1, DYNAMICS, "Peak loss"),
    "val_final_std": Metric(_dynamics(final_deviation), 2, 100, DYNAMICS, "Deviation"),
}
"""By their columns: STEM_mean and STEM_std."""


def shown(dynamics: bool = False) -> dict[str, Metric]:
    """Return the metrics that tables for people have columns for: those of the end, or of how trainings went."""
    return {key: each for key, each in METRICS.items() if each.part and (each.part == DYNAMICS) == dynamics}
