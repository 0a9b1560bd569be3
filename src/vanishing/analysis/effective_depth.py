"""Effective depth: what a network loses with each of its blocks, and how long the paths are that its gradient takes.

A residual network of n blocks is a sum over 2^n paths, each of which takes some blocks' branches and the shortcuts of
the others (Veit, Wilber & Belongie 2016). Three measurements tell how much of its depth a network uses: its accuracy
with a block cut out, its gradient by the length of the paths, and how much of each block's output the branch is (De &
Smith 2020).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from vanishing import config
from vanishing.analysis.snapshots import Snapshot
from vanishing.analysis.vectors import Batches
from vanishing.errors import UserError
from vanishing.training import models

COLUMNS = {
    "kind": "`network`: as it is; `block`: with one block cut out; `path`: all paths of one length",
    "name": "of the block, such as stage1.block2",
    "number": "of the block in forward order, from 1; or a path's length: the blocks whose branches it takes",
    "loss": "cross-entropy in nats, normalised by each minibatch; mean over the images",
    "accuracy": "share of the images, normalised by each minibatch",
    "running_loss": "cross-entropy in nats, normalised by running statistics",
    "running_accuracy": "share of the images, normalised by running statistics",
    "branch_variance": "of the block's branch over images and positions; mean over channels and minibatches",
    "shortcut_variance": "of what the block's shortcut adds to its branch, likewise",
    "paths": "number of paths of this length",
    "path_gradient": "L2 norm of the gradient at the first block's input along one such path, root mean square over "
    "these paths (estimated, see `by_length`) and the minibatches",
    "gradient": "L2 norm of the gradient there along all such paths together, root mean square over the minibatches",
}


@dataclass(frozen=True)
class Chain:
    """A network as its parts, in the order in which they are used."""

    entry: nn.Module
    blocks: dict[str, models.Block]
    head: nn.Module
    """From the last block's output to the logits."""


@dataclass(frozen=True)
class Recorded:
    """A block's forward pass, whose graph ends at its input: outputs = activation(branch + shortcut)."""

    inputs: Tensor
    branch: Tensor
    shortcut: Tensor | None
    outputs: Tensor

    def back(self, error: Tensor, way: Tensor) -> Tensor:
        """Return the gradient at `inputs` that the one at `outputs` has along `way`, branch or shortcut."""
        (error,) = torch.autograd.grad(self.outputs, self.branch, error, retain_graph=True)
        (error,) = torch.autograd.grad(way, self.inputs, error, retain_graph=True)
        return error


def measure(snapshot: Snapshot, settings: config.EffectiveDepth) -> pd.DataFrame:
    """Measure a network with each block cut out, its blocks' branches, and its gradient by length of path.

    Returns:
        The columns of `COLUMNS`: a row for the network, one for each block, and one for each length of a path.

    Raises:
        UserError: for a dense network, whose blocks cannot be cut out.
    """
    model = snapshot.model.requires_grad_(requires_grad=False)
    for norm in model.modules():
        if isinstance(norm, models.BatchNorm):
            norm.momentum = 0.0  # the minibatches leave the running statistics as they are
    chain = split(model)
    rows = pd.DataFrame({"kind": ["network"] + ["block"] * len(chain.blocks), "name": ["", *chain.blocks]})
    rows["number"] = range(len(rows))
    model.eval()
    rows[["running_loss", "running_accuracy"]] = cut_out(chain, snapshot.batches)
    model.train()
    rows[["loss", "accuracy"]] = cut_out(chain, snapshot.batches)
    variances, lengths = decompose(chain, snapshot.batches[: settings.gradient_batches], settings.seed)
    rows.loc[1:, ["branch_variance", "shortcut_variance"]] = variances
    return pd.concat([rows, lengths], ignore_index=True).reindex(columns=list(COLUMNS))


PRECISION: Literal["fp32", "fp64"] = "fp32"
"""Of the measurement."""


def passes(settings: config.EffectiveDepth, model: config.Model, snapshots: int) -> float:
    """Return the arithmetic of so many snapshots, in forward passes of one image, without what lies around the blocks.

    `cut_out` runs every block once and again for each block before it, in two modes. `decompose` runs every block once
    forwards, and twice backwards for each length that paths can have behind it; a gradient by the inputs costs a pass.
    """
    # the arithmetic of a block in convolutions of full size, and whether it can be skipped
    each: list[tuple[float, bool]] = []
    for stage, blocks in enumerate(model.blocks_by_stage):
        area = 0.25**stage
        each += [(model.convolutions * area, model.shortcut == "identity")] * blocks
        each.append(((1 + 0.25 * (model.convolutions - 1)) * area, model.reduction_shortcut != "none"))
    total = sum(size for size, _ in each)
    cut = sum((1 + at) * size for at, (size, _) in enumerate(each)) / total
    behind = [1 + sum(skipped for _, skipped in each[at + 1 :]) for at in range(len(each))]
    split = 1 + 2 * sum(size * lengths for (size, _), lengths in zip(each, behind, strict=True)) / total
    return snapshots * settings.batch_size * (2 * settings.batches * cut + settings.gradient_batches * split)


def split(model: models.VGG) -> Chain:
    """Split a network into its parts; `UserError` for a dense one."""
    parts = dict(model.named_children())
    if any(isinstance(part, models.Dense) for part in parts.values()):
        raise UserError(
            "analyses.effective_depth.runs: no block can be cut out of a run with `shortcut: dense`; leave it out"
        )
    blocks = {name: part for name, part in model.named_modules() if isinstance(part, models.Block)}
    return Chain(parts["entry"], blocks, nn.Sequential(parts["pool"], parts["classifier"]))


@torch.no_grad()
def cut_out(chain: Chain, batches: Batches) -> np.ndarray:
    """Return loss and accuracy, (1 + blocks, 2): of the network, then with each of its blocks cut out.

    The rest of the network stays as it is, so that in training mode the minibatch's statistics are those of what is
    left (Veit et al. 2016, section 4.1).
    """
    scores = []
    for images, labels in batches:
        blocks, inputs = list(chain.blocks.values()), [chain.entry(images)]
        for block in blocks:
            inputs.append(block(inputs[-1]))
        outputs = [inputs.pop()]
        for at, block in enumerate(blocks):
            outputs.append(functools.reduce(lambda x, later: later(x), blocks[at + 1 :], bypass(block, inputs[at])))
        scores.append([_score(chain.head(x), labels) for x in outputs])
    mean: np.ndarray = np.mean(scores, axis=0)
    return mean


def bypass(block: models.Block, x: Tensor) -> Tensor:
    """Return a block's output without its branch, of the same shape.

    That is the activation of its shortcut; without a shortcut the input itself, pooled as the block would.
    """
    if block.shortcut is None:
        return block.between(x)
    skipped: Tensor = block.epilogue(block.shortcut(x).clone(), nn.Identity())  # activates in place
    return skipped


def decompose(chain: Chain, batches: Batches, seed: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Measure branches and shortcuts, and the gradient at the first block's input by length of path.

    Args:
        chain: the network, with weights that need no gradient.
        batches: pairs of images and labels.
        seed: of the signs, see `by_length`.

    Returns:
        The variances of branch and shortcut, (blocks, 2), and a row for each length.
    """
    generator = torch.Generator().manual_seed(seed)
    variances, squares = [], []
    for images, labels in batches:
        recorded, x = [], chain.entry(images)
        for block in chain.blocks.values():
            recorded.append(record(block, x))
            x = recorded[-1].outputs
        x = x.detach().requires_grad_()
        (error,) = torch.autograd.grad(functional.cross_entropy(chain.head(x), labels), x)
        variances.append([(_variance(each.branch), _variance(each.shortcut)) for each in recorded])
        signs = (2 * torch.randint(2, (len(recorded),), generator=generator) - 1).tolist()
        chosen = signs, [1] * len(recorded)
        squares.append([[_square(each) for each in by_length(recorded, error, by)] for by in chosen])
    single, together = np.mean(squares, axis=0)
    lengths = np.arange(len(single))
    table = pd.DataFrame({"kind": "path", "name": "", "number": lengths + len(chain.blocks) - lengths[-1]})
    table["paths"] = [math.comb(lengths[-1], taken) for taken in lengths]
    table["path_gradient"], table["gradient"] = np.sqrt(single / table.paths), np.sqrt(together)
    return np.mean(variances, axis=0), table


def record(block: models.Block, inputs: Tensor) -> Recorded:
    """Run a block and keep its branch and shortcut apart."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            found[name] = output
            return output.clone()  # the block adds and activates in place

        return hook

    hooks = [block.get_submodule(f"norm{block.convolutions}").register_forward_hook(keep("branch"))]
    if block.shortcut is not None:
        hooks.append(block.shortcut.register_forward_hook(keep("shortcut")))
    inputs = inputs.detach().requires_grad_()
    outputs = block(inputs)
    for hook in hooks:
        hook.remove()
    return Recorded(inputs, found["branch"], found.get("shortcut"), outputs)


def by_length(recorded: Sequence[Recorded], error: Tensor, signs: Sequence[int]) -> list[Tensor]:
    """Return the gradient at the first input along all paths of a length together, for each length from the least.

    The gradients of all lengths go back through a block at once: those of length k are what k has through its shortcut
    and k - 1 through its branch. With signs of 1 their sum is the gradient of back-propagation. With independent random
    signs the terms of two paths cancel on average, so that the expected square of the norm is the sum of the squares of
    the single paths, as for Hutchinson's (1990) estimator of a trace.

    Args:
        recorded: the blocks, in forward order.
        error: gradient at the last one's output.
        signs: factor on each block's branch in the backward pass.
    """
    gradients = [error]
    for sign, block in zip(reversed(signs), reversed(recorded), strict=True):
        through = [sign * block.back(each, block.branch) for each in gradients]
        if block.shortcut is None:
            gradients = through
        else:
            past = [block.back(each, block.shortcut) for each in gradients]
            gradients = [past[0], *(a + b for a, b in zip(past[1:], through[:-1], strict=True)), through[-1]]
    return gradients


def _score(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return loss and accuracy, summed in double precision."""
    right = (logits.argmax(dim=1) == labels).double().mean()
    return float(functional.cross_entropy(logits.double(), labels)), float(right)


def _variance(x: Tensor | None) -> float:
    """Return the variance over images and positions, mean over the channels; NaN without a tensor."""
    if x is None:
        return math.nan
    return float(x.detach().double().var(dim=(0, 2, 3), correction=0).mean())


def _square(gradient: Tensor) -> float:
    """Return the square of the L2 norm, summed in double precision."""
    return float(gradient.double().square().sum())
