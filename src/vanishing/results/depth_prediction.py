"""How deep a plain network can be and still train: what its initialisation predicts.

Mean-field theory follows the second moment q of the activations and the correlation c of two images from layer to layer
(Schoenholz et al. 2017; Xiao et al. 2018 for convolutions). Here c is held as e = 1 - c, the share of the second moment
that depends on the image, since it falls to 1e-20. Three predictions follow, each for another reason to fail:

- `rounded_away`: the part of the classifier's input that depends on the image is smaller than the rounding of the part
  that does not. Then all images have the same logits, and no layer above can change that.
- `stalled`: the gradient of the entry convolution is smaller than Adam's epsilon. Then the lower layers take steps
  shorter than the learning rate, and the upper ones learn from whatever random lower layers let through.
- `correlated`: the rule of Schoenholz et al., six times the depth over which correlations decay by e.

The first two take averages of the network's feature maps: over four positions in each stage, over all at the end. What
they leave lies between positions that are alike and positions that are independent, as in `shallow_ratio`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from vanishing import config
from vanishing.results.initial_gradients import SLOPE, kept

ROUNDING = {"fp32": 2.0**-24, "bf16": 2.0**-8}
"""Unit roundoff, the largest relative error of rounding to nearest, by `train.precision` (Higham 2002, section 2.1)."""

EPSILON = 1e-8
"""Adam's, PyTorch's default."""

SCALES = 6
"""Depth scales that a trainable network spans at most (Schoenholz et al. 2017, section 5)."""

PLAIN = {
    "activation": "leaky_relu", "norm": "none", "convolutions": 2, "kernel_size": 3, "shortcut": "none",
    "reduction": "plain", "reduction_shortcut": "none", "gradient_amplification": 1.0,
}  # fmt: skip
"""Settings of the networks that this module speaks of."""

DEEPEST = 200
"""Layers beyond which nothing is predicted: such a depth counts as infinite."""

HALF = (1 + SLOPE**2) / 2
"""What the leaky rectifier keeps of a second moment."""


class Moments(NamedTuple):
    """Activations at a layer."""

    size: float
    """Second moment."""
    share: float
    """Of `size` that depends on the image."""


def blocks(layers: int, stages: int) -> tuple[int, ...]:
    """Return the processing blocks in each stage of a plain network: spread evenly, the first stages get what is over.

    Args:
        layers: 2 + 2 `stages` for a network without blocks, and 2 for each block.
        stages: of the network.
    """
    each, over = divmod((layers - 2 - 2 * stages) // 2, stages)
    return tuple(each + (stage < over) for stage in range(stages))


def gain(model: config.Model) -> float:
    """Return the variance of a convolution's weights times their fan-in (eq:init; He et al. 2015)."""
    return {"default": 1 / 3, "he": 1 / HALF}[model.initialisation]


def decorrelate(share: float) -> float:
    """Return what the leaky rectifier makes of the share that depends on the image, at constant size.

    The correlation of two images maps to c + b (sin t - t cos t) / pi, with cos t = c and b = (1 - a)^2 / (1 + a^2) for
    the slope a (Cho & Saul 2009 for a = 0). Near c = 1 that takes b (2 e)^(3/2) / (3 pi) from e: shares vanish with the
    square of depth at the edge of chaos, as 9 pi^2 / (2 b^2 l^2).
    """
    angle = 2 * math.asin(math.sqrt(share / 2))
    lost = math.sin(angle) - angle * math.cos(angle) if angle > 1e-3 else angle**3 / 3
    return share - (1 - SLOPE) ** 2 / (1 + SLOPE**2) * lost / math.pi


def forward(model: config.Model, alike: bool) -> Moments:
    """Follow the activations of a plain network from the normalised output of its entry to the classifier's input.

    Args:
        model: without norm and shortcuts.
        alike: whether positions of a map that are averaged have the same content; otherwise they are independent.
    """
    bias = 1 / (27 * model.filters) if model.initialisation == "default" else 0.0
    now = _activate(Moments(1.0, 1.0))
    for stage, number in enumerate(model.blocks_by_stage):
        pixels = config.IMAGE_SIZE >> stage
        for _ in range(model.convolutions * number):
            now = _activate(_convolve(now, gain(model) * kept(pixels) ** 2, 0.0))
        now = _average(_activate(_convolve(now, gain(model) * kept(pixels) ** 2, bias)), 1 if alike else 4)
        now = _activate(_convolve(now, gain(model) * kept(pixels // 2) ** 2, bias))
    return _average(now, 1 if alike else (config.IMAGE_SIZE >> model.stages) ** 2)


def signal(model: config.Model, alike: bool) -> float:
    """Return the part of the classifier's input that depends on the image over the part that does not, as sizes."""
    share = forward(model, alike).share
    return math.sqrt(share / (1 - share))


def entry_gradient(model: config.Model, batch_size: int, alike: bool) -> float:
    """Return the mean |dL/dW| of the entry convolution, by the derivation of eq:shallow for any number of blocks.

    Args:
        model: without norm and shortcuts.
        batch_size: images that the loss is the mean of.
        alike: whether the terms of the sum over positions are alike; otherwise they are independent.
    """
    positions, last = config.IMAGE_SIZE**2, (config.IMAGE_SIZE >> model.stages) ** 2
    classifier = (gain(model) if model.initialisation == "default" else 1.0) / model.filters
    error = HALF * classifier / last**2 / batch_size**2 / 16**model.stages
    for stage, number in enumerate(model.blocks_by_stage):
        pixels = config.IMAGE_SIZE >> stage
        error *= (HALF * gain(model)) ** (model.convolutions * number + 2)
        error *= kept(pixels) ** (2 * model.convolutions * number + 2) * kept(pixels // 2) ** 2
    square = batch_size * positions * (positions if alike else 1) * error / gain(model)
    return math.sqrt(2 / math.pi * square)  # of a normal variable, the mean size over the root mean square


def depth_scale(model: config.Model) -> float:
    """Return the layers over which the error's second moment falls by e (Schoenholz et al. 2017: -1 / ln chi).

    chi is rho kappa^2, a mean over the stages. Without borders it is infinite where rho = 1.
    """
    borders = [math.log(kept(config.IMAGE_SIZE >> stage)) for stage in range(model.stages)]
    return -1 / (math.log(HALF * gain(model)) + 2 * sum(borders) / model.stages)


def rounded_away(model: config.Model, precision: str, alike: bool) -> float:
    """Return the most layers with which `signal` is above the rounding of `precision`; infinite beyond `DEEPEST`."""
    return _deepest(model, lambda deep: signal(deep, alike) >= ROUNDING[precision])


def stalled(model: config.Model, batch_size: int, alike: bool) -> float:
    """Return the most layers with which `entry_gradient` is above Adam's epsilon; infinite beyond `DEEPEST`."""
    return _deepest(model, lambda deep: entry_gradient(deep, batch_size, alike) >= EPSILON)


def correlated(model: config.Model) -> float:
    """Return the most layers by the rule of Schoenholz et al. 2017, beside entry and classifier."""
    return 2 + SCALES * depth_scale(model)


def plain(model: config.Model, layers: int, initialisation: str) -> config.Model:
    """Return a plain network of so many layers, with the stages and filters of `model`."""
    differences = {"blocks": blocks(layers, model.stages), "initialisation": initialisation}
    return model.model_copy(update=PLAIN | differences)


def _deepest(model: config.Model, holds: Callable[[config.Model], bool]) -> float:
    shallowest = 2 + 2 * model.stages
    for layers in range(shallowest, DEEPEST + 1, 2):
        if not holds(plain(model, layers, model.initialisation)):
            return layers - 2 if layers > shallowest else 0
    return math.inf


def _convolve(before: Moments, scale: float, bias: float) -> Moments:
    size = scale * before.size + bias
    return Moments(size, before.share * scale * before.size / size)


def _activate(before: Moments) -> Moments:
    return Moments(HALF * before.size, decorrelate(before.share))


def _average(before: Moments, independent: int) -> Moments:
    """Average over so many independent positions: what does not depend on the image is the same at all of them."""
    dependent = before.size * before.share / independent
    size = before.size * (1 - before.share) + dependent
    return Moments(size, dependent / size)
