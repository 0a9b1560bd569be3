"""What every analysis of a trajectory shares: its snapshots, one after another, on the same minibatches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from vanishing import config, files, paths
from vanishing.analysis import gradient_flow, kept
from vanishing.analysis.vectors import Batch
from vanishing.console import Progress
from vanishing.data.records import Split
from vanishing.training import checkpoints, devices
from vanishing.training.models import VGG


@dataclass(frozen=True)
class Snapshot:
    """The weights of a network at an epoch, and the minibatches to measure it on."""

    model: VGG
    """In single precision, on the device, in training mode; the measurement may do with it what it likes."""
    epoch: int
    epochs: list[int]
    """All that are measured of the trajectory."""
    folder: Path
    """Of the trajectory."""
    run: config.Run
    batches: list[Batch]
    """Normalised images, (batch, 3, 32, 32) in single precision, and their labels, on the device.

    They are cropped and flipped as in training: their black borders change the statistics of batch normalisation, which
    every network has in its entry, so that a trained network fits plain images worse in training mode.
    """


Measure = Callable[[Snapshot], pd.DataFrame]


def measure_trajectory(
    name: str, job: tuple[str, int], settings: config.Parameters, train: Split, device: torch.device, measure: Measure
) -> pd.DataFrame:
    """Measure the chosen snapshots of a trajectory, and return the rows of all with their `epoch` in front.

    Each is kept in `paths.measured`; see `kept`.

    Args:
        name: of the analysis.
        job: run and seed.
        settings: the parameters, of which the block of the analysis names snapshots and minibatches.
        train: the training images.
        device: to compute on.
        measure: returns the rows of a snapshot.

    Raises:
        CheckpointError: if a snapshot is damaged, or not of the run's model.
    """
    block, run, folder = settings.analyses[name], settings.run(job[0]), paths.checkpoints(*job)
    batches = gradient_flow.fixed_batches(block, train, device, augmented=True, scaling=run.data.scaling)
    there = gradient_flow.snapshot_epochs(folder)
    epochs = [epoch for epoch in there if epoch in block.snapshots or epoch == there[-1]]
    trajectory = [files.sha256(paths.snapshot(folder, epoch)) for epoch in there]
    depends = block.configuration(), run.configuration(), trajectory, devices.environment(run.train, device)

    def rows(epoch: int) -> pd.DataFrame:
        model = gradient_flow.network(run, device)
        checkpoints.load_weights(paths.snapshot(folder, epoch), model)
        table = measure(Snapshot(model, epoch, epochs, folder, run, batches))
        table.insert(0, "epoch", epoch)
        return table

    tables = []
    with Progress(f"{name} of {folder}", len(epochs), unit="snapshot") as progress:
        for epoch in epochs:
            tables.append(kept.table(paths.measured(name, *job), [*depends, epoch], partial(rows, epoch)))
            progress.advance()
    return pd.concat(tables)
