"""The block `analyses.landscape`: how the loss looks around a trajectory."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vanishing.config.analysis import Analysis
from vanishing.config.block import Positive, Rate


class Landscape(Analysis):
    """How `vanishing.analysis.landscape` measures."""

    directions: Annotated[int, Field(ge=2)]
    """Random directions, a cut each; the first two span the grid."""
    reach: Rate
    """Of cuts and grid to each side, in units of each filter's norm."""
    cut_steps: Positive
    """From the snapshot to each end of a cut."""
    grid_steps: Positive
    """From the middle of a grid to each side."""
