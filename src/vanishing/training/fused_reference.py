"""The operation of `fused` in PyTorch, for the CPU and as the reference for tests of its kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Settings(NamedTuple):
    """Settings of the operation."""

    activation: str
    """leaky_relu, relu, sigmoid or tanh."""
    slope: float
    """Of leaky_relu on its negative side."""
    eps: float
    """Added to the variance."""
    momentum: float
    """Share of the minibatch in the running statistics."""
    adds: bool
    """Whether a shortcut is added."""


Gradients = tuple[Tensor, Tensor | None, Tensor, Tensor]
"""dL/dx, dL/dadded, dL/dweight and dL/dbias."""


def forward(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, running: tuple[Tensor, Tensor], settings: Settings
) -> tuple[Tensor, Tensor]:
    """Return y, of x's shape and dtype, and the statistics (2, channels): mean and 1 / sqrt(v + eps) of each channel.

    It updates the running mean and unbiased variance, (channels,) each, in place.
    """
    count = x.numel() // x.shape[1]
    precise = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(precise, dim=(0, 2, 3), correction=0)
    for statistic, of_minibatch in zip(running, (mean, variance * (count / (count - 1))), strict=True):
        statistic.mul_(1 - settings.momentum).add_(of_minibatch, alpha=settings.momentum)
    inverse = (variance + settings.eps).rsqrt()
    out = (precise - _spread(mean)) * _spread(inverse * weight) + _spread(bias)
    if added is not None:
        out = out + added
    return _activate(out, settings).to(x.dtype), torch.stack([mean, inverse])


def backward(
    gradient: Tensor, x: Tensor, y: Tensor, weight: Tensor, statistics: Tensor, settings: Settings
) -> Gradients:
    """Return dL/dx, dL/dadded (None without a shortcut), dL/dweight and dL/dbias, from dL/dy; see `forward`."""
    mean, inverse = statistics
    count = x.numel() // x.shape[1]
    by_sum = _through_activation(gradient.to(mean.dtype), y.to(mean.dtype), settings)
    normalised = (x.to(mean.dtype) - _spread(mean)) * _spread(inverse)
    by_bias = by_sum.sum(dim=(0, 2, 3))
    by_weight = (by_sum * normalised).sum(dim=(0, 2, 3))
    centred = by_sum - _spread(by_bias / count) - normalised * _spread(by_weight / count)
    by_x = _spread(weight * inverse) * centred
    return by_x.to(x.dtype), by_sum.to(x.dtype) if settings.adds else None, by_weight, by_bias


def _activate(out: Tensor, settings: Settings) -> Tensor:
    if settings.activation == "leaky_relu":
        return nn.functional.leaky_relu(out, settings.slope)
    activated: Tensor = getattr(torch, settings.activation)(out)
    return activated


def _through_activation(gradient: Tensor, y: Tensor, settings: Settings) -> Tensor:
    """Multiply a gradient by the activation's derivative, computed from its output as in PyTorch's in-place ones."""
    match settings.activation:
        case "leaky_relu":
            return torch.where(y > 0, gradient, gradient * settings.slope)
        case "relu":
            return torch.where(y <= 0, 0, gradient)  # passes where y is NaN
        case "sigmoid":
            return gradient * (1 - y) * y
        case _:
            return gradient * (1 - y * y)


def _spread(of_channel: Tensor) -> Tensor:
    """Shape (channels,) so that it broadcasts over a minibatch."""
    return of_channel[:, None, None]
