"""The small results of runs: written by training and gradient flow, read by tables and figures.

Numbers are text with ten significant digits, so that equal results are equal bytes. Nothing here
holds a time, a date, a host, a path or a revision.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vanishing import config, files, git, paths
from vanishing.errors import UserError

if TYPE_CHECKING:  # PyTorch takes seconds to import, and readers of results have no use for it
    from vanishing.training.loop import Outcome
    from vanishing.training.models import Size

HISTORY_COLUMNS = ["epoch", "learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
GRADIENT_COLUMNS = ["epoch", "images", "layer", "kind", "name", "mean_abs_gradient"]
"""Columns of `gradients.csv` that tables and figures are made of."""

IMAGES = ("plain", "augmented")
"""Kinds of images that gradient flow is measured on, in the order of the rows."""

KINDS = ("convolution", "linear", "normalisation")
"""Kinds of layers that are measured; those of the first two are the weight layers."""

GRADIENT_MEASURES = [
    "std_abs_gradient",
    "max_abs_gradient",
    "gradient_norm",
    "weight_norm",
    "gradient_weight_ratio",
    "zero_share",
]
"""Measures that `vanishing.analysis.gradient_flow` writes beside them."""

Content = TypeVar("Content")
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


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
    """`gradients.csv`: a row a snapshot, kind of images and layer."""

    @property
    def diverged(self) -> bool:
        """Whether a loss became non-finite."""
        return bool(self.summary["status"] == "diverged")

    def final(self, count: int) -> pd.DataFrame:
        """Return the last `count` rows of the history."""
        return self.history.sort_values("epoch").tail(count)


class _Metrics(BaseModel):
    """A loss in nats, None for a non-finite one, and an accuracy as a fraction."""

    model_config = ConfigDict(strict=True, extra="allow")
    loss: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    accuracy: Annotated[float, Field(ge=0, le=1)]


class _Validation(_Metrics):
    """And the standard deviation of the loss over images, which early trainings do not say."""

    loss_std: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class _Best(_Metrics):
    """The metrics of the epoch of best validation accuracy."""

    epoch: Annotated[int, Field(ge=1)]


class _Data(BaseModel):
    """The data file that a training read."""

    model_config = ConfigDict(strict=True, extra="allow")
    sha256: Digest


class _Summary(BaseModel):
    """What readers of a `summary.json` rely on; a summary says more."""

    model_config = ConfigDict(strict=True, extra="allow")
    status: Literal["completed", "diverged", "stopped early"]
    layers: Annotated[int, Field(ge=1)]
    parameters: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]
    train: _Metrics
    validation: _Validation
    best: _Best | None
    test: _Metrics | None
    snapshots: list[Annotated[int, Field(ge=0)]]
    configuration: dict[str, dict[str, Any]]
    files: dict[
        Annotated[str, Field(pattern=r"^[a-z0-9_]+\.(csv|safetensors)$")],
        Digest,
    ]
    data: _Data
    environment: dict[str, Annotated[str, Field(max_length=200, pattern=config.LATIN)] | int | float]


def summarise(run: config.Run, outcome: Outcome, size: Size) -> dict[str, Any]:
    """Put together what `summary.json` says of a training."""
    last, best = outcome.history[-1], outcome.best
    return {
        "status": outcome.status,
        "layers": size.layers,
        "parameters": size.parameters,
        "macs": size.macs,
        "epochs": last.epoch,
        "train": {"loss": _finite(last.train_loss), "accuracy": last.train_accuracy},
        "validation": {
            "loss": _finite(last.val_loss),
            "accuracy": last.val_accuracy,
            "loss_std": _finite(outcome.val_loss_std),
        },
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
    files.write(path, as_text(table))


def as_text(table: pd.DataFrame) -> str:
    """Return a table as `write_table` writes it."""
    return table.to_csv(index=False, float_format="%.10g", na_rep="nan", lineterminator="\n")


def read(name: str, seed: int) -> Result:
    """Read the results of a run and seed; `UserError` if one is missing or cannot be read."""
    folder = paths.results(name, seed)
    path = folder / "history.csv"
    summary, history = read_summary(folder / "summary.json"), read_history(path)
    if len(history) != summary["epochs"]:
        raise UserError(f"{path}: has {len(history)} epochs, and the summary {summary['epochs']}; build both again")
    ended = not np.isfinite(history[["train_loss", "val_loss"]].iloc[-1]).all()
    if ended != (summary["status"] == "diverged"):
        raise UserError(f"{path}: its last losses do not fit the summary's {summary['status']!r}; build both again")
    check_history(name, seed, summary)
    return Result(name, seed, summary, history, read_gradients(folder / "gradients.csv"))


def check_history(name: str, seed: int, summary: dict[str, Any]) -> None:
    """Raise `UserError` unless the history is the one that the summary names.

    Values edited by hand can look plausible.
    """
    folder = paths.results(name, seed)
    path, expected = folder / "history.csv", summary["files"]["history.csv"]
    if files.sha256(path) != expected:
        raise UserError(
            f"{path}: not what {folder / 'summary.json'} says, SHA-256 {expected}; {back(path, name, seed)}"
        )


def back(path: Path, name: str, seed: int) -> str:
    """Say how to get a file of a training back; training it again, which takes hours, comes last."""
    command = git.checkout(path) if path.is_relative_to(paths.RESULTS) else git.checkout(path, "dvc checkout --force")
    return f"`{command}` brings it back if it was recorded, `vanishing train {name} --seed {seed}` makes it again"


def check_trajectory(run: config.Run, name: str, seed: int) -> None:
    """Raise `UserError` unless all files of a trajectory are there, made with the current configuration of its run."""
    summary = check_configuration(run, name, seed)
    for file in (paths.trained(name, seed, each) for each in summary["files"]):
        if not file.exists():
            raise UserError(f"{file}: missing; {back(file, name, seed)}")


def check_configuration(run: config.Run, name: str, seed: int) -> dict[str, Any]:
    """Return the summary of a training; `UserError` unless it was made with the current configuration of its run."""
    path, again = paths.results(name, seed) / "summary.json", f"`vanishing train {name} --seed {seed}`"
    summary = read_summary(path)
    made_with = config.completed(summary["configuration"])
    for block, values in run.configuration().items():
        for key, value in values.items():
            before = made_with.get(block, {}).get(key)
            if before != value:
                raise UserError(
                    f"{path}: trained with {block}.{key} = {before!r}, and the parameters say {value!r}; "
                    f"set that back, or {again} trains anew"
                )
    return summary


def read_summary(path: Path) -> dict[str, Any]:
    """Read a `summary.json`; `UserError` if it is missing, damaged or does not name the files it stands for."""
    return _read(path, _summary)


def read_history(path: Path) -> pd.DataFrame:
    """Read a `history.csv`; `UserError` if it is missing or holds what no training writes."""
    return _read(path, _history)


def read_gradients(path: Path) -> pd.DataFrame:
    """Read a `gradients.csv`; `UserError` if it is missing or holds what no measurement writes."""
    return _read(path, _gradients)


def matches(settings: config.Parameters, name: str, summary: Mapping[str, Any]) -> bool:
    """Return whether a summary, or another record of a training, has today's configuration of the run `name`."""
    return config.completed(summary["configuration"]) == settings.run(name).configuration()


def trainings(settings: config.Parameters) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield RUN/seedS and the summary of each training made with today's configuration of that run."""
    for name, seed in settings.jobs():
        path = paths.results(name, seed) / "summary.json"
        if path.exists():
            summary = read_summary(path)
            if matches(settings, name, summary):
                yield f"{name}/seed{seed}", summary


def available(settings: config.Parameters) -> Iterator[tuple[str, int]]:
    """Yield each (run, seed) that has complete results made with today's configuration of that run."""
    return (job for job in settings.jobs() if is_available(settings, *job))


def is_available(settings: config.Parameters, name: str, seed: int) -> bool:
    """Return whether a run and seed has complete results made with today's configuration."""
    return _made_so(settings, name, seed, paths.result_files(name, seed))


def is_trained(settings: config.Parameters, name: str, seed: int) -> bool:
    """Return whether a run and seed was trained with today's configuration, its gradient flow measured or not."""
    files_of = [paths.results(name, seed) / file for file in ("history.csv", "summary.json")]
    return _made_so(settings, name, seed, files_of)


def trained(settings: config.Parameters) -> Iterator[tuple[str, int]]:
    """Yield each (run, seed) whose trajectory is there too, so that its gradient flow can be measured."""
    return (job for job in settings.jobs() if _is_measurable(settings, *job))


def is_missing(settings: config.Parameters, name: str, seed: int) -> bool:
    """Return whether a run and seed is left to train: neither `available` nor `trained`."""
    return not (is_available(settings, name, seed) or _is_measurable(settings, name, seed))


def _is_measurable(settings: config.Parameters, name: str, seed: int) -> bool:
    return is_trained(settings, name, seed) and paths.snapshot(paths.checkpoints(name, seed), 0).exists()


def _made_so(settings: config.Parameters, name: str, seed: int, wanted: list[Path]) -> bool:
    """Whether the files `wanted` are there and the summary names today's configuration of the run."""
    if not all(path.exists() for path in wanted):
        return False
    return matches(settings, name, read_summary(paths.results(name, seed) / "summary.json"))


def _read(path: Path, reader: Callable[[Path], Content]) -> Content:
    """Read a file; `UserError` with the next step if it is missing or not what `reader` expects."""
    try:
        files.check_plain(path, files.RESULT_BYTES)
        return reader(path)
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {_restore(path)}, or `snakemake {path}` makes it") from None
    except (OSError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: cannot be read ({problem}); {_restore(path)}, or delete and build it again") from None


def _restore(path: Path) -> str:
    return f"`{git.checkout(path)}` brings it back if it was committed"


def _summary(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
        raise ValueError("no summary of a training")
    try:
        checked = _Summary.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))!r}: {first['msg']}") from None
    if "history.csv" not in checked.files:
        raise ValueError("'files': no hash of history.csv")
    if checked.status != "diverged" and (checked.train.loss is None or not checked.best or not checked.test):
        raise ValueError(f"{checked.status}, and without a training loss, a best epoch or a test")
    return content


def _history(path: Path) -> pd.DataFrame:
    table = _table(path, HISTORY_COLUMNS, [])
    _check_numbers(table, HISTORY_COLUMNS)
    if table.epoch.tolist() != list(range(1, len(table) + 1)):
        raise ValueError("the epochs are not 1, 2, 3, ... in this order")
    finite = pd.DataFrame(np.isfinite(table), columns=table.columns)
    losses = finite.train_loss & finite.val_loss
    if not losses.is_monotonic_decreasing:
        raise ValueError("a finite loss after a non-finite one; training stops at the first non-finite loss")
    if not finite.drop(columns=["train_loss", "val_loss"]).all(axis=None):
        raise ValueError("a rate or accuracy that is no number")
    if (table[["train_accuracy", "val_accuracy"]] > 1).any(axis=None):
        raise ValueError("an accuracy above 1")
    return table


def _gradients(path: Path) -> pd.DataFrame:
    table = _table(path, GRADIENT_COLUMNS, GRADIENT_MEASURES)
    measures = [column for column in GRADIENT_MEASURES if column in table]
    _check_numbers(table, ["epoch", "layer", "mean_abs_gradient", *measures])
    for column, allowed in (("images", IMAGES), ("kind", KINDS)):
        if odd := set(table[column]) - set(allowed):
            raise ValueError(f"{str(min(odd, key=str))[:60]!r} in column {column}; allowed: {', '.join(allowed)}")
    layer = ["layer", "kind", "name"]
    rows = list(table[["epoch", "images", *layer]].itertuples(index=False, name=None))
    block = [row[2:] for row in rows if row[:2] == (rows[0][0], "plain")]
    # two trainings of an earlier version were measured on plain images alone
    images = [kind for kind in IMAGES if kind == "plain" or kind in set(table["images"])]
    if rows != [(epoch, kind, *row) for epoch in sorted(set(table.epoch)) for kind in images for row in block]:
        raise ValueError("the rows are not each layer of each snapshot and kind of images, once and in order")
    if [number for number, _, _ in block] != list(accumulate((kind != "normalisation" for _, kind, _ in block))):
        raise ValueError("the layers are not numbered 1, 2, 3, ..., a normalisation as the one before it")
    return table


def _table(path: Path, needed: list[str], beside: list[str]) -> pd.DataFrame:
    """Read a CSV file that has the columns `needed`, and no others than those `beside` them."""
    content = pd.read_csv(path)
    missing = [column for column in needed if column not in content]
    if missing or content.empty:
        raise ValueError(f"no column {missing[0]}" if missing else "no rows")
    odd = [column for column in content if column not in (*needed, *beside)]
    if odd:
        raise ValueError(f"unknown column {str(odd[0])[:60]!r}")
    if not content.index.equals(pd.RangeIndex(len(content))):
        raise ValueError("a row has more cells than there are columns")
    return content


def _check_numbers(table: pd.DataFrame, columns: list[str]) -> None:
    """Raise `ValueError` unless the columns hold numbers that are not negative; NaN and infinity are let through."""
    for column in columns:
        if not pd.api.types.is_numeric_dtype(table[column]) or pd.api.types.is_bool_dtype(table[column]):
            raise ValueError(f"text in column {column}")
        if (table[column] < 0).any():
            raise ValueError(f"a negative number in column {column}")


def weight_layers(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of convolutions and linear layers on plain images."""
    return table[(table["images"] == "plain") & (table["kind"] != "normalisation")]


def _trajectory(folder: Path, outcome: Outcome) -> list[Path]:
    """List the files of a trajectory: the snapshots, and the best weights if there are any."""
    kept = [paths.snapshot(folder, epoch) for epoch in outcome.snapshots]
    return kept + ([paths.best(folder)] if outcome.best else [])


def _finite(loss: float) -> float | None:
    return loss if abs(loss) < float("inf") else None
