"""What an analysis has measured of all its trajectories."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from vanishing import config, paths
from vanishing.errors import UserError
from vanishing.report import figures
from vanishing.results import store
from vanishing.results.initial_gradients import network_of


@dataclass(frozen=True)
class Measured:
    """The measurements of an analysis, and how to show them."""

    table: pd.DataFrame
    """`run` and `seed`, then the columns of the files."""
    runs: list[str]
    """Runs of the block of parameters, in its order; some may have no measurements."""
    looks: dict[str, tuple[figures.Colour, str]]
    """Colour and line style of each run."""
    settings: config.Parameters

    @property
    def networks(self) -> dict[str, str]:
        """For each network the measured run that trains for most epochs, in the order of the block of parameters."""
        trainings: dict[str, list[str]] = {network_of(run): [] for run in self.runs}
        for run in self.runs:
            if (self.table.run == run).any():
                trainings[network_of(run)].append(run)
        epochs = {run: self.settings.run(run).train.epochs for run in self.runs}
        return {network: max(runs, key=epochs.__getitem__) for network, runs in trainings.items() if runs}

    def rows(self, run: str) -> pd.DataFrame:
        """Return what is measured of a run."""
        return self.table[self.table.run == run]

    def means(self, run: str, *keys: str) -> pd.DataFrame:
        """Return what is measured of a run as means over the seeds, a row for each combination of `keys`."""
        rows = self.rows(run).drop(columns=["run", "seed"])
        return rows.groupby(list(keys), sort=False, dropna=False).mean().reset_index()

    def look(self, run: str) -> dict[str, Any]:
        """Return `color` and `linestyle` of the full training of a run's network, which no other network has.

        Where no full training is configured, they are the run's own.
        """
        colour, dashes = figures.network_look(run, self.looks)
        return {"color": colour, "linestyle": dashes}


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
        if path.exists() and store.is_trained(settings, run, seed):
            tables.append(_read(path).assign(run=run, seed=seed))
    if not tables:
        return None
    table = pd.concat(tables, ignore_index=True)
    table = table[["run", "seed", *(column for column in table if column not in {"run", "seed"})]]
    return Measured(table, settings.analyses[name].runs, figures.looks(settings), settings)


def save(name: str, drawn: Mapping[str, Figure]) -> None:
    """Save the figures of an analysis for the report."""
    figures.save({f"{name}-{figure}": drawn[figure] for figure in drawn}, paths.WHY / "parts")


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a table: {' '.join(str(error).split())}; build it again") from None
