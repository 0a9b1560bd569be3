"""Where the factors go: what each layer does to the signal, to the error and to the gradient.

`by_layer` measures any `torch.nn.Module`, by what `trace` sees of a forward pass; `agreement` compares precisions, and
`gradient_correlation` measures shattering. `measure` applies all of them to a snapshot.

The signal of a layer is its activation's output a_l. Over the images of a minibatch, its mean square has two parts:
what all images share, and the variance over images, without which the layers above cannot tell one image from another.
In a plain network of 38 layers the second part falls to 1e-29 of the first, so everything is in double precision, and
differences are taken before squares.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from vanishing import config
from vanishing.analysis.snapshots import Snapshot
from vanishing.analysis.vectors import Batch, Loss, cosine
from vanishing.results.depth_prediction import ROUNDING
from vanishing.training.precision import autocast

WEIGHTS = (nn.modules.conv._ConvNd, nn.Linear)
"""Modules that are layers."""

COLUMNS = {
    "kind": "layer, or line: the gradient with respect to the input on the way from one image to another",
    "layer": "number of the convolution or linear layer in forward order, from 1",
    "name": "of the layer's module",
    "width": "height and width of the layer's output (pixels), 1 without positions",
    "common_square": "square of a unit's mean over the images, mean over the units; units are channels at positions",
    "image_variance": "variance (1 / n) of a unit over the images, mean over the units; with common_square, the mean "
    "square of the signal",
    "cosine_distance": "1 - cosine of the signals of two images, mean over all pairs",
    "centred_distance": "the same without each image's mean over the units: 1 - correlation",
    "constant_units": "share of the units that vary over the images by no more than the rounding of fp32",
    "zero_units": "share of the units that are 0 for all images",
    "zeros": "share of the outputs that are exactly 0",
    "negative": "share of negative inputs of the activation",
    "one_sided": "share of the units for which these have the same sign for all images: the activation is linear there",
    "error": "root mean square of dL/dy over units and images, y the activation's input (behind normalisation and "
    "shortcut), or the output without one",
    "forward_factor": "root of image_variance over that of the layer before",
    "backward_factor": "error over that of the layer behind",
    "signal_to_noise": "norm of the mean of dL/dW over the minibatches, by its standard error, the root of the summed "
    "variances (n - 1) of its elements over the number of minibatches; about 1 for noise alone",
    "agreement_fp32": "cosine of what depends on the image in fp32 and in double precision",
    "agreement_bf16": "the same for bf16, with weights rounded to it in both",
    "distance": "from the start of the line, as a share of its length",
    "gradient_cosine": "cosine of the gradients there and at the start, mean over the lines",
    "gradient_cosine_std": "its standard deviation over the lines (n - 1)",
}
"""Of `signal.csv`, behind the epoch; means are over the minibatches too.

NaN stands for what a layer lacks: an activation, a layer before it or behind it, a second minibatch.
"""


PRECISION: Literal["fp32", "fp64"] = "fp64"
"""Of nearly all passes through the model."""


def passes(settings: config.Signal, _: config.Model, snapshots: int) -> float:
    """Return the arithmetic of so many snapshots, in forward passes of one image.

    A gradient costs three passes, one by the inputs alone two.
    """
    agreement, lines = 4 * settings.batch_size, settings.lines * (1 + 2 * (1 + len(settings.distances)))
    return float(snapshots * (3 * settings.batches * settings.batch_size + agreement + lines))


def measure(snapshot: Snapshot, settings: config.Signal) -> pd.DataFrame:
    """Measure every layer of a snapshot, then the lines between images; the columns are those of `COLUMNS`."""
    inputs = snapshot.batches[0][0]
    layers = by_layer(snapshot.model, snapshot.batches).assign(
        kind="layer",
        agreement_fp32=agreement(snapshot.model, inputs, torch.float32),
        agreement_bf16=agreement(snapshot.model, inputs, torch.bfloat16),
    )
    generator = torch.Generator().manual_seed(settings.seed)
    direction = torch.randn(snapshot.run.data.classes, generator=generator, dtype=torch.float64).to(inputs.device)
    lines = gradient_correlation(snapshot.model, inputs[: settings.lines], settings.distances, direction)
    return pd.concat([layers, lines.assign(kind="line")], ignore_index=True)[list(COLUMNS)]


@dataclass
class Site:
    """A layer in one forward pass."""

    name: str
    """Of the module within the model."""
    output: Tensor
    """Of the layer itself, z_l, (images, ...)."""
    before: Tensor | None
    """Input of its activation, after normalisation and shortcut; None without an activation."""
    after: Tensor
    """The activation's output, a_l; without an activation, the layer's own."""
    errors: list[Tensor] = field(default_factory=list)
    """dL / d before, or output without an activation, once an L that depends on the layer has been differentiated."""


def trace(model: nn.Module, inputs: Tensor) -> tuple[list[Site], Tensor]:
    """Run a model; return its convolutions and linear layers in forward order, and its outputs.

    The activation of a layer is the last module of `torch.nn.modules.activation` that is called after it and before the
    next layer; activations that are called as functions are not seen. No module may work in place.
    """
    sites: list[Site] = []

    def layer(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sites.append(Site(name, output, None, output))
        _watch(sites[-1], output)

    def activation(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if sites:
            sites[-1].before, sites[-1].after = inputs[0], output
            _watch(sites[-1], inputs[0])

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, WEIGHTS):
            hooks.append(module.register_forward_hook(partial(layer, name)))
        elif type(module).__module__ == nn.ReLU.__module__ and not isinstance(module, nn.MultiheadAttention):
            hooks.append(module.register_forward_hook(activation))
    outputs = model(inputs)
    for hook in hooks:
        hook.remove()
    return sites, outputs


def _watch(site: Site, tensor: Tensor) -> None:
    """Take the gradient with respect to this tensor, and no other, for the error of a site."""
    site.errors = []
    if tensor.requires_grad:
        # holds the list and not the site, which would keep the graph alive by a cycle
        tensor.register_hook(site.errors.append)  # type: ignore[no-untyped-call]


def by_layer(model: nn.Module, batches: Iterable[Batch], loss: Loss = functional.cross_entropy) -> pd.DataFrame:
    """Measure signal, error and gradient at every layer, in training mode and double precision.

    A unit is one element of a layer's output for one image: a channel at a position.

    Args:
        model: any module; it stays as it is.
        batches: pairs of the model's input, images first, and the target of `loss`, on the model's device.
        loss: maps (output, target) to a scalar.

    Returns:
        A row for each layer in forward order: `layer` to `signal_to_noise` of `COLUMNS`.

    Raises:
        ValueError: without a minibatch, or without a layer.
    """
    model = _private(model, torch.float64)
    measured, gradients = [], defaultdict(list)
    names: list[str] = []
    for inputs, targets in batches:
        names, signals = _minibatch(model, inputs.double(), targets, loss)
        measured.append(signals)
        for name in dict.fromkeys(names):
            weight = model.get_parameter(f"{name}.weight")
            gradients[name].append(torch.zeros_like(weight) if weight.grad is None else weight.grad)
    if not names:
        raise ValueError("the signal needs at least one minibatch and one convolution or linear layer")
    table = pd.DataFrame(np.mean(measured, axis=0), columns=measured[0].columns)
    table.insert(0, "layer", range(1, len(table) + 1))
    table.insert(1, "name", names)
    table["width"] = table["width"].astype(int)
    table["forward_factor"] = np.sqrt(_ratio(table.image_variance, table.image_variance.shift(1)))
    table["backward_factor"] = _ratio(table.error, table.error.shift(-1))
    noise = {name: _signal_to_noise(torch.stack(each)) for name, each in gradients.items()}
    return table.assign(signal_to_noise=[noise[name] for name in names])


def agreement(model: nn.Module, inputs: Tensor, precision: torch.dtype) -> list[float]:
    """Return for each layer how much of what depends on the image survives the rounding of a precision.

    The same weights, rounded to that precision, process the same minibatch in that precision and in double. The value
    is the cosine of the two signals' deviations from their means over the images: near 1 where rounding is small beside
    what distinguishes the images, and near 0 where it drowns it or where all images give the same bits.

    Args:
        model: any module; it stays as it is.
        inputs: a minibatch.
        precision: float32, or bfloat16 as in training: autocast, with the operations it leaves in float32.
    """
    exact, rounded = _private(model, torch.float64), _private(model, torch.float32)
    with torch.no_grad():
        for precise, single in zip(exact.parameters(), rounded.parameters(), strict=True):
            single.copy_(single.to(precision))
            precise.copy_(single)
        reference, _ = trace(exact, inputs.double())
        with autocast(inputs.device.type, precision is torch.bfloat16):
            found, _ = trace(rounded, inputs.float())
    pairs = zip(reference, found, strict=True)
    deviations = ([_deviations(_flat(site.after)).reshape(1, -1) for site in pair] for pair in pairs)
    return [cosine(*pair).nan_to_num(0.0).item() for pair in deviations]


def gradient_correlation(
    model: nn.Module, images: Tensor, distances: Sequence[float], direction: Tensor
) -> pd.DataFrame:
    """Measure how fast the gradient with respect to the input changes on the way from one image to another.

    After Balduzzi et al. 2017 ("The shattered gradients problem"), who correlate the gradients of a network's output
    at neighbouring inputs on a line: those of a shattered network resemble white noise. Here a line leads from each
    image x to the next one x', and with g(t) the gradient of direction . f at x + t (x' - x), the value at distance t
    is the cosine of g(0) and g(t). It is 1 for a linear network. The statistics of batch normalisation are those of
    `images`, so that the function does not change along a line.

    Args:
        model: maps images to (images, outputs); it stays as it is.
        images: (images, ...), the ends of the lines; the last one leads to the first.
        distances: shares t of the way, each above 0 and at most 1.
        direction: (outputs,), the linear combination of the outputs that is differentiated.

    Returns:
        A row for each of `distances`: distance; gradient_cosine, the mean over the lines; and its standard deviation
        over the lines (n - 1), gradient_cosine_std.
    """
    model, images = _private(model, torch.float64), images.double()
    _hold_statistics(model, images)

    def gradient(at: float) -> Tensor:
        points = torch.lerp(images, images.roll(-1, 0), at).requires_grad_()
        return torch.autograd.grad((model(points) @ direction.double()).sum(), points)[0].flatten(1)

    start = gradient(0.0)
    cosines = torch.stack([cosine(start, gradient(distance)) for distance in distances]).cpu()
    return pd.DataFrame(
        {
            "distance": distances,
            "gradient_cosine": cosines.mean(1).numpy(),
            "gradient_cosine_std": cosines.std(1).numpy(),
        }
    )


def _private(model: nn.Module, precision: torch.dtype) -> nn.Module:
    """Copy a model to change: in training mode, and without operations in place, which would overwrite what is read."""
    model = copy.deepcopy(model).to(precision).train()
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    return model


def _hold_statistics(model: nn.Module, images: Tensor) -> None:
    """Switch to evaluation, with the statistics of these images in every batch normalisation."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model(images)
    model.eval()


def _minibatch(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss) -> tuple[list[str], pd.DataFrame]:
    """Differentiate the loss on a minibatch; return the names of the layers, and what `_signal` measures of each."""
    model.zero_grad(set_to_none=True)
    sites, outputs = trace(model, inputs)
    loss(outputs, targets).backward()  # type: ignore[no-untyped-call]
    return [site.name for site in sites], pd.DataFrame([_signal(site) for site in sites])


def _signal(site: Site) -> dict[str, float]:
    """Measure a layer on one minibatch; see `COLUMNS`."""
    signal = _flat(site.after)
    deviations = _deviations(signal)
    mean = signal[0] - deviations[0]
    negative = None if site.before is None else _flat(site.before) < 0
    return {
        "width": site.output.shape[-1] if site.output.dim() > 2 else 1,
        "common_square": mean.square().mean().item(),
        "image_variance": deviations.square().mean().item(),
        "cosine_distance": _distance(signal),
        "centred_distance": _distance(signal - signal.mean(1, keepdim=True)),
        "constant_units": _share(deviations.abs().amax(0) <= ROUNDING["fp32"] * mean.abs()),
        "zero_units": _share((signal == 0).all(0)),
        "zeros": _share(signal == 0),
        "negative": float("nan") if negative is None else _share(negative),
        "one_sided": float("nan") if negative is None else _share(negative.all(0) | ~negative.any(0)),
        "error": site.errors[0].square().mean().sqrt().item() if site.errors else 0.0,
    }


def _flat(signal: Tensor) -> Tensor:
    """Return a signal in double precision, (images, units)."""
    return signal.detach().double().flatten(1)


def _deviations(rows: Tensor) -> Tensor:
    """Subtract the mean over the rows; rows are subtracted before they are summed, so that equal ones give zeros."""
    shifted = rows - rows[:1]
    return shifted - shifted.mean(0)


def _distance(rows: Tensor) -> float:
    """Return 1 - cosine, mean over all pairs of rows, exact where all cosines are near 1; NaN for a row of zeros.

    For unit vectors u_i, 1 - u_i . u_j = |u_i - u_j|^2 / 2, and n sum |u_i - mean|^2 = sum over pairs of |u_i - u_j|^2.
    """
    unit = rows / rows.norm(dim=1, keepdim=True)
    return (_deviations(unit).square().sum() / (len(rows) - 1)).item()


def _share(condition: Tensor) -> float:
    return condition.double().mean().item()


def _signal_to_noise(gradients: Tensor) -> float:
    """Divide the norm of the mean over minibatches by its standard error, of gradients (minibatches, ...)."""
    count = len(gradients)
    mean = gradients.mean(0)
    error = ((gradients - mean).square().sum() / (count - 1) / count).sqrt()
    return float(mean.norm() / error)


def _ratio(numerator: pd.Series, denominator: pd.Series) -> pd.Series:
    """Divide; NaN where the denominator is 0."""
    return numerator / denominator.where(denominator > 0)
