"""The spread between trainings that a run with few seeds borrows from other runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vanishing.results import columns, statistics
from vanishing.results.aggregate import Row
from vanishing.results.statistics import Spread

LENDERS = {"constant": "cosine_per_iteration"}
"""Whose spread a schedule borrows where rows of its own lend none: the other one that does not anneal."""


@dataclass(frozen=True)
class Pool:
    """What the rows of a study lend."""

    rows: tuple[Row, ...]

    def spread(self, row: Row, metric: str) -> Spread | None:
        """Return the spread of rows like `row`: at chance those at chance, else those that learn; see `of_learners`."""
        if not row.at_chance:
            return self.of_learners(row, metric)
        return self._pooled([other for other in self.rows if other.at_chance], row, metric)

    def of_learners(self, row: Row, metric: str) -> Spread | None:
        """Return the spread over seeds of rows that learn, with every seed, under the schedule of `row`.

        It is in per cent or nats, of means over as many final epochs, pooled over the rows with two seeds or more. None
        where there is no such row, or where all their trainings agree: a few can have the same accuracy by chance, and
        their interval would have no width.
        """
        found = self._pooled([other for other in self.rows if other.learns], row, metric)
        return found if found and found.std else None

    def loss_std(self, row: Row) -> float | None:
        """Return the standard deviation of the validation loss over images: the run's own, or else that of the rows."""
        found = _loss_stds([row]) or _loss_stds(other for other in self.rows if other.at_chance == row.at_chance)
        return math.sqrt(sum(each**2 for each in found) / len(found)) if found else None

    @staticmethod
    def _pooled(lenders: Sequence[Row], row: Row, metric: str) -> Spread | None:
        own = _schedule(row)
        for schedule in (own, LENDERS.get(own)):
            alike = (replace(other, average=row.average) for other in lenders if _schedule(other) == schedule)
            if found := statistics.pool([scaled(other, metric) for other in alike]):
                return found
        return None


def _schedule(row: Row) -> str:
    return row.configuration.train.schedule


def scaled(row: Row, metric: str) -> list[float]:
    """List a metric of each completed seed, in per cent or nats, as far as it is finite."""
    values = row.values(metric).values()
    return [each * columns.METRICS[metric].scale for each in values if math.isfinite(each)]


def _loss_stds(rows: Iterable[Row]) -> list[float]:
    """List the standard deviation of the validation loss over images of each training that says it."""
    found = (result.summary["validation"].get("loss_std") for row in rows for result in row.completed)
    return [each for each in found if each is not None]
