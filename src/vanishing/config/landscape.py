"""The block `analyses.landscape`: how the loss looks around a trajectory."""

from __future__ import annotations

from vanishing.config.analysis import Analysis


class Landscape(Analysis):
    """How `vanishing.analysis.landscape` measures."""
