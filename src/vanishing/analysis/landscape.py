"""The loss landscape around a snapshot (Li et al. 2018, "Visualizing the loss landscape of neural nets").

Random directions are normalised filter by filter, so that a step of 1 is as long as the filter itself and networks
whose weights have different scales can be compared. The plane of the trajectory shows where training went.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from vanishing import config, paths
from vanishing.analysis import gradient_flow
from vanishing.analysis.snapshots import Snapshot
from vanishing.analysis.vectors import Batches, flat, split
from vanishing.training import checkpoints

Weights = Mapping[str, Tensor]
"""Trainable parameters of a network, or a direction among them, by name."""

Evaluate = Callable[[Iterable[Weights]], np.ndarray]
"""Maps points in weight space to their losses in nats and accuracies as fractions, (points, 2)."""

COLUMNS = {
    "kind": "cut: along one random direction; grid: in the plane of the first two; plane: in the plane of the "
    "trajectory's first two principal components; path: the trajectory's snapshots; component: of the trajectory",
    "statistics": "what batch normalisation divides by: batch, recomputed on each minibatch at every point; running, "
    "as the snapshot has stored it",
    "direction": "number of the random direction of a cut, or of the principal component, from 1",
    "x": "step along the first direction: in units of each filter's norm (cut, grid), or of length (plane, path)",
    "y": "step along the second direction, in the same unit",
    "at": "epoch of a snapshot on the path",
    "loss": "mean cross-entropy in nats",
    "accuracy": "share of the images that are classified correctly",
    "share": "share of the trajectory's variance along a component",
}
"""What each column of `landscape.csv` means; cells that do not apply to a kind of row are empty."""

POINTS = {"cpu": 1, "cuda": 27}
"""Points that a device evaluates at once: on a GPU a cut of 17 in one pass, a grid of 81 in three.

A point takes 65 MB, measured on a CPU with vgg38_bn_rc and 100 images; memory and time on a GPU have not been measured.
On a CPU points are evaluated one by one, which took half as long there.
"""

PLANE = 3
"""Snapshots that span a plane."""

MARGIN = 0.2
"""By which the plane reaches over the path on each side, as a share of the path's extent."""


class Plane(NamedTuple):
    """The principal components of a trajectory."""

    components: Tensor
    """Unit vectors, (components, parameters), the one of largest variance first."""
    shares: Tensor
    """Of the variance, (components,)."""
    path: Tensor
    """The snapshots seen from the last one, (snapshots, components)."""


PRECISION: Literal["fp32", "fp64"] = "fp32"
"""Of the passes through the model."""


def passes(settings: config.Landscape, _: config.Model, snapshots: int) -> float:
    """Return the arithmetic of so many snapshots, in forward passes of one image, but for those along the path."""
    cut, grid = 2 * settings.cut_steps + 1, (2 * settings.grid_steps + 1) ** 2
    points = snapshots * settings.directions * cut + (snapshots - 1) * cut + 2 * grid
    return float(settings.batches * settings.batch_size * points)


def measure(snapshot: Snapshot, settings: config.Landscape) -> pd.DataFrame:
    """Measure the landscape around a snapshot: cuts always, grid and plane at the last one.

    A trajectory of fewer than three snapshots lies on a line, and has no plane.

    Args:
        snapshot: the network, its trajectory and the minibatches.
        settings: number of directions, points and reach; see `params.yaml`.

    Returns:
        A row a point, with the columns of `COLUMNS`.

    Raises:
        CheckpointError: if a snapshot of the trajectory is damaged, or not of the run's model.
    """
    # on a CPU, a third faster than channels first, and the same but for the last bits of single precision
    model = snapshot.model.to(memory_format=torch.channels_last)
    centre = {name: weight.detach() for name, weight in model.named_parameters()}
    steps = [(x,) for x in _span(-settings.reach, settings.reach, settings.cut_steps)]
    axes = [random_direction(centre, number, settings.seed) for number in range(1, settings.directions + 1)]
    at_once = POINTS[snapshot.batches[0][0].device.type]
    batch, running = (evaluation(model, snapshot.batches, running, at_once) for running in (False, True))
    tables = [
        sample(batch, centre, [axis], steps).assign(kind="cut", statistics="batch", direction=number)
        for number, axis in enumerate(axes, start=1)
    ]
    if snapshot.epoch:  # the initialisation has no running statistics yet
        cut = sample(running, centre, axes[:1], steps)
        tables.append(cut.assign(kind="cut", statistics="running", direction=1))
    if snapshot.epoch == snapshot.epochs[-1]:
        coarse = _span(-settings.reach, settings.reach, settings.grid_steps)
        grid = sample(batch, centre, axes[:2], itertools.product(coarse, coarse))
        tables.append(grid.assign(kind="grid", statistics="batch"))
        tables += _trajectory(snapshot, centre, batch, settings.grid_steps)
    return pd.concat(tables, ignore_index=True).reindex(columns=list(COLUMNS))


def random_direction(weights: Weights, number: int, seed: int) -> dict[str, Tensor]:
    """Draw a direction whose every filter has the norm of the network's filter (Li et al. 2018, section 4).

    A filter is what makes one output: of a convolution (inputs, height, width), of a linear layer (inputs,). Biases and
    the parameters of normalisations stay where they are, as in the authors' code: their direction is 0.

    Args:
        weights: the network's parameters, on any device.
        number: of the direction.
        seed: of all directions. A weight's values depend on it, on `number` and on the weight's name and shape alone,
            so that networks share directions, up to their norms, wherever they share weights.
    """
    return {name: _draw(name, weight, number, seed).to(weight) for name, weight in weights.items()}


def _draw(name: str, weight: Tensor, number: int, seed: int) -> Tensor:
    shape = tuple(weight.shape)
    if len(shape) < 2:
        return torch.zeros(shape)
    digest = hashlib.sha256(f"{seed} {number} {name} {shape}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
    return normalise_filters(torch.randn(shape, generator=generator, dtype=torch.float64), weight)


def normalise_filters(direction: Tensor, weight: Tensor) -> Tensor:
    """Scale each filter of a direction, (outputs, ...), to the L2 norm of the same filter of `weight`; on the CPU."""
    filters, like = (tensor.double().cpu().flatten(1) for tensor in (direction, weight))
    scale = like.norm(dim=1, keepdim=True) / filters.norm(dim=1, keepdim=True)
    scaled: Tensor = (filters * scale).reshape(direction.shape)
    return scaled


def evaluation(model: nn.Module, batches: Batches, running: bool = False, at_once: int = 1) -> Evaluate:
    """Return a function that maps points to loss and accuracy on the minibatches, summed in double precision.

    Args:
        model: whose weights are replaced; it and its buffers stay as they are, its mode does not.
        batches: images and labels, on the model's device.
        running: use the model's running statistics. Otherwise batch normalisation recomputes its statistics on each
            minibatch, as in training: at other weights those of the snapshot are wrong.
        at_once: points in a pass.
    """
    images = sum(len(labels) for _, labels in batches)

    @torch.no_grad()
    def evaluate(points: Iterable[Weights]) -> np.ndarray:
        model.train(not running)
        found, left = [], iter(points)
        while some := list(itertools.islice(left, at_once)):
            sums = np.zeros((len(some), 2))
            for inputs, labels in batches:
                for at, logits in enumerate(_logits(model, some, inputs).double()):
                    loss = functional.cross_entropy(logits, labels, reduction="sum").item()
                    sums[at] += loss, (logits.argmax(dim=1) == labels).sum().item()
            found.append(sums / images)
        return np.concatenate(found)

    return evaluate


def _logits(model: nn.Module, points: Sequence[Weights], inputs: Tensor) -> Tensor:
    """Return the logits at each point, (points, images, classes)."""
    # with buffers of their own, which a training pass changes
    states = [{**point, **{name: buffer.clone() for name, buffer in model.named_buffers()}} for point in points]
    forward = partial(functional_call, model, args=(inputs,))
    if len(states) == 1:
        logits: Tensor = forward(states[0])[None]
    else:
        logits = torch.vmap(forward)({name: torch.stack([state[name] for state in states]) for name in states[0]})
    return logits


def sample(
    evaluate: Evaluate, centre: Weights, axes: Sequence[Weights], points: Iterable[Sequence[float]]
) -> pd.DataFrame:
    """Evaluate at `centre` + x `axes[0]` + y `axes[1]` for each point (x, y), or (x,) along one axis."""
    steps = list(points)
    weights = (
        {
            name: weight + sum(step * axis[name] for step, axis in zip(point, axes, strict=True))
            for name, weight in centre.items()
        }
        for point in steps
    )
    columns = [*["x", "y"][: len(axes)], "loss", "accuracy"]
    return pd.DataFrame(np.column_stack([steps, evaluate(weights)]), columns=columns)


def trajectory_plane(snapshots: Tensor) -> Plane:
    """Find the principal components of a trajectory, of which Li et al. 2018 (section 7.2) take the first two.

    Args:
        snapshots: weights in double precision, (snapshots, parameters), the last one last.

    Returns:
        One component fewer than there are snapshots. The coordinate of largest size along each is positive.
    """
    _, sizes, components = torch.linalg.svd(snapshots - snapshots.mean(dim=0), full_matrices=False)
    sizes, components = sizes[:-1], components[:-1]  # what is centred has one dimension fewer
    path = (snapshots - snapshots[-1]) @ components.T
    largest = path.gather(0, path.abs().argmax(dim=0, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0)
    variance = sizes.square()
    return Plane(components * signs.T, variance / variance.sum(), path * signs)


def _trajectory(snapshot: Snapshot, centre: Weights, evaluate: Evaluate, steps: int) -> list[pd.DataFrame]:
    """Measure the plane of a trajectory's first two components through its last snapshot, and along its path."""
    epochs = gradient_flow.snapshot_epochs(snapshot.folder)
    if len(epochs) < PLANE:
        return []
    snapshots = [_weights(snapshot, epoch) for epoch in epochs]
    plane = trajectory_plane(torch.stack([flat(weights.values()).cpu() for weights in snapshots]))
    axes = [_direction(component, centre) for component in plane.components[:2]]
    x, y = (_around(plane.path[:, at], steps) for at in (0, 1))
    surface = sample(evaluate, centre, axes, itertools.product(x, y))
    path = pd.DataFrame(evaluate(snapshots), columns=["loss", "accuracy"])
    path = path.assign(at=epochs, x=plane.path[:, 0].numpy(), y=plane.path[:, 1].numpy())
    shares = pd.DataFrame({"direction": range(1, len(epochs)), "share": plane.shares.numpy()})
    return [
        surface.assign(kind="plane", statistics="batch"),
        path.assign(kind="path", statistics="batch"),
        shares.assign(kind="component"),
    ]


def _weights(snapshot: Snapshot, epoch: int) -> dict[str, Tensor]:
    """Load the trainable parameters of a snapshot of the trajectory."""
    model = copy.deepcopy(snapshot.model)
    checkpoints.load_weights(paths.snapshot(snapshot.folder, epoch), model)
    return {name: weight.detach() for name, weight in model.named_parameters()}


def _direction(vector: Tensor, weights: Weights) -> dict[str, Tensor]:
    parts = split(vector, list(weights.values()))
    return {name: part.to(weights[name]) for name, part in zip(weights, parts, strict=True)}


def _around(path: Tensor, steps: int) -> list[float]:
    """Return coordinates that reach beyond the path on both sides."""
    low, high = path.min().item(), path.max().item()
    margin = MARGIN * (high - low)
    return _span(low - margin, high + margin, steps)


def _span(low: float, high: float, steps: int) -> list[float]:
    """Return coordinates with so many steps from the middle to each end; the middle of -1 and 1 is exactly 0."""
    middle, half = (low + high) / 2, (high - low) / 2
    return [middle + half * step / steps for step in range(-steps, steps + 1)]
