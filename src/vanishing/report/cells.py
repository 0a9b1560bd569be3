"""A metric as people read it: accuracies in per cent, losses in nats, with the decimals that `columns.METRICS` says."""

from __future__ import annotations

import math

from vanishing.report import latex
from vanishing.results import store
from vanishing.results.aggregate import Cell, Row
from vanishing.results.columns import METRICS


def latex_cell(cell: Cell, scale: int = 1, decimals: int = 2) -> str:
    """Write mean and deviation, times `scale`, in LaTeX; a dash for no value."""
    mean = latex.number(cell.mean * scale, decimals)
    return mean if math.isnan(cell.std) else f"{mean} $\\pm$ {latex.number(cell.std * scale, decimals)}"


def latex_metric(row: Row, key: str) -> str:
    """Write a metric of a row in LaTeX: a mean over final epochs with its uncertainty, else with the deviation."""
    metric, cell = METRICS[key], row.cell(key)
    if row.average > 1 and key in store.HISTORY_COLUMNS and row.completed:
        return latex.bracket(cell.mean * metric.scale, row.uncertainty(key) * metric.scale, metric.decimals)
    return latex_cell(cell, metric.scale, metric.decimals)


def plain_metric(row: Row, key: str) -> tuple[str, str]:
    """Write mean and deviation of a metric of a row as plain text; each is empty where there is none."""
    metric, cell = METRICS[key], row.cell(key)
    mean, std = (
        "" if math.isnan(each) else f"{each * metric.scale:.{metric.decimals}f}" for each in (cell.mean, cell.std)
    )
    return mean, std
