"""The block `analyses.effective_depth`: how many layers a network makes use of."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from vanishing.config.analysis import Analysis
from vanishing.config.block import KeyedError, Positive


class EffectiveDepth(Analysis):
    """How `vanishing.analysis.effective_depth` measures."""

    gradient_batches: Positive
    """Number of minibatches, the first ones, on which the gradient is split by the length of its path."""

    @model_validator(mode="after")
    def _has_its_batches(self) -> Self:
        if self.gradient_batches > self.batches:
            raise KeyedError("gradient_batches", self.gradient_batches, f"at most batches = {self.batches}")
        return self
