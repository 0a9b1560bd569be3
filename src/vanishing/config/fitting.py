"""What has to be smaller in `params.yaml` for a set of few images: the catalogue is made for 50,000."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vanishing.config.data import Folder

FEWEST = 4
"""Training images of a class, validation included: two of each are the least."""

GROUPS = 8
"""Parts of a group of `analyses.smoothness`, which its smaller minibatches divide."""


def of_many_images(content: Any) -> Any:
    """Return plain values with more images than any setting asks for, by which a file is checked before there are any.

    What is no block `data` is left for the check to find.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("data"), Mapping):
        return content
    many = {"train": [10**6] * 1000, "test": [10**6] * 1000, "mean": [0.5] * 3, "std": [0.5] * 3}
    folder = {"title": "images", "sha256": "0" * 64} | many
    return {**content, "data": {**content["data"], "set": "folder", "folder": folder}}


def fitted(content: Mapping[str, Any], folder: Folder, sources: Sequence[str]) -> dict[str, Any]:
    """Return what is laid over plain values for the study of a user's own images.

    It is the block `data`, and every number of images that is larger than there are.
    """
    validation = min(content["data"]["validation_per_class"], max(2, min(folder.train) // 4))
    images = sum(folder.train) - validation * len(folder.train)
    of_class = min(folder.train) - validation
    data: dict[str, Any] = {"set": "folder", "sources": list(sources), "folder": folder.model_dump()}
    sweep = content["trainable_depth"]
    of_sweep = {"images": min(sweep["images"], of_class - 1), "held_out": min(sweep["held_out"], validation - 1)}
    of_sweep["batch_size"] = min(sweep["batch_size"], of_sweep["images"] * len(folder.train))
    wanted = {
        "data": data | {"validation_per_class": validation},
        "train": {"batch_size": min(content["train"]["batch_size"], images)},
        "gradients": _batches(content["gradients"], images),
        "analyses": {name: _batches(block, images) for name, block in content["analyses"].items()},
        "trainable_depth": of_sweep,
        "runs": {name: _run(differences, images) for name, differences in content["runs"].items()},
    }
    return _changed(content, wanted)


def _batches(block: Mapping[str, Any], images: int) -> dict[str, Any]:
    """Return the block of a measurement with minibatches for which there are images."""
    if block["batches"] * block["batch_size"] <= images:
        return {}
    size = min(block["batch_size"], max(2, images // block["batches"]))
    sizes = {}
    if "sizes" in block:
        size -= size % GROUPS if size >= GROUPS else 0
        sizes = {"sizes": [size // part for part in (8, 4, 2) if size % part == 0]}
    batches = min(block["batches"], images // size)
    limits = {"lines": size, "images": size, "minibatch": size, "gradient_batches": batches}
    smaller = {key: min(block[key], most) for key, most in limits.items() if key in block}
    return smaller | sizes | {"batches": batches, "batch_size": size}


def _run(differences: Mapping[str, Any], images: int) -> dict[str, Any]:
    size = (differences.get("train") or {}).get("batch_size", 0)
    return {"train": {"batch_size": images}} if size > images else {}


def _changed(content: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of `wanted` differs from `content`, without empty mappings."""
    found: dict[str, Any] = {}
    for key, value in wanted.items():
        there = content.get(key)
        if isinstance(value, Mapping) and key != "folder":
            if part := _changed(there if isinstance(there, Mapping) else {}, value):
                found[key] = part
        elif value != there:
            found[key] = value
    return found
