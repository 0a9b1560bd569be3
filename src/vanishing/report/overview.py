"""The figure that opens README.md and the report: what goes wrong in a deep plain network, and what cures it.

On the left the gradient flow at initialisation of a few networks, on the right how the same networks train.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from matplotlib.figure import Figure

from vanishing import config
from vanishing.report import figures
from vanishing.results.aggregate import Row

START = "initialisation", config.CORE, "short"
"""Studies that have networks at initialisation, those first that are for it."""

TRAINED = config.CORE, "controls", "short"
"""Studies that show how these train, the longest trainings first."""

Chosen = dict[str, tuple[str, figures.StudyResults]]
"""A run and the study that it is of, by network."""


def draw(settings: config.Parameters, found: Mapping[str, list[Row]]) -> tuple[Figure, list[Row]] | None:
    """Draw the figure from the rows by study, and list those that it shows; None where no such study has results."""
    start = choose(settings, found, START)
    if not start:
        return None
    trained = {network: each for network, each in choose(settings, found, TRAINED).items() if network in start}
    shown = {run for run, _ in (*start.values(), *trained.values())}
    rows = {row.run: row for rows in found.values() for row in rows if row.run in shown}
    return figures.overview(start, trained), list(rows.values())


def choose(settings: config.Parameters, found: Mapping[str, list[Row]], keys: Iterable[str]) -> Chosen:
    """Return for each network a run with the default training, but for its length, from the first study that has it."""
    chosen: Chosen = {}
    for key in (key for key in keys if key in found):
        data = figures.read_study(key, settings)
        for row in found[key]:
            train = row.configuration.train
            if train == settings.train.model_copy(update={"epochs": train.epochs}):
                chosen.setdefault(row.network, (row.run, data))
    return chosen
