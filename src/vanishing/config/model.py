"""The block `model`: a VGG variant."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from vanishing.config.block import Block, KeyedError, Positive

BOTTLENECK = 4
"""Filters of a model for each of those within its bottlenecks (He et al. 2016)."""

Count = Annotated[int, Field(ge=0, le=1000)]

Blocks = Annotated[
    Annotated[Count, Tag("[integer]")] | Annotated[tuple[Count, ...], Field(strict=False), Tag("[list]")],
    Discriminator(lambda value: "[list]" if isinstance(value, list | tuple) else "[integer]"),
]
"""Processing blocks in a stage: a number for all stages, or one for each."""


class Model(Block):
    """A VGG variant; see `vanishing.training.models.VGG`."""

    stages: Annotated[int, Field(ge=1, le=5)]
    blocks: Blocks
    filters: Annotated[int, Field(ge=1, le=4096)]
    activation: Literal["leaky_relu", "relu", "sigmoid", "tanh"]
    norm: Literal["none", "batch", "group"]
    groups: Positive
    convolutions: Literal[2, 3]
    kernel_size: Literal[3, 5]
    shortcut: Literal["none", "identity", "dense"]
    reduction: Literal["plain", "bottleneck"]
    reduction_shortcut: Literal["none", "pool", "convolution", "subsample"]
    initialisation: Literal["default", "he", "orthogonal"]
    gradient_amplification: Annotated[float, Field(ge=1, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if len(self.blocks_by_stage) != self.stages:
            allowed = f"an integer, or a list of one for each of the {self.stages} stages"
            raise KeyedError("blocks", self.model_dump(mode="json")["blocks"], allowed)
        if self.reduction == "bottleneck" and self.filters % BOTTLENECK:
            raise KeyedError("filters", self.filters, f"a multiple of {BOTTLENECK} with reduction = bottleneck")
        if self.norm == "group" and self.filters % self.groups:
            raise KeyedError("groups", self.groups, f"a divisor of filters = {self.filters}")
        if self.norm == "group" and self.reduction == "bottleneck" and self.filters // BOTTLENECK % self.groups:
            allowed = f"a divisor of filters / {BOTTLENECK} = {self.filters // BOTTLENECK} with reduction = bottleneck"
            raise KeyedError("groups", self.groups, allowed)
        if self.shortcut == "dense" and self.reduction_shortcut != "none":
            allowed = "none with shortcut = dense, where reduction blocks read all earlier outputs already"
            raise KeyedError("reduction_shortcut", self.reduction_shortcut, allowed)
        return self

    @property
    def blocks_by_stage(self) -> tuple[int, ...]:
        """Processing blocks in each stage."""
        return (self.blocks,) * self.stages if isinstance(self.blocks, int) else self.blocks

    @property
    def layers(self) -> int:
        """Convolutions and the classifier."""
        reduction = (3 if self.reduction == "bottleneck" else self.convolutions) + (
            self.reduction_shortcut == "convolution"
        )
        return 2 + sum(self.blocks_by_stage) * self.convolutions + self.stages * reduction
