"""What analyses of the loss share: types, the trainable parameters of a model as one vector, and cosines."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]
"""A model's input, images first, and the target of a loss."""

Batches = Sequence[Batch]

Loss = Callable[[Any, Any], Tensor]
"""Maps (output, target) to a scalar."""


def trainable(model: nn.Module) -> tuple[nn.Module, list[nn.Parameter]]:
    """Copy a model, so that it stays as it is; return the copy in training mode, and its trainable parameters."""
    model = copy.deepcopy(model).train()
    return model, [weight for weight in model.parameters() if weight.requires_grad]


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Join tensors to one vector in double precision, (elements,)."""
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def split(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Cut a vector, (elements,), into views of it with the shapes of `like`."""
    parts = torch.split(vector, [each.numel() for each in like])
    return [part.view_as(each) for part, each in zip(parts, like, strict=True)]


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Return the cosines of the angles between vectors along the last dimension, (..., elements); NaN for one of 0.

    PyTorch's own takes a norm below 1e-8, which plain networks have, for 1e-8.
    """
    cosines: Tensor = torch.linalg.vecdot(first, second) / (first.norm(dim=-1) * second.norm(dim=-1))
    return cosines
