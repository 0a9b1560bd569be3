"""Batch normalisation of a minibatch, an added shortcut and an activation as one operation.

With the mean m and the variance v of a channel over the minibatch's n values of it, and x' = (x - m) / sqrt(v + eps),

    y = act(weight x' + bias + added),

and with g = dL/dy act'(y), the gradients are those of Ioffe & Szegedy (2015, section 3), gathered:

    dL/dadded = g,  dL/dbias = sum g,  dL/dweight = sum g x',
    dL/dx = weight / sqrt(v + eps) (g - dL/dbias / n - x' dL/dweight / n).

act' is a function of y for each activation here, so that the backward pass needs x, y, m and 1 / sqrt(v + eps): x is
the convolution's output, which nothing else keeps, and y the next convolution's input, which that keeps anyway.

On CUDA, bfloat16 and float32 go through the kernels of `fused_triton`; all else goes through `forward` and `backward`
here, which say the same in PyTorch, in float32 at least, and are what those kernels are tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

COMPILED = (torch.bfloat16, torch.float32)
"""What the kernels read and write; they compute in float32."""


class Settings(NamedTuple):
    """What the operation needs beside tensors."""

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
Forward = Callable[[Tensor, Tensor | None, Tensor, Tensor, tuple[Tensor, Tensor], Settings], tuple[Tensor, Tensor]]
Backward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Settings], Gradients]


def normalise_and_activate(
    x: Tensor, norm: nn.BatchNorm2d, activation: str, slope: float, added: Tensor | None = None
) -> Tensor:
    """Return act(norm(x) + added), with `norm` in training mode, whose running statistics it updates.

    Args:
        x: (batch, channels, height, width), in the dtype of the result, which is rounded once.
        norm: affine, with running statistics; its counter of minibatches is left alone.
        activation: leaky_relu, relu, sigmoid or tanh.
        slope: of leaky_relu on its negative side; the others ignore it.
        added: of x's shape; None for no shortcut.

    Raises:
        ValueError: if there is one value a channel, whose variance is no estimate, or `added` has another shape.
    """
    if x.numel() == x.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
    if added is not None and added.shape != x.shape:
        raise ValueError(f"added has the shape {tuple(added.shape)}, allowed: {tuple(x.shape)}, that of x")
    settings = Settings(activation, slope, norm.eps, norm.momentum or 0.0, added is not None)
    running = norm.running_mean, norm.running_var
    y: Tensor = _Fused.apply(x, added, norm.weight, norm.bias, running, settings)
    return y


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:
        run, _ = _implementation(x)
        running, ctx.settings = rest
        y, statistics = run(x, added, weight, bias, running, ctx.settings)
        ctx.save_for_backward(x, y, weight, statistics)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, statistics = ctx.saved_tensors
        _, run = _implementation(x)
        return *run(gradient, x, y, weight, statistics, ctx.settings), None, None


def _implementation(x: Tensor) -> tuple[Forward, Backward]:
    if not (x.is_cuda and x.dtype in COMPILED):
        return forward, backward
    from vanishing import fused_triton

    return fused_triton.forward, fused_triton.backward


def forward(
    x: Tensor,
    added: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    running: tuple[Tensor, Tensor],
    settings: Settings,
) -> tuple[Tensor, Tensor]:
    """Compute y, of x's shape and dtype, and the statistics (2, channels): mean and 1 / sqrt(v + eps) of each channel.

    The running mean and unbiased variance, (channels,) each, are updated in place.
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
    """Compute the gradients by x, added (None without a shortcut), weight and bias from that by y.

    `y` and `statistics` are what `forward` gave.
    """
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
    """Multiply a gradient by the activation's derivative, computed from its output, as PyTorch's in-place ones do."""
    match settings.activation:
        case "leaky_relu":
            return torch.where(y > 0, gradient, gradient * settings.slope)
        case "relu":
            return torch.where(y <= 0, 0, gradient)  # a NaN lets it through
        case "sigmoid":
            return gradient * (1 - y) * y
        case _:
            return gradient * (1 - y * y)


def _spread(of_channel: Tensor) -> Tensor:
    """Shape (channels,) so that it broadcasts over a minibatch."""
    return of_channel[:, None, None]
