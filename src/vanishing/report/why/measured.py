"""What an analysis has measured of all its trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from vanishing import config, paths
from vanishing.errors import UserError
from vanishing.report import figures
from vanishing.results import store


@dataclass(frozen=True)
class Measured:
    """The measurements of an analysis, and how to show them."""

    table: pd.DataFrame
    """`run` and `seed`, then the columns of the files."""
    runs: list[str]
    """Runs that have measurements, in the order of the block."""
    looks: dict[str, tuple[figures.Colour, str]]
    """Colour and line style of each run."""
    settings: config.Parameters


def read(name: str, settings: config.Parameters) -> Measured | None:
    """Read what an analysis has measured, or the sweep over depths; None where there is nothing yet.

    What stands in `results/` of runs that are not of today's configuration is left out.

    Raises:
        UserError: if a file cannot be read.
    """
    if name == "trainable_depth":
        there = paths.TRAINABLE_DEPTH.exists()
        return Measured(_read(paths.TRAINABLE_DEPTH), [], {}, settings) if there else None
    tables = []
    for run, seed in settings.analysed(name):
        path = paths.analysis(name, run, seed)
        if path.exists() and store.is_available(settings, run, seed):
            tables.append(_read(path).assign(run=run, seed=seed))
    if not tables:
        return None
    table = pd.concat(tables, ignore_index=True)
    table = table[["run", "seed", *(column for column in table if column not in {"run", "seed"})]]
    runs = [run for run in settings.analyses[name].runs if (table.run == run).any()]
    return Measured(table, runs, figures.looks(settings), settings)


def save(name: str, drawn: Mapping[str, Figure]) -> None:
    """Save the figures of an analysis for the report."""
    figures.save({f"{name}-{figure}": drawn[figure] for figure in drawn}, paths.WHY / "parts")


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a table: {' '.join(str(error).split())}; build it again") from None
