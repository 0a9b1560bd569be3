"""The block `analyses.effective_depth`: how many layers a network makes use of."""

from __future__ import annotations

from vanishing.config.analysis import Analysis
from vanishing.config.block import Positive


class EffectiveDepth(Analysis):
    """How `vanishing.analysis.effective_depth` measures."""

    gradient_batches: Positive
    """Number of minibatches, the first ones, on which the gradient is split by the length of its path."""
