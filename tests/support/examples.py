"""Small studies, and results that no training has made: what the tests of tables, figures and report stand on."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from vanishing import config, files, paths
from vanishing.results import store

ROOT = Path(__file__).resolve().parents[2]
PROJECT = config.read(ROOT / "params.yaml")
"""The project's own parameters as plain values, read once: it takes a twentieth of a second."""

SMALL: dict[str, Any] = {
    "data": {"set": "generated", "validation_per_class": 5, "generated": {"classes": 10, "train_per_class": 20}},
    "train": {"epochs": 2, "batch_size": 10, "precision": "fp32", "device": "cpu", "threads": 1, "snapshots": [1]},
    "gradients": {"batches": 2, "batch_size": 10},
    "analyses": {name: {"snapshots": [0], "batches": 2, "batch_size": 10} for name in PROJECT["analyses"]},
    "trainable_depth": {
        "sweeps": [{"initialisation": "default", "precision": "fp32", "layers": [8], "seeds": [0]}],
        "images": 2, "held_out": 1, "epochs": 2, "batch_size": 5,
    },
    "seeds": [0],
}  # fmt: skip
"""Laid over the project's parameters: seconds of work, and 10 classes, so that chance is 10 % and ln 10."""


def committed() -> list[str]:
    """List the files that git knows, by their paths in the project; skip the test in an unpacked source archive."""
    git = ["git", "ls-files", "-z"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False) if shutil.which("git") else None
    names = listed.stdout.split("\0") if listed else []
    if not any(names):  # or another repository, in which the archive was unpacked
        pytest.skip("git knows no file of this folder, as in an unpacked source archive")
    return [name for name in names if name and (ROOT / name).is_file()]


def copy_committed(folder: Path) -> None:
    """Copy the files that git knows into a folder, as they are now; skips as `committed` does."""
    for name in committed():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


def content(overlay: Mapping[str, Any] | None = None, runs: Sequence[str] = ("vgg08", "vgg38")) -> dict[str, Any]:
    """Return the project's parameters as plain values, made small, with the study `core` of `runs` only."""
    merged = config.merge(copy.deepcopy(PROJECT), SMALL)
    merged = config.with_runs(merged, runs)
    merged["runs"] = {run: merged["runs"].get(run, {}) for run in runs}
    merged["studies"] = {"core": {"title": "Depth", "runs": list(runs)}}
    return config.merge(merged, overlay or {})


def study(overlay: Mapping[str, Any] | None = None, runs: Sequence[str] = ("vgg08", "vgg38")) -> config.Parameters:
    """Check what `content` returns."""
    return config.check(content(overlay, runs))


def result(  # noqa: PLR0917 - figures of a result, each with a default
    configured: config.Parameters,
    run: str,
    seed: int = 0,
    train: tuple[float, float] = (1.5, 0.5),
    val: tuple[float, float] = (1.6, 0.4),
    test: tuple[float, float] = (1.7, 0.3),
    epochs: int = 2,
    layers: int = 4,
    snapshots: Sequence[int] = (0, 1, 2),
    gradient: Callable[[int, int], float] = lambda epoch, layer: 1e-3 * layer / (1 + epoch),
    status: str | None = None,
) -> None:
    """Write the results of a run and seed: every epoch has the same figures, and (loss, accuracy) are pairs.

    A training loss that is no number makes the run a diverged one, where `status` says nothing else. Gradients on
    augmented images are twice those on plain ones, and the one normalisation has those of the first layer.
    """
    folder = paths.results(run, seed)
    history = [[epoch, 1e-3, *train, *val] for epoch in range(1, epochs + 1)]
    store.write_table(folder / "history.csv", pd.DataFrame(history, columns=store.HISTORY_COLUMNS))
    flow = [
        (epoch, images, layer, kind, name, factor * gradient(epoch, layer))
        for epoch in snapshots
        for images, factor in (("plain", 1), ("augmented", 2))
        for layer, kind, name in _layers(layers)
    ]
    store.write_table(folder / "gradients.csv", pd.DataFrame(flow, columns=store.GRADIENT_COLUMNS))
    diverged = not abs(train[0]) < float("inf")
    summary = {
        "run": run,
        "seed": seed,
        "status": status or ("diverged" if diverged else "completed"),
        "layers": layers,
        "parameters": 59716,
        "epochs": epochs,
        "train": {"loss": None if diverged else train[0], "accuracy": train[1]},
        "validation": {"loss": None if diverged else val[0], "accuracy": val[1], "loss_std": 2.0},
        "best": None if diverged else {"epoch": epochs, "loss": val[0], "accuracy": val[1]},
        "test": None if diverged else {"loss": test[0], "accuracy": test[1]},
        "snapshots": list(snapshots),
        "configuration": configured.run(run).configuration(),
        "data": {"sha256": "0" * 64},
        "environment": {"device": "cpu", "kind": "AVX2", "torch": "2.13.0", "precision": "fp32", "threads": 1},
    }
    files.write(folder / "summary.json", json.dumps(summary))
    sign(run, seed)


def _layers(count: int) -> list[tuple[int, str, str]]:
    """Name the layers of a plain network: the first convolution has a normalisation, the last layer is linear."""
    convolutions = [(layer, "convolution", f"layer{layer}") for layer in range(1, count)]
    return [*convolutions[:1], (1, "normalisation", "norm"), *convolutions[1:], (count, "linear", f"layer{count}")]


def sign(run: str, seed: int = 0) -> None:
    """Enter the hash of a history in the summary: that of one edited by hand, for checks of what it says."""
    folder = paths.results(run, seed)
    summary = json.loads((folder / "summary.json").read_text())
    summary["files"] = {"history.csv": files.sha256(folder / "history.csv")}
    files.write(folder / "summary.json", json.dumps(summary))


def rewrite(run: str, seed: int = 0, **columns: Sequence[float]) -> None:
    """Give columns of a history these values, one an epoch; the summary stays as it is, its hash aside."""
    path = paths.results(run, seed) / "history.csv"
    store.write_table(path, pd.read_csv(path).assign(**columns))
    sign(run, seed)


def own(data: config.Data, train: Sequence[int] = (20, 10, 10), test: Sequence[int] = (5, 5, 5)) -> config.Data:
    """Return the block `data` with the user's own images, so many of each class after validation has had its share."""
    counts = [data.validation_per_class + more for more in train]
    folder = config.Folder(
        title="Mugs & pots", sha256="0123456789abcdef" * 4, train=counts, test=list(test), seed=0,
        mean=[0.5, 0.4, 0.3], std=[0.25, 0.2, 0.15],
    )  # fmt: skip
    return data.model_copy(update={"set": "folder", "folder": folder})


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Call `act` once, in the step of this number, whichever training takes it."""
    from vanishing.training import step  # PyTorch takes seconds to import

    original, steps = step.Learner.step, iter(range(1, number + 1))

    def counted(self: step.Learner, *rest: Any) -> None:
        original(self, *rest)
        if next(steps, None) == number:
            act()

    monkeypatch.setattr(step.Learner, "step", counted)
