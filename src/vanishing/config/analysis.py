"""What the blocks of all analyses of trajectories share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from vanishing.config.block import Block, Name, Positive, Seed


class Analysis(Block):
    """Which trajectories an analysis measures, and on what; `recipe` is the version of its arithmetic."""

    recipe: Literal[1]
    runs: list[Name]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    """Of the runs, those of them that a run is trained with."""
    snapshots: list[Annotated[int, Field(ge=0)]]
    """Epochs, where the trajectory has them; its last is always measured."""
    batches: Positive
    """Number of minibatches, the same for every network and snapshot."""
    batch_size: Positive
    seed: Seed
    """Of the choice of images and of whatever else is drawn."""

    def configuration(self) -> dict[str, Any]:
        """Everything that the measurement of one trajectory depends on, as plain values."""
        return self.model_dump(mode="json", exclude={"runs", "seeds"})
