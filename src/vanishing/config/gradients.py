"""The block `gradients`: on what the gradient flow is measured."""

from __future__ import annotations

from typing import Literal

from vanishing.config.block import Block, Positive, Seed


class Gradients(Block):
    """On what the gradient flow is measured; `recipe` is the version of the arithmetic, as in `Train`."""

    recipe: Literal[2]
    batches: Positive
    batch_size: Positive
    seed: Seed
