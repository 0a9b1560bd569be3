"""Every published number against ours, and from which of the two schedules a published row came.

`results/comparison/published.csv` has a row for every published figure and run that repeats it, those not run
among them; `schedules.csv` has a row for every published row that was repeated under both schedules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pandas as pd

from vanishing import files, initialisation, latex, parameters, paths, published, published_gradients, results
from vanishing.published import JUDGED, MARGIN, OTHER, Claim, Published

NEARER = 0.5
"""A schedule is taken for the one that was used where its distance is below this share of the other's."""

APART = MARGIN["accuracy"]
"""The other's distance, in points, from which on it counts: nearer than that, both fit."""

SCHEDULES = {"cosine_per_epoch": "per epoch", "cosine_per_iteration": "per iteration"}
"""The two schedules, and what they are called in print."""


@dataclass(frozen=True)
class Attribution:
    """A published row, and its distance from ours under each schedule."""

    source: Published
    distances: dict[str, float]
    """By schedule: mean distance of the printed accuracies from ours, in points."""
    comparable: bool

    @property
    def verdict(self) -> str:
        """The schedule that fits, or why none is named."""
        if not self.comparable:
            return OTHER
        (near, distance), (_, other) = sorted(self.distances.items(), key=lambda item: item[1])
        return SCHEDULES[near] if distance < NEARER * other and other > APART else "cannot tell"


def make(settings: parameters.Parameters) -> None:
    """Write the tables of this comparison."""
    claims = published.everything(settings)
    found = list(attribute(claims))
    results.write_table(paths.COMPARISON / "published.csv", published.table(claims))
    results.write_table(paths.COMPARISON / "schedules.csv", table(found))
    files.write(paths.REPORT / "comparison" / "schedules.tex", tabular(found))
    published_gradients.make(settings)
    initialisation.make(settings)


def attribute(claims: Iterable[Claim]) -> Iterator[Attribution]:
    """Hold every published row against the two schedules, where ours has both and accuracies were printed."""
    by_source: dict[Published, dict[str, list[Claim]]] = {}
    for claim in claims:
        if claim.verdict in (*JUDGED, OTHER) and claim.metric.endswith("accuracy"):
            by_source.setdefault(claim.source, {}).setdefault(claim.schedule, []).append(claim)
    for source, by_schedule in by_source.items():
        if set(by_schedule) == set(SCHEDULES):
            distances = {key: _distance(by_schedule[key]) for key in SCHEDULES}
            comparable = all(claim.comparable for of_one in by_schedule.values() for claim in of_one)
            yield Attribution(source, distances, comparable)


def table(found: Iterable[Attribution]) -> pd.DataFrame:
    """Return a row for each published row: distances in points of accuracy."""
    records = [
        (item.source.report, item.source.table, item.source.runs[0], *item.distances.values(), item.verdict)
        for item in found
    ]
    return pd.DataFrame(records, columns=["report", "table", "run", *SCHEDULES, "verdict"])


def tabular(found: Iterable[Attribution]) -> str:
    """Return the same in LaTeX."""
    head = [
        r"& & \multicolumn{2}{c}{Distance (points)} & \\",
        r"\cmidrule(lr){3-4}",
        r"Source & Run & per epoch & per iteration & Nearer \\",
    ]
    body = [
        [
            f"{item.source.report}, {item.source.table}",
            latex.code(item.source.runs[0]),
            *(latex.number(distance, 2) for distance in item.distances.values()),
            item.verdict,
        ]
        for item in found
    ]
    return latex.tabular("llrrl", head, body)


def _distance(claims: list[Claim]) -> float:
    return sum(abs(claim.difference) for claim in claims) / len(claims)
