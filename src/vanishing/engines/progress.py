"""How far a training is, in a small file that `vanishing status` reads; and curves for TensorBoard, where wanted.

Nothing depends on these files, and no hash is taken of them. They are in `logs/`, where all machines see them.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from vanishing import config, files, paths
from vanishing.console import say
from vanishing.errors import UserError, line

if TYPE_CHECKING:  # PyTorch takes seconds to import, and readers of progress have no use for it
    from collections.abc import Sequence

    from vanishing.training.loop import Epoch, Training

EVERY = 5.0
"""Seconds between two writes."""

CURVES = {
    "loss/training": "train_loss",
    "loss/validation": "val_loss",
    "accuracy/training": "train_accuracy",
    "accuracy/validation": "val_accuracy",
    "learning rate": "learning_rate",
}
"""Tags in TensorBoard, and the columns of `history.csv` that they show."""


class Reporter:
    """Says how a training goes on: enter it before the training is built, leave it once its results are published.

    Args:
        settings: the parameters.
        name: a run.
        seed: one of its seeds.
    """

    def __init__(self, settings: config.Parameters, name: str, seed: int) -> None:
        self._path = paths.progress(name, seed)
        self._content: dict[str, object] = {"configuration": settings.run(name).configuration()}
        self._curves = Curves(name, seed) if settings.tensorboard else None
        self._first: tuple[float, int] | None = None
        self._told = -EVERY

    def __enter__(self) -> Self:
        self._write()  # over what an earlier start has told
        return self

    def update(self, training: Training) -> None:
        """Take note of where a training is; most calls do nothing more."""
        if self._curves:
            self._curves.update(training.place.history)
        now = time.monotonic()
        if now - self._told >= EVERY:
            self._told = now
            self._look(training, now)
            self._write()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._path.unlink(missing_ok=True)
        elif isinstance(error, Exception):  # others stop a training that has not failed
            told = line(error) if isinstance(error, UserError | OSError) else f"{type(error).__name__}: {error}"
            self._content["error"] = " ".join(told.split())
            self._write()

    def _look(self, training: Training, now: float) -> None:
        self._first = self._first or (now, training.done)
        seconds, steps = now - self._first[0], training.done - self._first[1]
        rate = steps / seconds if steps else None
        self._content |= {
            "epoch": training.place.epoch,
            "epochs": training.run.train.epochs,
            "iteration": training.place.iteration,
            "iterations": training.iterations,
            "state": f"{training.state}",
            "steps_per_second": rate,
            "seconds_left": (training.total - training.done) / rate if rate else None,
        }

    def _write(self) -> None:
        content = json.dumps(self._content | {"time": time.time()}) + "\n"
        with contextlib.suppress(OSError):  # of a full disk: the training itself says so, if it needs room
            files.write(self._path, content, durable=False)


class Curves:
    """The history of a training as TensorBoard reads it, written anew from the first epoch by each start.

    A resumed training would otherwise have the epochs twice that it repeats. Where nothing can be written, one line
    says so and the training goes on. This is why PyTorch's `SummaryWriter`, whose thread meets a full disk with a
    traceback, is not used.

    Args:
        name: a run.
        seed: one of its seeds.
    """

    def __init__(self, name: str, seed: int) -> None:
        self._folder = paths.BOARD / name / f"seed{seed}"
        self._path = self._folder / f"events.out.tfevents.{time.time():.0f}"
        self._written = 0
        self._failed = False

    def update(self, history: Sequence[Epoch]) -> None:
        """Write the epochs that are new."""
        if self._failed or len(history) == self._written:
            return
        try:
            if not self._written:
                if self._folder.exists():
                    shutil.rmtree(self._folder)
                self._folder.mkdir(parents=True)
            self._append(history[self._written :])
        except OSError as error:
            self._failed = True
            say(f"{self._folder}: {error.strerror or error}; the training goes on without curves for TensorBoard")
        self._written = len(history)

    def _append(self, rows: Sequence[Epoch]) -> None:
        records, events, summaries = _tensorboard()
        with self._path.open("ab") as handle:
            writer, now = records.RecordWriter(handle), time.time()
            if not self._written:
                writer.write(events.Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
            for row in rows:
                values = [{"tag": tag, "simple_value": getattr(row, column)} for tag, column in CURVES.items()]
                summary = summaries.Summary(value=values)
                writer.write(events.Event(wall_time=now, step=row.epoch, summary=summary).SerializeToString())


def check(settings: config.Parameters) -> None:
    """Raise `UserError` if curves for TensorBoard are wanted and its package is missing."""
    if settings.tensorboard:
        _tensorboard()


def _tensorboard() -> list[Any]:
    """Return TensorBoard's modules of its file format: records, events and summaries."""
    names = ("summary.writer.record_writer", "compat.proto.event_pb2", "compat.proto.summary_pb2")
    try:
        return [importlib.import_module(f"tensorboard.{name}") for name in names]
    except ImportError:
        raise UserError(
            "tensorboard is not installed; run `pip install tensorboard`, or set `tensorboard: false`"
        ) from None
