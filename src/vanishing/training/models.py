"""The models of the study: VGG variants for images of 32 x 32 pixels, with and without the cures.

A model is an entry convolution, stages of processing blocks that each end in a reduction block, average pooling and a
linear classifier. Convolutions have the same number of filters and keep height and width; their kernels are 3 x 3, or
all 5 x 5. Exceptions are shortcuts and bottlenecks. Sources: Simonyan & Zisserman 2015 for the plain stack, Ioffe &
Szegedy 2015 for batch normalisation, Wu & He 2018 for group normalisation, He et al. 2016 for shortcuts and
bottlenecks, and others where they stand.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from vanishing import config
from vanishing.training import fused

SLOPE = 0.01
"""Slope of the leaky rectifier on its negative side, PyTorch's default."""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    # in place, where PyTorch offers it: the gradients of convolution and norm do not need their outputs
    "leaky_relu": partial(nn.LeakyReLU, SLOPE, inplace=True),
    "relu": partial(nn.ReLU, inplace=True),
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}
"""Elementwise functions between the convolutions."""


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose minibatches the training step counts: see `counters`."""

    def forward(self, x: Tensor, activation: str | None = None, added: Tensor | None = None) -> Tensor:
        """Normalise `x`, (batch, channels, height, width); in training, with `activation`, add and activate too."""
        if activation is not None:
            return fused.normalise_and_activate(x, self, activation, SLOPE, added)
        momentum, statistics = self.momentum or 0.0, (self.running_mean, self.running_var)
        return functional.batch_norm(x, *statistics, self.weight, self.bias, self.training, momentum, self.eps)


NORMS: dict[str, Callable[[config.Model, int], nn.Module]] = {
    "none": lambda model, channels: nn.Identity(),
    "batch": lambda model, channels: BatchNorm(channels),
    "group": lambda model, channels: nn.GroupNorm(model.groups, channels),
}
"""Normalisations of that many channels, by `model.norm`."""


class Epilogue(nn.Module):
    """The operations after a convolution: its norm, an added shortcut, the activation, an amplified gradient.

    Attributes:
        fused: whether the first three are one operation where batch normalisation trains. Elsewhere that would not
            pay: without a norm two passes in place are left, four runs alone use group normalisation, and evaluation
            is a small part of a training.
    """

    def __init__(self, activation: str, amplification: float = 1.0) -> None:
        super().__init__()
        self.kind = activation
        self.activation = ACTIVATIONS[activation]()
        self.amplification = nn.Identity() if amplification == 1 else Amplification(amplification)
        self.fused = False

    def forward(self, x: Tensor, norm: nn.Module, added: Tensor | None = None) -> Tensor:
        """Map the output of a convolution, which may be overwritten, and the shortcut, of the same shape."""
        if self.fused and norm.training and isinstance(norm, BatchNorm):
            out = norm(x, self.kind, added)
        else:
            out = norm(x)
            if added is not None:
                out += added
            out = self.activation(out)
        amplified: Tensor = self.amplification(out)
        return amplified


class Block(nn.Module):
    """A processing block: convolutions at constant size, each normalised and activated.

    A shortcut may be added before the last activation. Subclasses change the convolutions (`kinds`), their bias, and
    what follows the first one (`between`).

    Args:
        model: number and size of the convolutions, norm and activation.
        inputs: input channels of the first convolution; the last one has `model.filters` output channels.
        shortcut: maps the block's input to the summand; None for no shortcut.
    """

    bias = False

    def __init__(self, model: config.Model, inputs: int, shortcut: nn.Module | None) -> None:
        super().__init__()
        kinds = self.kinds(model)
        for at, (outputs, size) in enumerate(kinds, start=1):
            self.add_module(f"conv{at}", _convolution(inputs, outputs, size, bias=self.bias))
            self.add_module(f"norm{at}", NORMS[model.norm](model, outputs))
            inputs = outputs
        self.convolutions = len(kinds)
        self.epilogue = Epilogue(model.activation, model.gradient_amplification)
        self.shortcut = shortcut

    def kinds(self, model: config.Model) -> list[tuple[int, int]]:
        """List the output channels of each convolution, and the height and width of its kernel."""
        return [(model.filters, model.kernel_size)] * model.convolutions

    def between(self, x: Tensor) -> Tensor:
        """Map the input of the second convolution."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to (batch, filters, ...), at half the size in a reduction block."""
        out = x
        for at in range(1, self.convolutions + 1):
            out = self.get_submodule(f"conv{at}")(out)
            last = at == self.convolutions
            added = self.shortcut(x) if last and self.shortcut is not None else None
            out = self.epilogue(out, self.get_submodule(f"norm{at}"), added)
            if at == 1:
                out = self.between(out)
        return out


class ReductionBlock(Block):
    """A block with 2 x 2 average pooling after the first convolution.

    Its convolutions keep their bias under normalisation too, as in the five reports.
    """

    bias = True

    def between(self, x: Tensor) -> Tensor:
        """Halve height and width."""
        return functional.avg_pool2d(x, kernel_size=2)


class Bottleneck(ReductionBlock):
    """A narrow reduction block: 1 x 1 to a quarter of the filters, pooling, 3 x 3, 1 x 1 back to all filters.

    The residual block of He et al. 2016 for their deepest networks, with this study's pooling for their stride.
    """

    def kinds(self, model: config.Model) -> list[tuple[int, int]]:
        """List three convolutions; `model.convolutions` does not count."""
        narrow = model.filters // config.BOTTLENECK
        return [(narrow, 1), (narrow, model.kernel_size), (model.filters, 1)]


class Dense(nn.Sequential):
    """A stage in which each block reads the stage's input and the outputs of all earlier blocks (Huang et al. 2017)."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, filters, height, width) to (batch, filters, height / 2, width / 2)."""
        features = [x]
        for block in self:
            features.append(block(torch.cat(features, dim=1)))
        return features[-1]


class Amplification(nn.Module):
    """The identity, with its gradient multiplied by a factor (Basodi et al. 2020, "Gradient amplification").

    Theirs amplifies at random layers and stops after some epochs. Here every activation of the blocks does so
    throughout, which shows plainly what amplification can and cannot cure.
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, of any shape."""
        amplified: Tensor = _Amplify.apply(x, self.factor)
        return amplified


class _Amplify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


class Pool(nn.Module):
    """Average over height and width: a plain mean, as adaptive pooling has no deterministic backward pass on CUDA."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, filters, height, width) to (batch, filters)."""
        return x.mean(dim=(2, 3))


class Entry(nn.Module):
    """The first convolution.

    It is normalised in every variant: by the model's own norm, so that a model meant to do without batch statistics has
    none at all, and by batch normalisation where the model has no norm.
    """

    def __init__(self, model: config.Model) -> None:
        super().__init__()
        self.conv = _convolution(3, model.filters, model.kernel_size, bias=False)
        self.norm = NORMS["batch" if model.norm == "none" else model.norm](model, model.filters)
        self.epilogue = Epilogue(model.activation)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (batch, 3, height, width) to (batch, filters, height, width)."""
        features: Tensor = self.epilogue(self.conv(x), self.norm)
        return features


class VGG(nn.Sequential):
    """A VGG variant that maps images (batch, 3, 32, 32) to logits (batch, classes).

    Args:
        model: stages, blocks in each and their kind, filters, activation, norm and shortcuts; see `params.yaml`.
        classes: number of logits.
    """

    def __init__(self, model: config.Model, classes: int) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["entry"] = Entry(model)
        for stage, blocks in enumerate(model.blocks_by_stage, start=1):
            layers[f"stage{stage}"] = _stage(model, blocks)
        layers["pool"] = Pool()
        layers["classifier"] = nn.Linear(model.filters, classes)
        super().__init__(layers)


@dataclass(frozen=True)
class Size:
    """The size of a model, for one image of 32 x 32."""

    layers: int
    """Convolutions and the classifier."""
    parameters: int
    """Trainable weights and biases."""
    macs: int
    """Multiply-accumulates of a forward pass."""


def build(model: config.Model, classes: int, seed: int, kernels: str = "pytorch") -> VGG:
    """Build a model with weights drawn on the CPU, so that they are the same for every device.

    Args:
        model: its architecture and initialisation.
        classes: number of logits.
        seed: of the weights; the global generator stays as it is.
        kernels: with `fused`, batch normalisation, shortcut and activation are one operation in training mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = VGG(model, classes)
        if model.initialisation != "default":
            _initialise(network, model)
    for module in network.modules():
        if isinstance(module, Epilogue):
            module.fused = kernels == "fused"
    return network


def counters(network: nn.Module) -> list[Tensor]:
    """List the minibatch counters, `num_batches_tracked`, of every batch normalisation.

    A training step adds 1 to all of them at once, where PyTorch launches a kernel for each.
    """
    norms = (module.num_batches_tracked for module in network.modules() if isinstance(module, BatchNorm))
    return [counter for counter in norms if counter is not None]


@functools.cache
def measure(model: config.Model, classes: int) -> Size:
    """Count layers, parameters and multiply-accumulates without allocating the weights."""
    with torch.device("meta"):
        network = VGG(model, classes)
        image = torch.empty(1, 3, config.IMAGE_SIZE, config.IMAGE_SIZE)
    network.eval()
    with FlopCounterMode(display=False) as counter:
        network(image)
    return Size(
        layers=sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()),
        parameters=sum(weight.numel() for weight in network.parameters()),
        macs=counter.get_total_flops() // 2,  # a multiply-accumulate counts as two
    )


@torch.no_grad()
def _initialise(network: nn.Module, model: config.Model) -> None:
    """Draw weights that keep the size of a signal from layer to layer; biases are 0.

    `he`: normal, of variance gain^2 / fan_in (He et al. 2015). `orthogonal`: W W^T = gain^2 I, or W^T W for more
    outputs than inputs (Saxe et al. 2014). The gain is that of the activation, and 1 for the classifier.
    """
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        kind: Any = "linear" if isinstance(module, nn.Linear) else model.activation
        if model.initialisation == "he":
            nn.init.kaiming_normal_(module.weight, a=SLOPE, nonlinearity=kind)
        else:
            # in single precision the last bits depend on the number of threads and the processor's instructions
            precise = torch.empty(module.weight.shape, dtype=torch.float64)
            module.weight.copy_(nn.init.orthogonal_(precise, gain=nn.init.calculate_gain(kind, SLOPE)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _stage(model: config.Model, blocks: int) -> nn.Sequential:
    dense = model.shortcut == "dense"
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for block in range(1, blocks + 1):
        shortcut = nn.Identity() if model.shortcut == "identity" else None
        modules[f"block{block}"] = Block(model, model.filters * (block if dense else 1), shortcut)
    inputs = model.filters * (blocks + 1 if dense else 1)
    kind = Bottleneck if model.reduction == "bottleneck" else ReductionBlock
    modules["reduction"] = kind(model, inputs, _reduction_shortcut(model))
    return Dense(modules) if dense else nn.Sequential(modules)


def _reduction_shortcut(model: config.Model) -> nn.Module | None:
    match model.reduction_shortcut:
        case "pool":
            return nn.AvgPool2d(kernel_size=2)
        case "convolution":
            # not a strided convolution: for channels last and fewer than 8 filters (AVX2) or 16 (AVX-512), oneDNN's
            # gradient of its weights writes past its buffer and crashes, hangs or is wrong (oneDNN issue 6035; PyTorch
            # 2.15.0 with oneDNN 3.13.3); with 32 filters, both give the same bits on AVX2
            convolution = nn.Conv2d(model.filters, model.filters, kernel_size=1, bias=False)
            norm = NORMS[model.norm](model, model.filters)
            return nn.Sequential(OrderedDict(subsample=_subsample(), conv=convolution, norm=norm))
        case "subsample":
            return _subsample()
        case _:
            return None


def _subsample() -> nn.Module:
    """Return what keeps every second pixel in each direction: a shortcut without parameters (He et al. 2016, option A).

    Theirs also pads with zeros the channels that a wider stage adds; here all stages have the same width. An average
    over one pixel is that pixel.
    """
    return nn.AvgPool2d(kernel_size=1, stride=2)


def _convolution(inputs: int, outputs: int, size: int, *, bias: bool) -> nn.Conv2d:
    """Return a convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, kernel_size=size, padding=size // 2, bias=bias)
