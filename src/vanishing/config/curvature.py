"""The block `analyses.curvature`: the spectrum of the Hessian."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from vanishing.config.analysis import Analysis
from vanishing.config.block import Positive


class Curvature(Analysis):
    """How `vanishing.analysis.curvature` measures."""

    images: Positive
    """Of the first minibatch, at most so many that the Hessian is of; Adam's second moment is of all minibatches."""
    steps: Annotated[int, Field(ge=2)]
    """Of Lanczos, each a product of the Hessian with a vector: the resolution of the spectrum."""
