"""Normalisation of images, and the order, crops and flips of an epoch: drawn on the CPU, applied on any device.

The draws depend on (seed, epoch) alone: a resumed run needs no generator's state, and every GPU model gets the same
ones.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vanishing.config import CIFAR10, IMAGE_SIZE, Scaling

PADDING = 4
"""Pixels of zeros around a training image before it is cropped back to its size."""


@dataclass(frozen=True)
class Draws:
    """The random choices of an epoch for its n training images, in the order of training."""

    order: Tensor
    """Indices of the images, int64 (n,)."""
    offsets: Tensor
    """Row and column at which the crop starts in the padded image, int64 (n, 2), 0 to 2 * PADDING."""
    flips: Tensor
    """Whether an image is mirrored, bool (n,)."""

    def to(self, device: torch.device) -> Draws:
        """Return the draws on `device`."""
        return Draws(self.order.to(device), self.offsets.to(device), self.flips.to(device))

    def copy_(self, other: Draws) -> None:
        """Overwrite these draws with `other`, for as many images."""
        self.order.copy_(other.order)
        self.offsets.copy_(other.offsets)
        self.flips.copy_(other.flips)

    def batch(self, start: int, size: int) -> Draws:
        """Return the draws of the minibatch of up to `size` images that starts at image `start`."""
        part = slice(start, start + size)
        return Draws(self.order[part], self.offsets[part], self.flips[part])


def draw(images: int, seed: int, epoch: int) -> Draws:
    """Draw order, crops and flips of one epoch over `images` images."""
    generator = torch.Generator().manual_seed((seed << 20) + epoch)  # no epoch reaches 2**20
    return Draws(
        order=torch.randperm(images, generator=generator),
        offsets=torch.randint(2 * PADDING + 1, (images, 2), generator=generator),
        flips=torch.rand(images, generator=generator) < 0.5,
    )


def augment(images: Tensor, draws: Draws) -> Tensor:
    """Crop and flip a minibatch as `RandomCrop(32, padding=4)` and `RandomHorizontalFlip` would.

    Args:
        images: uint8 (batch, 3, 32, 32).
        draws: those of the minibatch; `order` is not read.

    Returns:
        uint8 (batch, 3, 32, 32); the padding is black, as it is applied before normalisation.
    """
    padded = functional.pad(images, (PADDING,) * 4)
    steps = torch.arange(IMAGE_SIZE, device=images.device)
    rows = draws.offsets[:, :1] + steps
    columns = draws.offsets[:, 1:] + torch.where(draws.flips[:, None], steps.flip(0), steps)
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    # indices around a slice put the channels last: (batch, rows, columns, channels)
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def normalise(images: Tensor, scaling: Scaling = CIFAR10) -> Tensor:
    """Map uint8 images (batch, 3, 32, 32) to float32, (image / 255 - mean) / std by channel."""
    shift, scale = _constants(images.device, scaling)
    return (images - shift) * scale


@functools.cache
def _constants(device: torch.device, scaling: Scaling) -> tuple[Tensor, Tensor]:
    """Return shift and scale, (3, 1, 1): cached, since a CUDA graph cannot hold a copy from the host."""
    scale = torch.tensor(scaling.std).mul(255).reciprocal()[:, None, None]
    shift = torch.tensor(scaling.mean).mul(255)[:, None, None]
    return shift.to(device), scale.to(device)
