"""The block `analyses.signal`: how signal and gradient change from layer to layer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vanishing.config.analysis import Analysis
from vanishing.config.block import Positive


class Signal(Analysis):
    """How `vanishing.analysis.signal` measures."""

    lines: Positive
    """From one image of the first minibatch to the next, as many as it has at most, for the gradient along them."""
    distances: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]
    """From the start of such a line, as shares of its length."""
