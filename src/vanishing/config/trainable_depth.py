"""The block `trainable_depth`: plain networks of many depths, trained for a short time each."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vanishing.config.block import Block, KeyedError, Positive, Rate, Seed

Layers = Annotated[int, Field(ge=4, le=200, multiple_of=2)]


class Sweep(Block):
    """Networks that differ in their depth, and in the seed of their training."""

    initialisation: Literal["default", "he"]
    precision: Literal["fp32", "bf16"]
    layers: Annotated[list[Layers], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """Of the weights, order and augmentation."""


class TrainableDepth(Block):
    """How `vanishing.analysis.trainable_depth` trains and judges; `recipe` is the version of its arithmetic."""

    recipe: Literal[1]
    sweeps: Annotated[list[Sweep], Field(min_length=1)]
    images: Positive
    """Training images of each class."""
    held_out: Positive
    """Validation images of each class, by which a network is judged."""
    epochs: Annotated[int, Field(ge=1, lt=2**20)]
    """At most: a network that is above `strict_threshold` is not trained further."""
    batch_size: Positive
    learning_rate: Rate
    threads: Annotated[int, Field(ge=1, le=1024)]
    seed: Seed
    """Of the choice of images."""
    threshold: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Standard errors of the validation loss by which it must lie below that of chance."""
    strict_threshold: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    """Another threshold, at least as large, to show what depends on the choice."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.strict_threshold < self.threshold:
            raise KeyedError("strict_threshold", self.strict_threshold, f"at least threshold = {self.threshold:g}")
        return self
