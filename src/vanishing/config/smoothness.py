"""The block `analyses.smoothness`: how smooth the loss is along its gradient."""

from __future__ import annotations

from vanishing.config.analysis import Analysis


class Smoothness(Analysis):
    """How `vanishing.analysis.smoothness` measures."""
