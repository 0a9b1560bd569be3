"""The small results of runs: written by training and gradient flow, read by tables and figures.

Numbers are text with ten significant digits, so that equal results are equal bytes. Nothing here
holds a time, a date, a host, a path or a revision.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from vanishing import files, parameters, paths
from vanishing.errors import UserError

if TYPE_CHECKING:  # PyTorch takes seconds to import, and readers of results have no use for it
    from vanishing.models import Size
    from vanishing.training import Outcome

HISTORY_COLUMNS = ["epoch", "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
GRADIENT_COLUMNS = ["epoch", "layer", "mean_abs_gradient"]
"""Columns of `gradients.csv` that tables and figures are made of; `vanishing.gradients` writes more."""

Content = TypeVar("Content")


@dataclass(frozen=True)
class Result:
    """What one run gave with one seed."""

    run: str
    seed: int
    summary: dict[str, Any]
    """`summary.json`; see `summarise`."""
    history: pd.DataFrame
    """`history.csv`: a row an epoch."""
    gradients: pd.DataFrame
    """`gradients.csv`: a row a snapshot and weight layer."""

    @property
    def diverged(self) -> bool:
        """Whether a loss was no number."""
        return bool(self.summary["status"] == "diverged")


def summarise(run: parameters.Run, outcome: Outcome, size: Size) -> dict[str, Any]:
    """Put together what `summary.json` says of a training."""
    last, best = outcome.history[-1], outcome.best
    return {
        "status": outcome.status,
        "layers": size.layers,
        "parameters": size.parameters,
        "macs": size.macs,
        "epochs": last.epoch,
        "train": {"loss": _finite(last.train_loss), "accuracy": last.train_accuracy},
        "validation": {"loss": _finite(last.val_loss), "accuracy": last.val_accuracy},
        "best": {"epoch": best.epoch, "loss": best.val_loss, "accuracy": best.val_accuracy} if best else None,
        "test": {"loss": _finite(outcome.test.loss), "accuracy": outcome.test.accuracy} if outcome.test else None,
        "snapshots": outcome.snapshots,
        "configuration": run.configuration(),
    }


def publish(name: str, seed: int, outcome: Outcome, summary: dict[str, Any], folder: Path) -> None:
    """Put a finished training where the pipeline looks for it: trajectory, history, then summary.

    The summary also names the SHA-256 of every other file, and comes last: a reader that sees it sees all
    of them. Whatever stood there before is gone, the gradient flow of earlier weights included.
    """
    target, small = paths.checkpoints(name, seed), paths.results(name, seed)
    trajectory = {path.name: path.read_bytes() for path in _trajectory(folder, outcome)}
    for stale in ("summary.json", "gradients.csv"):
        (small / stale).unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    for file, content in trajectory.items():
        files.write(target / file, content)
    history = pd.DataFrame([asdict(row) for row in outcome.history], columns=HISTORY_COLUMNS)
    write_table(small / "history.csv", history)
    written = [small / "history.csv", *sorted(target.iterdir())]
    complete = summary | {"files": {path.name: files.sha256(path) for path in written}}
    files.write(small / "summary.json", json.dumps(complete, indent=2, allow_nan=False) + "\n")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV with ten significant digits; NaN is written as such."""
    files.write(path, table.to_csv(index=False, float_format="%.10g", na_rep="nan", lineterminator="\n"))


def read(name: str, seed: int) -> Result:
    """Read the results of a run and seed; `UserError` if one is missing or cannot be read."""
    folder = paths.results(name, seed)
    return Result(
        name,
        seed,
        summary=read_summary(folder / "summary.json"),
        history=_read(folder / "history.csv", lambda path: _table(path, HISTORY_COLUMNS)),
        gradients=_read(folder / "gradients.csv", lambda path: _table(path, GRADIENT_COLUMNS)),
    )


def read_summary(path: Path) -> dict[str, Any]:
    """Read a `summary.json`; `UserError` if it is missing, damaged or does not name the files it stands for."""
    return _read(path, _summary)


def available(settings: parameters.Parameters) -> Iterator[tuple[str, int]]:
    """Yield each (run, seed) that has complete results made with today's configuration of that run."""
    return (job for job in settings.jobs() if is_available(settings, *job))


def is_available(settings: parameters.Parameters, name: str, seed: int) -> bool:
    """Return whether a run and seed has complete results made with today's configuration."""
    return _made_so(settings, name, seed, paths.result_files(name, seed))


def trained(settings: parameters.Parameters) -> Iterator[tuple[str, int]]:
    """Yield each (run, seed) whose trajectory is there too, so that its gradient flow can be measured."""
    for name, seed in settings.jobs():
        small = [paths.results(name, seed) / file for file in ("history.csv", "summary.json")]
        if _made_so(settings, name, seed, [*small, paths.snapshot(paths.checkpoints(name, seed), 0)]):
            yield name, seed


def _made_so(settings: parameters.Parameters, name: str, seed: int, wanted: list[Path]) -> bool:
    """Whether the files `wanted` are there and the summary names today's configuration of the run."""
    if not all(path.exists() for path in wanted):
        return False
    summary = read_summary(paths.results(name, seed) / "summary.json")
    return bool(summary.get("configuration") == settings.run(name).configuration())


def _read(path: Path, reader: Callable[[Path], Content]) -> Content:
    """Read a file; `UserError` with the next step if it is missing or not what `reader` expects."""
    try:
        return reader(path)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; `snakemake {path}` makes it") from None
    except (OSError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read ({problem}); delete it and build it again") from None


def _summary(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
        raise ValueError("no summary of a training")
    return content


def _table(path: Path, columns: list[str]) -> pd.DataFrame:
    content = pd.read_csv(path)
    missing = [column for column in columns if column not in content]
    if missing or content.empty:
        raise ValueError(f"no column {missing[0]}" if missing else "no rows")
    return content


def _trajectory(folder: Path, outcome: Outcome) -> list[Path]:
    """List the files of a trajectory: the snapshots, and the best weights if there are any."""
    kept = [paths.snapshot(folder, epoch) for epoch in outcome.snapshots]
    return kept + ([paths.best(folder)] if outcome.best else [])


def _finite(loss: float) -> float | None:
    return loss if abs(loss) < float("inf") else None
