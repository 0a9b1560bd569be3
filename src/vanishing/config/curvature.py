"""The block `analyses.curvature`: the spectrum of the Hessian."""

from __future__ import annotations

from vanishing.config.analysis import Analysis


class Curvature(Analysis):
    """How `vanishing.analysis.curvature` measures."""
