"""Gradient flow: how large dL/dW is, layer by layer.

`gradient_flow` measures any `torch.nn.Module`; `measure_trajectory` applies it to the snapshots of a run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from vanishing import config, paths
from vanishing.analysis.vectors import Batch, Loss
from vanishing.console import Progress
from vanishing.data.records import Split
from vanishing.results.store import IMAGES
from vanishing.training import augmentation, checkpoints, models

NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Modules whose weight scales what they normalise."""


def gradient_flow(model: nn.Module, batches: Iterable[Batch], loss: Loss = functional.cross_entropy) -> pd.DataFrame:
    """Measure the gradient of every weight but biases on each minibatch, in training mode.

    The weights are those of two or more dimensions, and the scales of normalisations. Sums are in double precision: in
    single precision the squares of gradients near 1e-20 are 0.

    Args:
        model: any module; its weights, buffers, gradients and mode stay as they are.
        batches: pairs of the model's input and the target of `loss`, on the model's device.
        loss: maps (output, target) to a scalar.

    Returns:
        A row for each weight, in the order of the forward pass:
            layer: number of the convolution or linear layer, from 1; a normalisation has that of the layer before it,
                0 before the first.
            kind: convolution, linear (any other module with a matrix for a weight, such as an embedding) or
                normalisation.
            name: of the module within the model.
            mean_abs_gradient: mean of |dL/dW| over the layer's weights or scales, then over the minibatches.
            std_abs_gradient: standard deviation (n - 1) of that mean over the minibatches; NaN for one.
            max_abs_gradient: the largest |dL/dW| on any minibatch.
            gradient_norm: L2 norm of dL/dW, mean over the minibatches.
            weight_norm: L2 norm of W.
            gradient_weight_ratio: gradient_norm / weight_norm; NaN for weights that are all 0.
            zero_share: share of the weights whose gradient is exactly 0, mean over the minibatches.

    Raises:
        ValueError: without a minibatch, without a weight, or for a weight that the forward pass does not use.
    """
    model = copy.deepcopy(model).train()
    measured: list[Tensor] = []  # on the device until the end
    names: list[str] = []
    for inputs, targets in batches:
        model.zero_grad(set_to_none=True)
        names, outputs = _forward_in_order(model, inputs)
        loss(outputs, targets).backward()  # type: ignore[no-untyped-call]
        measured.append(torch.stack([_statistics(model.get_parameter(f"{name}.weight")) for name in names]))
    if not measured:
        raise ValueError("gradient flow needs at least one minibatch")
    weights = torch.stack([model.get_parameter(f"{name}.weight").detach().double().norm() for name in names])
    kinds = [_kind(model.get_submodule(name)) for name in names]
    return _summarise(names, kinds, torch.stack(measured).cpu().numpy(), weights.cpu().numpy())


def measure_trajectory(
    run: config.Run, gradients: config.Gradients, train: Split, folder: Path, device: torch.device
) -> pd.DataFrame:
    """Measure the gradient flow at every snapshot of a trajectory, on the same minibatches: plain, then augmented.

    Args:
        run: the effective configuration of the run.
        gradients: number, size and seed of the minibatches.
        train: the training images.
        folder: of the snapshots.
        device: to compute on.

    Returns:
        The rows of `gradient_flow`, with the snapshot's `epoch` and the kind of `images`, plain or augmented, in front.

    Raises:
        CheckpointError: if a snapshot is damaged, or not of the run's model.
    """
    scaling = run.data.scaling
    batches = {images: fixed_batches(gradients, train, device, images == "augmented", scaling) for images in IMAGES}
    model = network(run, device)
    epochs = snapshot_epochs(folder)
    tables = []
    with Progress(f"gradient flow of {folder}", len(epochs), unit="snapshot") as progress:
        for epoch in epochs:
            checkpoints.load_weights(paths.snapshot(folder, epoch), model)
            for images in IMAGES:
                table = gradient_flow(model, batches[images])
                table.insert(0, "epoch", epoch)
                table.insert(1, "images", images)
                tables.append(table)
            progress.advance()
    return pd.concat(tables, ignore_index=True)


def network(run: config.Run, device: torch.device) -> models.VGG:
    """Build the network of a run to measure: its gradients are those of the loss itself, without amplification."""
    unamplified = run.model.model_copy(update={"gradient_amplification": 1.0})
    return models.build(unamplified, run.data.classes, seed=0).to(device)


def snapshot_epochs(folder: Path) -> list[int]:
    """List the epochs of a trajectory's snapshots, in order; `CheckpointError` for a file that has no such name."""
    return sorted(map(_epoch, folder.glob("epoch*.safetensors")))


def fixed_batches(
    chosen: config.Gradients | config.Analysis,
    train: Split,
    device: torch.device,
    augmented: bool = False,
    scaling: config.Scaling = config.CIFAR10,
) -> list[Batch]:
    """Choose the minibatches on which every model and snapshot is measured: images without repetition.

    With `augmented` they are the same images, each cropped and flipped once as in training, alike for all models.
    """
    generator = torch.Generator().manual_seed(chosen.seed)
    order = torch.randperm(len(train.images), generator=generator)[: chosen.batches * chosen.batch_size]
    images, labels = torch.from_numpy(train.images)[order], torch.from_numpy(train.labels)[order].long()
    if augmented:
        images = augmentation.augment(images, augmentation.draw(len(order), chosen.seed, epoch=0))
    parts = zip(torch.split(images, chosen.batch_size), torch.split(labels, chosen.batch_size), strict=True)
    return [(augmentation.normalise(part.to(device), scaling), target.to(device)) for part, target in parts]


def _epoch(snapshot: Path) -> int:
    number = snapshot.stem.removeprefix("epoch")
    if not (number.isascii() and number.isdigit()):
        raise checkpoints.CheckpointError(f"{snapshot}: not the name of a snapshot; remove it")
    return int(number)


def _forward_in_order(model: nn.Module, inputs: Tensor) -> tuple[list[str], Tensor]:
    """Run the model; return the names of its layers in the order in which they are first used, and the outputs."""
    used: dict[str, None] = {}
    layers = {name: each for name, each in model.named_modules() if _is_measured(each)}
    hooks = [each.register_forward_hook(lambda *_, name=name: used.setdefault(name)) for name, each in layers.items()]
    outputs = model(inputs)
    for hook in hooks:
        hook.remove()
    if not layers:
        raise ValueError("gradient flow needs at least one layer with a weight")
    unused = [name for name in layers if name not in used]
    if unused:
        raise ValueError(f"layer {unused[0]!r} has no gradient: the forward pass does not use it")
    return list(used), outputs


def _is_measured(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    if weight is None or not weight.requires_grad:
        return False
    return weight.dim() >= 2 or isinstance(module, NORMALISATIONS)  # not PReLU's slopes


def _kind(module: nn.Module) -> str:
    if isinstance(module, NORMALISATIONS):
        return "normalisation"
    return "convolution" if isinstance(module, nn.modules.conv._ConvNd) else "linear"


def _statistics(weight: Tensor) -> Tensor:
    """Return mean and maximum of |dL/dW|, the gradient's L2 norm, and the share of exact zeros."""
    if weight.grad is None:  # the loss does not depend on this layer
        return torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64, device=weight.device)
    size = weight.grad.double().abs()
    return torch.stack([size.mean(), size.max(), size.norm(), (size == 0).double().mean()])


def _summarise(names: list[str], kinds: list[str], measured: np.ndarray, weights: np.ndarray) -> pd.DataFrame:
    """Summarise `_statistics`, (batches, layers, 4), over the minibatches."""
    mean, largest, norm, zeros = np.moveaxis(measured, 2, 0)
    few = len(measured) < 2
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(weights > 0, norm.mean(axis=0) / weights, np.nan)
    return pd.DataFrame(
        {
            "layer": np.cumsum([kind != "normalisation" for kind in kinds]),
            "kind": kinds,
            "name": names,
            "mean_abs_gradient": mean.mean(axis=0),
            "std_abs_gradient": np.full(len(names), np.nan) if few else mean.std(axis=0, ddof=1),
            "max_abs_gradient": largest.max(axis=0),
            "gradient_norm": norm.mean(axis=0),
            "weight_norm": weights,
            "gradient_weight_ratio": ratio,
            "zero_share": zeros.mean(axis=0),
        }
    )
