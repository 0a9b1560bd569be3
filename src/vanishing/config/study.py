"""The block `studies`: runs that answer one question."""

from __future__ import annotations

from collections.abc import Container
from typing import Annotated, Literal

from pydantic import Field

from vanishing.config.block import LATIN, Block, Name, Positive, Seed

CORE = "core"
"""The study that the report and README.md are about, and whose spread published values are judged by."""


class Study(Block):
    """Runs that answer one question: a table, figures, a section of the report and a target of Snakemake."""

    title: Annotated[str, Field(min_length=1, max_length=120, pattern=LATIN)]
    runs: Annotated[list[Name], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)] | None = None
    """Of its runs; None for the seeds of `Parameters`."""
    average: Positive = 1
    """Final epochs that its table takes the mean of."""
    compare: list[Annotated[list[Name], Field(min_length=2, max_length=2)]] | None = None
    """Pairs whose difference is given; None for each run against the first."""
    draw: Annotated[list[Literal["training", "gradient_flow"]], Field(min_length=1)] = ["training", "gradient_flow"]

    def missing(self, present: Container[str]) -> list[str]:
        """List its runs that are not among those present, in its order."""
        return [run for run in self.runs if run not in present]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of runs (a, b) of which a - b is of interest."""
        if self.compare is None:
            return [(run, self.runs[0]) for run in self.runs[1:]]
        return [(first, second) for first, second in self.compare]
