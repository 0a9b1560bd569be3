"""Smoothness: how much the loss and its gradient change along a step, and how that depends on the minibatch.

The measures are those of Santurkar et al. 2018, "How Does Batch Normalization Help Optimization?": from the weights of
a snapshot, in training mode, along the negative gradient of the same loss. Distances are relative to the weights and
alike for all networks: gradients differ by orders of magnitude, so that a rate times the gradient would hardly move a
plain network, and throw another one far away.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from statistics import fmean
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from vanishing import config
from vanishing.analysis.snapshots import Snapshot
from vanishing.analysis.vectors import Batch, Batches, Loss, cosine, flat, split, trainable
from vanishing.results.depth_prediction import EPSILON

Row = dict[str, Any]
Step = tuple[str, float]

COLUMNS = {
    "kind": "minibatch: the loss of one minibatch; landscape: the mean over all minibatches of a group of images",
    "size": "images in a minibatch, over which batch normalisation takes its statistics",
    "group": "number of the group of images, from 0; the same images in every run and snapshot",
    "direction": "gradient: the negative gradient; adam: the first step of Adam, -g / (|g| + 1e-8)",
    "step": "along the gradient, the relative distance; for adam, the learning rate",
    "distance": "L2 distance from the snapshot's weights, over all parameters",
    "relative_distance": "distance over the L2 norm of all kernels (convolutions and classifier)",
    "start_loss": "loss at the snapshot's weights, nats",
    "gradient_norm": "L2 norm of the gradient at the snapshot's weights",
    "classifier_share": "share of the classifier, kernel and bias, in gradient_norm squared",
    "loss": "loss at this distance, nats",
    "loss_range": "largest less smallest loss on the path from the snapshot's weights to here, nats",
    "gradient_change": "L2 distance between the gradient here and that at the snapshot's weights",
    "relative_change": "gradient_change over gradient_norm",
    "cosine": "of the angle between these two gradients",
    "layer_cosine": "the same within the kernel of a layer, mean over the layers",
    "beta": "effective beta: the largest gradient_change / distance on the path to here",
    "agreement": "cosine between the gradient at the snapshot's weights and that of the landscape of the largest size",
}
"""What each column means, with its unit."""


@dataclass(frozen=True)
class Point:
    """Loss in nats, and gradient of all parameters as one vector in double precision, (parameters,)."""

    loss: float
    gradient: Tensor


class Landscape:
    """The mean loss of minibatches of equal size, as a function of a model's parameters, in training mode.

    Batch statistics are those of each minibatch. Losses and sums over minibatches and parameters are in double
    precision; the passes through the model in that of its parameters.

    Args:
        model: any module; it stays as it is.
        minibatches: pairs of the model's input and the target of `loss`.
        loss: maps (output, target) to a scalar, the mean over the images.
    """

    def __init__(self, model: nn.Module, minibatches: Batches, loss: Loss = functional.cross_entropy) -> None:
        self._model, self._parameters = trainable(model)
        self._minibatches, self._loss = minibatches, loss
        self.weights = flat(self._parameters)
        first = max(at for at, each in enumerate(self._parameters) if each.dim() >= 2)
        self._classifier = sum(each.numel() for each in self._parameters[first:])

    def at(self, weights: Tensor) -> Point:
        """Evaluate at these parameters, a vector like `weights`."""
        for parameter, values in zip(self._parameters, split(weights, self._parameters), strict=True):
            parameter.data.copy_(values)
        losses, gradient = [], torch.zeros_like(self.weights)
        for inputs, targets in self._minibatches:
            value = self._loss(self._model(inputs).double(), targets)
            found = torch.autograd.grad(value, self._parameters, allow_unused=True, materialize_grads=True)
            losses.append(value.item())
            gradient += flat(found)
        return Point(sum(losses) / len(losses), gradient / len(losses))

    def kernels(self, vector: Tensor) -> list[Tensor]:
        """Cut the kernels of convolutions and linear layers out of a vector like `weights`, in forward order."""
        return [part.flatten() for part in split(vector, self._parameters) if part.dim() >= 2]

    def classifier(self, vector: Tensor) -> Tensor:
        """Cut the last kernel, and the bias that belongs to it, out of a vector like `weights`."""
        return vector[-self._classifier :]

    def scale(self) -> float:
        """Return the L2 norm of all kernels.

        Gains and biases are left out: a gain of 1 for each channel would double the norm of a network with batch
        normalisation, and with it every relative distance.
        """
        return float(torch.cat(self.kernels(self.weights)).norm())


def path(landscape: Landscape, start: Point, steps: Sequence[Step], reference: Tensor | None) -> list[Row]:
    """Measure a landscape at steps from its weights, where it is `start`; each direction is a path of its own.

    Args:
        landscape: what to measure.
        start: its value at its weights.
        steps: pairs of a direction and a size, by direction, the shortest first.
        reference: the gradient to compare that of `start` with, (parameters,); None for none.

    Returns:
        For each step the columns of `COLUMNS` from `direction` on; what is not finite stays so.
    """
    rows: list[Row] = []
    size, parts = start.gradient.norm(), landscape.kernels(start.gradient)
    shared = {
        "start_loss": start.loss,
        "gradient_norm": float(size),
        "classifier_share": float((landscape.classifier(start.gradient).norm() / size) ** 2),
        "agreement": math.nan if reference is None else float(cosine(start.gradient, reference)),
    }
    for direction, group in itertools.groupby(steps, key=itemgetter(0)):
        losses, betas = [start.loss], []
        for _, step in group:
            displacement = _displacement(landscape, start.gradient, direction, step)
            point = landscape.at(landscape.weights + displacement)
            distance, change = float(displacement.norm()), float((point.gradient - start.gradient).norm())
            losses.append(point.loss)
            betas.append(change / distance)
            here = landscape.kernels(point.gradient)
            row = {
                "direction": direction,
                "step": step,
                "distance": distance,
                "relative_distance": distance / landscape.scale(),
                "loss": point.loss,
                "loss_range": float(np.ptp(losses)),
                "gradient_change": change,
                "relative_change": change / float(size),
                "cosine": float(cosine(point.gradient, start.gradient)),
                "layer_cosine": fmean(map(float, map(cosine, here, parts))),
                "beta": float(np.max(betas)),
            }
            rows.append(shared | row)
    return rows


PRECISION: Literal["fp32", "fp64"] = "fp32"
"""Of the passes through the model."""


def passes(settings: config.Smoothness, model: config.Model, snapshots: int) -> float:
    """Return the arithmetic of so many snapshots, in forward passes of one image; a gradient costs three."""
    images = (1 + len(settings.distances) + len(settings.rates)) * min(settings.minibatch, settings.batch_size)
    if _by_its_sizes(model):
        sizes = {size for size in settings.sizes if size < settings.batch_size}
        images += 2 * (settings.batch_size * (1 + len(sizes)) + sum(sizes))
    return float(3 * snapshots * settings.batches * images)


def measure(snapshot: Snapshot, settings: config.Smoothness) -> pd.DataFrame:
    """Measure a snapshot on every group of images.

    Every network is measured on one minibatch of each group. Of networks whose only cure is batch normalisation, as r2
    trained them, minibatches and landscapes of all sizes are measured as well. At the same weights and on the same
    images, the landscapes of two sizes differ by what batch normalisation makes of the size, and by nothing else.
    """
    steps = [("gradient", step) for step in settings.distances] + [("adam", step) for step in settings.rates]
    rows: list[Row] = []
    for group, (inputs, targets) in enumerate(snapshot.batches):
        landscape = Landscape(snapshot.model, [(inputs[: settings.minibatch], targets[: settings.minibatch])])
        found = path(landscape, landscape.at(landscape.weights), steps, None)
        first = {"group": group, "kind": "minibatch", "size": min(settings.minibatch, len(targets))}
        rows += [first | row for row in found]
        if _by_its_sizes(snapshot.run.model):
            rows += [{"group": group} | row for row in _by_size(snapshot.model, (inputs, targets), settings)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _by_its_sizes(model: config.Model) -> bool:
    return model.norm == "batch" and model.shortcut == "none"


def _by_size(model: nn.Module, images: Batch, settings: config.Smoothness) -> Iterator[Row]:
    """Measure the landscape of each size on the same images, and the first minibatch of each size alone.

    The largest minibatch is the whole group, so that its landscape is all there is.
    """
    inputs, targets = images
    steps, reference = [("gradient", settings.size_distance)], None
    for size in sorted({len(targets), *(size for size in settings.sizes if size < len(targets))}, reverse=True):
        minibatches = list(zip(torch.split(inputs, size), torch.split(targets, size), strict=True))
        samples = {"landscape": minibatches} | ({"minibatch": minibatches[:1]} if len(minibatches) > 1 else {})
        for kind, chosen in samples.items():
            landscape = Landscape(model, chosen)
            start = landscape.at(landscape.weights)
            reference = start.gradient if reference is None else reference
            rows = path(landscape, start, steps, reference)
            yield from ({"kind": kind, "size": size} | row for row in rows)


def _displacement(landscape: Landscape, gradient: Tensor, direction: str, step: float) -> Tensor:
    if direction == "adam":
        return (-step * gradient).div(gradient.abs() + EPSILON)
    return (-step * landscape.scale() * gradient).div(gradient.norm())
