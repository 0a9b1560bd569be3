"""The block `analyses.smoothness`: how smooth the loss is along its gradient."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from vanishing.config.analysis import Analysis
from vanishing.config.block import KeyedError, Positive, Rate


class Smoothness(Analysis):
    """How `vanishing.analysis.smoothness` measures; each of the `batches` is a group of images.

    Sizes at or above `batch_size` are left out, since a group is the largest minibatch itself.
    """

    minibatch: Positive
    """Images of a group on which every network is measured."""
    distances: Annotated[list[Rate], Field(min_length=1)]
    """Along the negative gradient, relative to the norm of the kernels."""
    rates: list[Rate]
    """Learning rates of Adam's first step."""
    sizes: list[Positive]
    """Of the minibatches, beside a whole group, over which batch normalisation takes its statistics."""
    size_distance: Rate
    """At which the sizes are compared, like `distances`."""

    @model_validator(mode="after")
    def _whole_minibatches(self) -> Self:
        for size in self.sizes:
            if size < self.batch_size and self.batch_size % size:
                raise KeyedError("sizes", self.sizes, f"divisors of batch_size = {self.batch_size}")
        for key in ("distances", "rates"):
            if getattr(self, key) != sorted(set(getattr(self, key))):
                raise KeyedError(key, getattr(self, key), "each once, the smallest first")
        return self
