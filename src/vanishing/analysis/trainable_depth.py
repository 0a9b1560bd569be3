"""How deep a plain network can be and still train: networks of many depths, trained for a short time each.

A network counts as trained at the first epoch whose validation loss lies `threshold` standard errors below ln K, the
loss of chance for K classes. Validation holds as many images of each class, so one answer for all images costs at least
ln K on it (Gibbs' inequality): a network whose logits do not depend on the image never passes, whatever its training
did. One whose logits depend on the image but not on the class passes an epoch with the probability of that many
standard deviations.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from vanishing import config, paths
from vanishing.analysis import kept
from vanishing.analysis.gradient_flow import gradient_flow
from vanishing.console import Progress
from vanishing.data.records import Dataset, hold_out
from vanishing.results import depth_prediction
from vanishing.training import augmentation, devices, models
from vanishing.training.step import Learner, losses, upload

COLUMNS = {
    "initialisation": "of the weights",
    "precision": "of the training",
    "layers": "convolutions and the classifier",
    "blocks": "processing blocks in each stage",
    "seed": "of weights, order and augmentation",
    "signal": "at initialisation: standard deviation over images of the classifier's input over its mean, in size",
    "entry_gradient": "at initialisation: mean |dL/dW| of the entry convolution",
    "epoch": "from 1 to the last that the network was trained for",
    "steps": "minibatches so far",
    "train_loss": "mean over the epoch's minibatches, in nats",
    "train_accuracy": "likewise, as a fraction",
    "val_loss": "with the weights at the end of the epoch, in nats",
    "standard_errors": "of the validation loss, by which it lies below that of chance",
}
"""What the columns mean; a row is an epoch of a network."""

MEASURED = 4
"""Minibatches, of the size of training, on which signal and gradient are measured at initialisation."""

Images = tuple[Tensor, Tensor]
"""uint8 (n, 3, 32, 32), and labels, int64 (n,)."""


@dataclass(frozen=True)
class Network:
    """A network of the sweep, and the seed of its training."""

    layers: int
    run: config.Run
    seed: int

    @property
    def name(self) -> str:
        """What progress and cost estimate call it."""
        model, train = self.run.model, self.run.train
        return f"{self.layers} layers, {model.initialisation}, {train.precision}, seed {self.seed}"


def measure(settings: config.Parameters, dataset: Dataset) -> pd.DataFrame:
    """Train every network of the block, and return a row for each epoch; see `COLUMNS`.

    The rows of each network are kept in `paths.KEPT_NETWORKS`; see `kept`.

    Args:
        settings: the parameters, of which the block names the networks and how they are trained.
        dataset: training and validation images, from which the block's are drawn; the test set is not used.
    """
    block, runs = settings.trainable_depth, list(networks(settings))
    parts = hold_out(dataset.train, block.images, block.seed)[1], hold_out(dataset.val, block.held_out, block.seed)[1]
    content = hashlib.sha256(b"".join(part.images.tobytes() for part in parts)).hexdigest()
    shared = block.model_dump(mode="json", exclude={"sweeps"})

    def trained(network: Network, device: torch.device) -> pd.DataFrame:
        return _train(block, network, *(upload(part, device) for part in parts))

    found = []
    with Progress("trainable depth", sum(each.layers for each in runs), unit="layer") as progress:
        for network in runs:
            run = network.run
            device = devices.configure(run.train)
            depends = shared, run.configuration(), network.seed, content, devices.environment(run.train, device)
            found.append(kept.table(paths.KEPT_NETWORKS, depends, partial(trained, network, device)))
            progress.advance(network.layers)
    return pd.concat(found)


def networks(settings: config.Parameters) -> Iterator[Network]:
    """Yield every network of the block."""
    block = settings.trainable_depth
    train = {
        "epochs": block.epochs, "batch_size": block.batch_size, "learning_rate": block.learning_rate,
        "final_learning_rate": block.learning_rate, "schedule": "constant", "weight_decay": 0.0, "l1": 0.0,
        "patience": 0, "kernels": "pytorch", "threads": block.threads, "snapshots": [],
    }  # fmt: skip
    for sweep in block.sweeps:
        trained = settings.train.model_copy(update=train | {"precision": sweep.precision})
        for layers in sweep.layers:
            model = depth_prediction.plain(settings.model, layers, sweep.initialisation)
            run = config.Run(data=settings.data, model=model, train=trained)
            yield from (Network(layers, run, seed) for seed in sweep.seeds)


def _train(block: config.TrainableDepth, network: Network, train: Images, val: Images) -> pd.DataFrame:
    """Train a network until it is beyond doubt or the epochs are over; return a row for each epoch."""
    run = network.run
    learner = Learner(run, network.seed, train[0].device)
    shared = {
        "initialisation": run.model.initialisation,
        "precision": run.train.precision,
        "layers": network.layers,
        "blocks": " ".join(map(str, run.model.blocks_by_stage)),
        "seed": network.seed,
        **_initial(network, block, train),
    }
    rows: list[dict[str, Any]] = []
    minibatches = math.ceil(len(train[0]) / block.batch_size)
    with Progress(network.name, block.epochs, unit="epoch") as progress:
        for epoch in range(1, block.epochs + 1):
            draws = augmentation.draw(len(train[0]), network.seed, epoch).to(learner.device)
            row = _epoch(learner, block.batch_size, draws, train, val)
            rows.append(shared | {"epoch": epoch, "steps": epoch * minibatches} | row)
            progress.advance()
            progress.show(
                f"validation {row['val_loss']:.3f}, {row['standard_errors']:.1f} standard errors below chance"
            )
            if not row["standard_errors"] < block.strict_threshold:  # passed, or not finite
                break
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _epoch(
    learner: Learner, batch_size: int, draws: augmentation.Draws, train: Images, val: Images
) -> dict[str, float]:
    images, labels = train
    starts = range(0, len(images), batch_size)
    for start in starts:
        learner.step(images, labels, draws.batch(start, batch_size))
    trained, found = learner.metrics(len(starts)), losses(learner.model, *val, learner.bf16, learner.scaling)
    below, error = float(math.log(len(torch.unique(val[1]))) - found.mean()), float(found.std()) / math.sqrt(len(found))
    return {
        "train_loss": trained.loss,
        "train_accuracy": trained.accuracy,
        "val_loss": float(found.mean()),
        "standard_errors": below / error if error else 0.0,  # without error all logits are equal
    }


def _initial(network: Network, block: config.TrainableDepth, train: Images) -> dict[str, float]:
    """Measure signal and gradient of a network before its training, on plain images in double precision."""
    run = network.run
    model = models.build(run.model, run.data.classes, network.seed).to(train[0].device).double()
    order = augmentation.draw(len(train[0]), block.seed, epoch=0).order.to(train[0].device)
    chosen = torch.split(order, block.batch_size)[:MEASURED]
    batches = [(augmentation.normalise(train[0][part], run.data.scaling).double(), train[1][part]) for part in chosen]
    gradient = float(gradient_flow(model, batches).mean_abs_gradient.iloc[0])
    below = nn.Sequential(*list(model)[:-1])
    with torch.no_grad():
        inputs = torch.cat([below(images) for images, _ in batches]).cpu().numpy()
    spread, mean = inputs.std(axis=0, ddof=1), inputs.mean(axis=0)
    return {"signal": float(np.linalg.norm(spread) / np.linalg.norm(mean)), "entry_gradient": gradient}
