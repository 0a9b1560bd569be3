"""The figure that opens README.md and the report: what goes wrong in a deep plain network, and what cures it.

On the left the gradient flow at initialisation of a few networks, on the right how the same networks train.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from matplotlib.figure import Figure

from vanishing import config
from vanishing.report import figures
from vanishing.results.aggregate import Row

START = "initialisation", "core", "short"
"""Studies whose networks the figure shows: the first that has results."""

TRAINED = "core", "short"
"""Studies that show how these train, the longest trainings first."""


def draw(settings: config.Parameters, found: Mapping[str, list[Row]]) -> tuple[Figure, list[Row]] | None:
    """Draw the figure from the rows by study, and list those that it shows; None where no such study has results."""
    key = next((key for key in START if key in found), None)
    labels: dict[str, str] = {}
    for row in found[key] if key else []:
        if row.network not in labels.values() and _is_default(row, settings):
            labels[row.run] = row.network
    if not key or not labels:
        return None
    trained = training_of(settings, found, labels.values())
    shown = {*labels, *(run for run, _ in trained.values())}
    rows = {row.run: row for rows in found.values() for row in rows if row.run in shown}
    return figures.overview(figures.read_study(key, settings), labels, trained), list(rows.values())


def training_of(
    settings: config.Parameters, found: Mapping[str, list[Row]], networks: Collection[str]
) -> dict[str, tuple[str, figures.StudyResults]]:
    """Return for each network a run with the default training, from the first study of `TRAINED` that has it."""
    chosen: dict[str, tuple[str, figures.StudyResults]] = {}
    for key in (each for each in TRAINED if each in found):
        data = figures.read_study(key, settings)
        for row in found[key]:
            if row.network in networks and _is_default(row, settings):
                chosen.setdefault(row.network, (row.run, data))
    return chosen


def _is_default(row: Row, settings: config.Parameters) -> bool:
    """Whether a run trains as runs do by default, but for the number of epochs."""
    train = row.configuration.train
    return train == settings.train.model_copy(update={"epochs": train.epochs})
