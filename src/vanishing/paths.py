"""Where the pipeline keeps what it makes, relative to the project's folder."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path("results")
TABLES = RESULTS / "tables"
NOTEBOOKS = RESULTS / "notebooks"
REPORT = Path("report")
FIGURES = REPORT / "figures"
COMPARISON = RESULTS / "comparison"
"""Published numbers beside ours; `report/comparison/` has them for people."""
CHECKS = RESULTS / "checks.csv"
"""What was expected of the results, and what was found."""
JOBS = Path("workflow") / "jobs.json"
"""Every run with each of its seeds, for DVC, which cannot work that out."""
PLOTS = Path("workflow") / "dvc.yaml"
"""The curves of each study, for `dvc plots`."""
CONFIGURATION = Path("configuration")
"""What each stage depends on beside its input files, for DVC to compare."""
ANALYSES = RESULTS / "analyses"
"""What was measured along trajectories, beside the gradient flow."""
TRAINABLE_DEPTH = ANALYSES / "trainable_depth.csv"
"""Networks of many depths, and how far each has trained."""
WHY = REPORT / "why"
"""What the report's section on causes is made of; `parts/` has the figures and tables of all analyses."""
RATES = Path("logs") / "rates"
"""How long trainings took: no result, and no input of anything."""
PROGRESS = Path("logs") / "progress"
"""How far unfinished trainings are, for `vanishing status`; a training that ends well removes its own."""
BOARD = Path("logs") / "tensorboard"
"""Curves for TensorBoard, where `tensorboard: true` asks for them."""
SCRATCH = Path(".vanishing")
"""What a killed command goes on from; nothing in it is an output of the pipeline."""
LOCKS = SCRATCH / "locks"
"""One for the engines, and one for each training."""
KEPT_NETWORKS = SCRATCH / "trainable_depth"
"""Rows of the networks that an unfinished sweep over depths has trained."""


def checkpoints(run: str, seed: int) -> Path:
    """Folder of a run's trajectory: the snapshots, and the weights of the best epoch."""
    return Path("checkpoints") / run / f"seed{seed}"


def results(run: str, seed: int) -> Path:
    """Folder of a run's small results: history, summary and gradient flow."""
    return RESULTS / "runs" / run / f"seed{seed}"


def analysis(name: str, run: str, seed: int) -> Path:
    """File of what an analysis has measured along a run's trajectory."""
    return ANALYSES / run / f"seed{seed}" / f"{name}.csv"


def measured(name: str, run: str, seed: int) -> Path:
    """Folder of the snapshots that an unfinished analysis has measured."""
    return SCRATCH / "analyses" / run / f"seed{seed}" / name


def result_files(run: str, seed: int) -> list[Path]:
    """List the files of a run's small results."""
    return [results(run, seed) / name for name in ("history.csv", "summary.json", "gradients.csv")]


def trained(run: str, seed: int, name: str) -> Path:
    """File of a training by the name that its summary calls it."""
    return (results(run, seed) if name == "history.csv" else checkpoints(run, seed)) / name


def resume(run: str, seed: int) -> Path:
    """Folder of the state that an unfinished training goes on from."""
    return SCRATCH / "resume" / run / f"seed{seed}"


def rate(run: str, seed: int) -> Path:
    """File of how long a training took."""
    return RATES / f"{run}-seed{seed}.json"


def progress(run: str, seed: int) -> Path:
    """File of how far an unfinished training is."""
    return PROGRESS / f"{run}-seed{seed}.json"


def snapshot(folder: Path, epoch: int) -> Path:
    """File of the weights at an epoch; 0 is the initialisation."""
    return folder / f"epoch{epoch:04d}.safetensors"


def best(folder: Path) -> Path:
    """File of the weights of the epoch of best validation accuracy."""
    return folder / "best.safetensors"
