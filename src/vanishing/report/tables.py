"""The tables of a study.

`results/tables/STUDY.csv` is the table for machines: fractions and nats, mean and standard deviation
(n - 1) over the seeds. `STUDY-differences.csv` has the paired differences. `report/tables/` has the same
for people, with the columns on how trainings went in `STUDY-dynamics.tex`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from vanishing import config, files, paths
from vanishing.errors import UserError
from vanishing.report import latex
from vanishing.results import aggregate, differences, store
from vanishing.results.aggregate import DYNAMICS, METRICS, Row

SHOWN = ["train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_accuracy"]
"""Metrics that the report's tables have room for."""

MIXED = r"\dag{}"
"""Marks an n over trainings on both kinds of device."""

SETTINGS: dict[str, tuple[str, str, Callable[[config.Train], str]]] = {
    "learning_rate": ("Rate", "learning rate", lambda train: latex.number(train.learning_rate)),
    "schedule": ("Schedule", "schedule", lambda train: train.schedule.removeprefix("cosine_").replace("_", " ")),
    "batch_size": ("Batch", "batch", lambda train: str(train.batch_size)),
    "weight_decay": ("Decay", "weight decay", lambda train: latex.number(train.weight_decay)),
    "epochs": ("Epochs", "epochs", lambda train: str(train.epochs)),
}
"""Settings that have a column where the runs of a study differ in them, and stand in the caption where not.

Each with the head of its column, its name in the caption, and how it is written.
"""


def make(settings: config.Parameters, keys: Iterable[str] | None = None) -> None:
    """Write the tables of studies, all that have results if `keys` is None; `UserError` if one named has none."""
    found = aggregate.collect(settings, keys)
    for key in keys or []:
        if key not in found:
            raise UserError(f"study {key!r} has no results yet; `snakemake {key}` makes them")
    for key, rows in found.items():
        pairs = list(differences.of_study(settings.studies[key], rows))
        for path, content in (
            (path_of(key), table(rows)),
            (path_of(key, "differences"), differences.table(pairs)),
        ):
            store.write_table(path, content)
        for name, text in (
            (key, tabular(rows)),
            (f"{key}-dynamics", dynamics(rows)),
            (f"{key}-differences", differences.tabular(pairs)),
        ):
            files.write(paths.REPORT / "tables" / f"{name}.tex", text)


def path_of(key: str, kind: str = "") -> Path:
    """Name a table of a study under `results/`."""
    return paths.TABLES / (f"{key}-{kind}.csv" if kind else f"{key}.csv")


def table(rows: list[Row]) -> pd.DataFrame:
    """Return the table of a study: a row a run, each metric with mean and standard deviation over n seeds."""
    return pd.DataFrame([_record(row) for row in rows])


def tabular(rows: list[Row]) -> str:
    """Return the table of a study in LaTeX."""
    columns = differing(rows)
    first = 4 + len(columns)
    head = [
        " & ".join(
            [*("" for _ in range(first - 1)), r"\multicolumn{2}{c}{Training}", r"\multicolumn{2}{c}{Validation}"]
        )
        + r" & Test & \\",
        f"\\cmidrule(lr){{{first}-{first + 1}}}\\cmidrule(lr){{{first + 2}-{first + 3}}}"
        f"\\cmidrule(lr){{{first + 4}-{first + 4}}}",
        " & ".join(
            [
                "Run",
                "Layers",
                "Parameters",
                *(SETTINGS[key][0] for key in columns),
                "Loss",
                "Acc.",
                "Loss",
                "Acc.",
                "Acc.",
            ]
        )
        + r" & $n$ \\",
    ]
    body = [
        [
            latex.code(row.run),
            str(row.results[0].summary["layers"]),
            latex.number(row.results[0].summary["parameters"], 0),
            *(SETTINGS[key][2](row.configuration.train) for key in columns),
            *(text(row, metric) for metric in SHOWN),
            _seeds(row),
        ]
        for row in rows
    ]
    return latex.tabular("lrr" + "r" * len(columns) + "rrrrrl", head, body)


def dynamics(rows: list[Row]) -> str:
    """Return in LaTeX when each run of a study left the loss of a guess, how high its loss rose, and how it settled."""
    head = [r"Run & Onset & Peak loss & Deviation & $n$ \\"]
    body = [
        [latex.code(row.run), _onset(row), *(text(row, name) for name in ("peak_loss", "val_final_std")), _seeds(row)]
        for row in rows
    ]
    return latex.tabular("lrrrl", head, body)


def differing(rows: list[Row]) -> list[str]:
    """List the settings in which the runs of a study differ."""
    return [key for key in SETTINGS if len({getattr(row.configuration.train, key) for row in rows}) > 1]


def common(rows: list[Row]) -> str:
    """Name in LaTeX the settings that all runs of a study share."""
    alike = [SETTINGS[key] for key in SETTINGS if key not in differing(rows)]
    return ", ".join(f"{name} {write(rows[0].configuration.train)}" for _, name, write in alike)


def text(row: Row, metric: str) -> str:
    """Write a metric of a row for people: accuracies in per cent, losses in nats."""
    cell, scale, digits = row.cell(metric), aggregate.scale(metric), aggregate.digits(metric)
    if row.average > 1 and metric in store.HISTORY_COLUMNS and row.completed:
        return latex.bracket(cell.mean * scale, row.uncertainty(metric) * scale, digits)
    return cell.text(scale, digits)


def plain(title: str, rows: list[Row]) -> str:
    """Return the table of a study for a terminal: per cent and nats."""
    shown = table(rows)
    columns = {"run": shown.run, "layers": shown.layers, "rate": shown.learning_rate, "n": shown.n}
    for metric in SHOWN:
        columns[metric] = (shown[f"{metric}_mean"] * aggregate.scale(metric)).round(3)
    columns["status"] = pd.Series([", ".join(endings(row)) or "completed" for row in rows])
    return f"{title}\n{pd.DataFrame(columns).to_string(index=False, na_rep='-')}"


def endings(row: Row) -> list[str]:
    """Name the seeds that diverged or stopped early, with the epochs in which they did."""
    found = []
    for status in ("diverged", "stopped early"):
        epochs = [str(result.summary["epochs"]) for result in row.results if result.summary["status"] == status]
        if epochs:
            found.append(f"{len(epochs)} {status} (epoch {', '.join(epochs)})")
    return found


def _record(row: Row) -> dict[str, object]:
    train = row.configuration.train
    record: dict[str, object] = {
        "run": row.run,
        "layers": row.results[0].summary["layers"],
        "parameters": row.results[0].summary["parameters"],
        "learning_rate": train.learning_rate,
        "schedule": train.schedule,
        "epochs": train.epochs,
        "batch_size": train.batch_size,
        "weight_decay": train.weight_decay,
        "averaged_epochs": row.average,
        "n": len(row.results),
        "diverged": len(row.results) - len(row.completed),
        "devices": " ".join(row.devices),
    }
    for metric in (*METRICS, *DYNAMICS):
        cell = row.cell(metric)
        record |= {f"{metric}_mean": cell.mean, f"{metric}_std": cell.std}
    return record


def _onset(row: Row) -> str:
    """Write the epoch in which a run left the loss of a guess, and how many of its seeds did if not all."""
    epochs = row.values("onset").values()
    left = sum(not math.isnan(epoch) for epoch in epochs)
    return text(row, "onset") + (f" ({left} of {len(epochs)})" if 0 < left < len(epochs) else "")


def _seeds(row: Row) -> str:
    """Write the seeds that a row is over, those that did not train for all epochs, and whether devices are mixed."""
    ended = endings(row)
    count = f"{len(row.completed)}{MIXED if len(row.devices) > 1 else ''}"
    return " + ".join([count, *(text for text in ended if "diverged" in text)]) + "".join(
        f", {text}" for text in ended if "diverged" not in text
    )
