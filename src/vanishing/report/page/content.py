"""What the page of results shows, as plain values: of every run its configuration, metrics, curves and analyses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from matplotlib.colors import to_hex

from vanishing import config
from vanishing.report import figures
from vanishing.report.why import measured
from vanishing.results import store
from vanishing.results.store import Result

DIGITS = 4
"""Significant digits of what is drawn; the files in `results/` have ten."""

DASHES = {"-": [], "--": [6, 3], "-.": [6, 2, 1, 2], ":": [1, 2]}
"""Line styles as SVG has them, by Matplotlib's names."""

CURVES = ("val_accuracy", "train_accuracy", "val_loss", "train_loss", "learning_rate")
"""Columns of the history that the page has; the first is shown when it opens, as with the next two."""

FLOW = ("mean_abs_gradient", "gradient_weight_ratio")
"""Measures of gradient flow that the page has."""

SMOOTHNESS = ("relative_change", "loss_range", "cosine")
"""Measures of smoothness that the page has."""


def gather(settings: config.Parameters, results: Mapping[str, list[Result]]) -> dict[str, Any]:
    """Return what the script of the page draws from; what is not finite is None.

    Args:
        settings: the parameters.
        results: the complete results of each run, a seed each.
    """
    studies = {key: [run for run in study.runs if run in results] for key, study in settings.studies.items()}
    looks = figures.looks(settings)
    return {
        "chance": {part: settings.data.chance(part)._asdict() for part in ("train", "val")},
        "studies": [
            {"key": key, "title": settings.studies[key].title, "runs": runs} for key, runs in studies.items() if runs
        ],
        # where two runs of a network meet, the script finds another look for one
        "looks": {run: _look(figures.network_look(run, looks)) for run in settings.runs if run in results},
        "menus": {"metric": CURVES, "measure": FLOW, "smoothness-measure": SMOOTHNESS},
        "palette": [_look(look) for look in figures.palette()],
        **_configurations(settings),
        "trainings": [_training(result) for of_run in results.values() for result in of_run],
        "landscape": list(_landscape(settings)),
        "smoothness": list(_smoothness(settings)),
    }


def _look(look: tuple[figures.Colour, str]) -> dict[str, Any]:
    return {"colour": to_hex(look[0]), "dash": DASHES[look[1]]}


def _configurations(settings: config.Parameters) -> dict[str, Any]:
    """Return the settings that all runs share, and those of each run beside them, written as in `params.yaml`."""
    every = {run: dict(config.flat(settings.run(run).configuration())) for run in settings.runs}
    first, *others = every.values()
    shared = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    own = {
        run: {key: config.inline(value) for key, value in of_run.items() if key not in shared}
        for run, of_run in every.items()
    }
    return {"shared": {key: config.inline(value) for key, value in shared.items()}, "configurations": own}


def _training(result: Result) -> dict[str, Any]:
    history = result.history.sort_values("epoch")
    table = store.weight_layers(result.gradients)
    measures = [measure for measure in FLOW if measure in table]
    return {
        "run": result.run,
        "history": {column: _numbers(history[column]) for column in CURVES},
        "snapshots": sorted(table.epoch.unique().tolist()),
        "flow": {name: [_numbers(rows[name]) for _, rows in table.groupby("epoch")] for name in measures},
    }


def _landscape(settings: config.Parameters) -> Iterator[dict[str, Any]]:
    """Yield the cuts with recomputed statistics and the grid of each snapshot whose landscape was measured."""
    for name, rows in _snapshots("landscape", settings):
        cuts = rows[(rows.kind == "cut") & (rows.statistics == "batch")]
        grid = rows[rows.kind == "grid"]
        yield {
            **name,
            "cuts": {column: _numbers(cuts[column]) for column in ("x", "loss")},
            "grid": {column: _numbers(grid[column]) for column in ("x", "y", "loss")},
        }


def _smoothness(settings: config.Parameters) -> Iterator[dict[str, Any]]:
    """Yield what was measured along the gradient of single minibatches of the size that every network has."""
    block = settings.analyses.smoothness
    size = min(block.minibatch, block.batch_size)
    for name, rows in _snapshots("smoothness", settings):
        shown = rows[(rows.kind == "minibatch") & (rows["size"] == size) & (rows.direction == "gradient")]
        yield {**name, **{column: _numbers(shown[column]) for column in ("relative_distance", *SMOOTHNESS)}}


def _snapshots(analysis: str, settings: config.Parameters) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield run, seed and epoch of each snapshot that an analysis has measured, and its rows."""
    keys, found = ["run", "seed", "epoch"], measured.read(analysis, settings)
    for _, rows in found.table.groupby(keys, sort=False) if found else ():
        (record,) = rows[keys].head(1).to_dict("records")
        yield {str(key): value for key, value in record.items()}, rows


def _numbers(column: pd.Series) -> list[float | int | None]:
    """Round a column to `DIGITS` significant digits; whole numbers stay whole, and what is not finite is None."""
    return [_number(value) for value in column.tolist()]


def _number(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e6 else rounded
