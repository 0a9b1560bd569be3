"""The block `analyses.signal`: how signal and gradient change from layer to layer."""

from __future__ import annotations

from vanishing.config.analysis import Analysis


class Signal(Analysis):
    """How `vanishing.analysis.signal` measures."""
