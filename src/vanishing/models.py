"""The models of the study: VGG variants for images of 32 x 32 pixels, with and without their cures.

All convolutions are 3 x 3 with padding 1 and the same number of filters. A model is an entry
convolution, stages of processing blocks that each end in a reduction block, average pooling and a
linear classifier (Simonyan & Zisserman 2015 for the plain stack, Ioffe & Szegedy 2015 for batch
normalisation, Wu & He 2018 for group normalisation, He et al. 2016 for the shortcuts).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from vanishing import parameters

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    # in place, where PyTorch offers it: the gradients of convolution and norm do not read what they gave
    "leaky_relu": partial(nn.LeakyReLU, inplace=True),  # slope 0.01, PyTorch's default
    "relu": partial(nn.ReLU, inplace=True),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
"""Elementwise functions between the convolutions."""


class Residual(nn.Module):
    """Two convolutions, each normalised; a shortcut may be added before the last activation.

    Subclasses say what stands between the two (`between`), and whether the convolutions have a bias.
    """

    bias = False

    def __init__(self, model: parameters.Model, shortcut: bool) -> None:
        super().__init__()
        filters = model.filters
        self.conv1 = nn.Conv2d(filters, filters, kernel_size=3, padding=1, bias=self.bias)
        self.norm1 = _norm(model, model.norm)
        self.conv2 = nn.Conv2d(filters, filters, kernel_size=3, padding=1, bias=self.bias)
        self.norm2 = _norm(model, model.norm)
        self.activation = ACTIVATIONS[model.activation]()
        self.shortcut = shortcut

    def between(self, x: Tensor) -> Tensor:
        """Map what the second convolution reads, and what the shortcut carries."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, filters, height, width) to the size that `between` gives."""
        out = self.between(self.activation(self.norm1(self.conv1(x))))
        out = self.norm2(self.conv2(out))
        if self.shortcut:
            out += self.between(x)
        activated: Tensor = self.activation(out)
        return activated


class ProcessingBlock(Residual):
    """conv, act, conv, act at constant size; `shortcut` adds the input before the last activation."""


class ReductionBlock(Residual):
    """conv, act, 2 x 2 average pooling, conv, act; `shortcut` adds the average-pooled input.

    Its convolutions keep their bias under normalisation too, as the five reports had it.
    """

    bias = True

    def between(self, x: Tensor) -> Tensor:
        """Halve height and width."""
        return functional.avg_pool2d(x, kernel_size=2)


class Pool(nn.Module):
    """Average over height and width.

    A plain mean, since adaptive pooling has no deterministic backward pass on CUDA.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, filters, height, width) to (batch, filters)."""
        return x.mean(dim=(2, 3))


class VGG(nn.Sequential):
    """A VGG variant that maps images (batch, 3, 32, 32) to logits (batch, classes).

    Args:
        model: stages, blocks in each, filters, activation, norm and shortcuts; see `params.yaml`.
        classes: number of logits.

    The entry convolution is normalised in every variant, with batch normalisation unless `norm` is
    `group`; a model meant to do without batch statistics then has none at all.
    """

    def __init__(self, model: parameters.Model, classes: int) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["entry"] = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(3, model.filters, kernel_size=3, padding=1, bias=False),
                norm=_norm(model, "group" if model.norm == "group" else "batch"),
                activation=ACTIVATIONS[model.activation](),
            )
        )
        for stage in range(1, model.stages + 1):
            layers[f"stage{stage}"] = _stage(model)
        layers["pool"] = Pool()
        layers["classifier"] = nn.Linear(model.filters, classes)
        super().__init__(layers)


@dataclass(frozen=True)
class Size:
    """How large a model is, for one image of 32 x 32."""

    layers: int
    """Convolutions and the classifier."""
    parameters: int
    """Trainable weights and biases."""
    macs: int
    """Multiply-accumulates of a forward pass."""


def build(model: parameters.Model, classes: int, seed: int) -> VGG:
    """Build a model with PyTorch's default initialisation, drawn on the CPU from `seed`.

    The same weights come out on every device; the global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VGG(model, classes)


def measure(model: parameters.Model, classes: int) -> Size:
    """Count layers, parameters and multiply-accumulates without allocating the weights."""
    with torch.device("meta"):
        network = VGG(model, classes)
        image = torch.empty(1, 3, parameters.IMAGE_SIZE, parameters.IMAGE_SIZE)
    network.eval()
    with FlopCounterMode(display=False) as counter:
        network(image)
    return Size(
        layers=sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()),
        parameters=sum(weight.numel() for weight in network.parameters()),
        macs=counter.get_total_flops() // 2,  # the counter takes a multiply-accumulate for two operations
    )


def _stage(model: parameters.Model) -> nn.Sequential:
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for block in range(1, model.blocks + 1):
        blocks[f"block{block}"] = ProcessingBlock(model, shortcut=model.shortcut == "identity")
    blocks["reduction"] = ReductionBlock(model, shortcut=model.reduction_shortcut == "pool")
    return nn.Sequential(blocks)


def _norm(model: parameters.Model, kind: str) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(model.filters)
    return nn.GroupNorm(model.groups, model.filters) if kind == "group" else nn.Identity()
