"""What every analysis of a trajectory shares: its snapshots, one after another, on the same minibatches.

A snapshot that is measured is kept until the whole trajectory is, so that a killed command resumes after it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from vanishing import config, files, paths
from vanishing.analysis import gradient_flow
from vanishing.console import Progress
from vanishing.data.records import Split
from vanishing.results import store
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
    batches: list[tuple[Tensor, Tensor]]
    """Normalised images, (batch, 3, 32, 32) in single precision, and their labels, on the device.

    They are cropped and flipped as in training: their black borders change the statistics of batch normalisation, which
    every network has in its entry, so that a trained network fits plain images worse in training mode.
    """


Measure = Callable[[Snapshot], pd.DataFrame]


def measure_trajectory(
    name: str, job: tuple[str, int], settings: config.Parameters, train: Split, device: torch.device, measure: Measure
) -> pd.DataFrame:
    """Measure the chosen snapshots of a trajectory, and return the rows of all with their `epoch` in front.

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
    batches = gradient_flow.fixed_batches(block, train, device, augmented=True)
    there = gradient_flow.snapshot_epochs(folder)
    epochs = [epoch for epoch in there if epoch in block.snapshots or epoch == there[-1]]
    kept, key = paths.measured(name, *job), _key(block, run, folder, there, device)
    with Progress(f"{name} of {folder}", len(epochs), unit="snapshot") as progress:
        for epoch in epochs:
            path = kept / f"{key}-{epoch}.csv"
            if not path.exists():
                model = gradient_flow.network(run, device)
                checkpoints.load_weights(paths.snapshot(folder, epoch), model)
                table = measure(Snapshot(model, epoch, epochs, folder, run, batches))
                table.insert(0, "epoch", epoch)
                store.write_table(path, table)
            progress.advance()
    # as text throughout, so that the bytes are those of a measurement without interruption
    return pd.concat([pd.read_csv(kept / f"{key}-{epoch}.csv", dtype=str, keep_default_na=False) for epoch in epochs])


def forget(name: str, run: str, seed: int) -> None:
    """Remove the snapshots kept for an analysis that is finished."""
    shutil.rmtree(paths.measured(name, run, seed), ignore_errors=True)


def _key(block: config.Analysis, run: config.Run, folder: Path, epochs: list[int], device: torch.device) -> str:
    """Hash what a measured snapshot depends on: the configuration, the trajectory, PyTorch, the device and threads."""
    trajectory = [files.sha256(paths.snapshot(folder, epoch)) for epoch in epochs]
    parts = [block.configuration(), run.configuration(), trajectory, devices.environment(run.train, device)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
