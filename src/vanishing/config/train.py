"""The block `train`: how a run is trained."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vanishing.config.block import Block, KeyedError, Positive, Rate


class Train(Block):
    """How a run is trained; see `vanishing.training.loop.train`.

    `recipe` is the version of the arithmetic: whoever changes the weights that a configuration gives raises
    it here and in `params.yaml`, and both engines train again.
    """

    recipe: Literal[1]
    epochs: Annotated[int, Field(ge=1, lt=2**20)]  # beyond, two seeds would draw alike: `augmentation.draw`
    batch_size: Positive
    learning_rate: Rate
    final_learning_rate: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    schedule: Literal["cosine_per_epoch", "cosine_per_iteration", "constant"]
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    l1: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    patience: Annotated[int, Field(ge=0)]
    precision: Literal["fp32", "tf32", "bf16"]
    device: Literal["auto", "cpu", "cuda"]
    kernels: Literal["pytorch", "fused"]
    threads: Annotated[int, Field(ge=1, le=1024)]
    snapshots: list[Positive]

    @model_validator(mode="after")
    def _decay(self) -> Self:
        if self.schedule != "constant" and self.final_learning_rate > self.learning_rate:
            allowed = f"at most learning_rate = {self.learning_rate:g}"
            raise KeyedError("final_learning_rate", self.final_learning_rate, allowed)
        return self

    @property
    def snapshot_epochs(self) -> tuple[int, ...]:
        """Epochs whose weights are kept: the initialisation, the chosen ones within reach, and the last."""
        return tuple(sorted({0, self.epochs, *(e for e in self.snapshots if e <= self.epochs)}))
