"""The effective configuration of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vanishing.config.block import Block
from vanishing.config.data import Data
from vanishing.config.model import Model
from vanishing.config.strict_yaml import merge
from vanishing.config.train import Train


class Run(Block):
    """The effective configuration of one run: the defaults with the run's differences laid over them."""

    data: Data
    model: Model
    train: Train

    def configuration(self) -> dict[str, Any]:
        """Everything that the run's numbers depend on, as plain values."""
        return {
            "data": self.data.configuration(),
            "model": self.model.model_dump(mode="json"),
            "train": self.train.model_dump(mode="json"),
        }


ADDED = {"model": {"kernel_size": 3, "reduction": "plain"}, "train": {"kernels": "pytorch"}}
"""Keys of `Run.configuration` that are younger than some summaries, with the value that those were made with."""


def completed(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return a summary's configuration with the keys that were added after it was written."""
    return merge(ADDED, configuration)


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the keys, dotted, in which two configurations differ, with both values; None where one has no such key."""
    left, right = dict(flat(first)), dict(flat(second))
    pairs = {key: (left.get(key), right.get(key)) for key in left | right}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def flat(configuration: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting of a configuration by its dotted key."""
    for key, value in configuration.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
