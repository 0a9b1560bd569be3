"""The block `analyses.effective_depth`: how many layers a network makes use of."""

from __future__ import annotations

from vanishing.config.analysis import Analysis


class EffectiveDepth(Analysis):
    """How `vanishing.analysis.effective_depth` measures."""
