"""Batch normalisation of a minibatch, an added shortcut and an activation as one operation.

With the mean m and the variance v of a channel over the minibatch's n values of it, and x' = (x - m) / sqrt(v + eps),

    y = act(weight x' + bias + added),

and with g = dL/dy act'(y), the gradients are those of Ioffe & Szegedy (2015, section 3), gathered:

    dL/dadded = g,  dL/dbias = sum g,  dL/dweight = sum g x',
    dL/dx = weight / sqrt(v + eps) (g - dL/dbias / n - x' dL/dweight / n).

For each activation here act' is a function of y, so that the backward pass needs x, y, m and 1 / sqrt(v + eps): x is
the convolution's output, which is kept for this alone, and y the next convolution's input, which is kept anyway.

On CUDA, bfloat16 and float32 go through the kernels of `fused_triton`. All else goes through `fused_reference`, the
same operation in PyTorch, in float32 or better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from vanishing.training import fused_reference
from vanishing.training.fused_reference import Gradients, Settings

COMPILED = (torch.bfloat16, torch.float32)
"""Types that the kernels read and write; they compute in float32."""

Forward = Callable[[Tensor, Tensor | None, Tensor, Tensor, tuple[Tensor, Tensor], Settings], tuple[Tensor, Tensor]]
Backward = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Settings], Gradients]


def normalise_and_activate(
    x: Tensor, norm: nn.BatchNorm2d, activation: str, slope: float, added: Tensor | None = None
) -> Tensor:
    """Return act(norm(x) + added), with `norm` in training mode, whose running statistics it updates.

    Args:
        x: (batch, channels, height, width), in the dtype of the result, which is rounded once.
        norm: affine, with running statistics; its counter of minibatches does not change.
        activation: leaky_relu, relu, sigmoid or tanh.
        slope: of leaky_relu on its negative side; the others ignore it.
        added: of x's shape; None for no shortcut.

    Raises:
        ValueError: if a channel has a single value, and so no variance, or `added` has another shape.
    """
    if x.numel() == x.shape[1]:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {x.shape}")
    if added is not None and added.shape != x.shape:
        raise ValueError(f"added has the shape {tuple(added.shape)}, allowed: that of x, {tuple(x.shape)}")
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
        return fused_reference.forward, fused_reference.backward
    from vanishing.training import fused_triton

    return fused_triton.forward, fused_triton.backward
