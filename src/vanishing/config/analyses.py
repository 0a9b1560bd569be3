"""The block `analyses`: what is measured along trajectories, a block each."""

from __future__ import annotations

from vanishing.config.analysis import Analysis
from vanishing.config.block import Block
from vanishing.config.curvature import Curvature
from vanishing.config.effective_depth import EffectiveDepth
from vanishing.config.landscape import Landscape
from vanishing.config.signal import Signal
from vanishing.config.smoothness import Smoothness


class Analyses(Block):
    """Every analysis; the order is that of the report."""

    signal: Signal
    smoothness: Smoothness
    landscape: Landscape
    curvature: Curvature
    effective_depth: EffectiveDepth

    def __getitem__(self, name: str) -> Analysis:
        """Return the block of an analysis; `KeyError` if there is none."""
        found: Analysis = dict(self)[name]
        return found
