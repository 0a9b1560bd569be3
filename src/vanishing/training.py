"""Training: the step, the schedule, and a loop that can be killed at any moment.

Everything random is drawn from (seed, epoch), so what a run needs to go on is its tensors and its
place; it ends with the bytes of an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from vanishing import augmentation, checkpoints, devices, parameters, paths
from vanishing.data import Dataset, check
from vanishing.errors import UserError
from vanishing.learner import Figures, Learner, evaluate, fastest_step, upload
from vanishing.progress import Progress, say

STATE = "state.safetensors"
"""File of the resumable state, beside the snapshots taken so far."""

SAVE_EVERY = 30.0
"""Seconds between two writes of the resumable state: what a kill can cost, and the moment that a write takes."""


class Interrupted(UserError):
    """The process was told to stop; its state is saved."""

    def __init__(self, signal_number: int, place: str) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}, saved at {place}; the same command goes on")
        self.exit_code = 128 + signal_number


@dataclass(frozen=True)
class Epoch:
    """A row of `history.csv`: losses in nats, accuracies as fractions."""

    epoch: int
    learning_rate: float
    """Of the epoch's first iteration."""
    train_loss: float
    """Mean over the epoch's minibatches, in training mode, as the weights change."""
    train_accuracy: float
    val_loss: float
    """With the weights at the end of the epoch, in evaluation mode."""
    val_accuracy: float

    @property
    def finite(self) -> bool:
        """Whether both losses are numbers."""
        return math.isfinite(self.train_loss) and math.isfinite(self.val_loss)


@dataclass
class Place:
    """How far a training has come."""

    epoch: int = 1
    iteration: int = 0
    """Iterations done within `epoch`."""
    history: list[Epoch] = field(default_factory=list)

    @property
    def diverged(self) -> bool:
        """Whether a loss was no number."""
        return bool(self.history) and not self.history[-1].finite

    @property
    def best(self) -> Epoch | None:
        """The epoch of best validation accuracy, the first of equals; None if no loss was a number."""
        return max((row for row in self.history if row.finite), key=lambda row: row.val_accuracy, default=None)


@dataclass(frozen=True)
class Outcome:
    """What a training gives, beside the files of its trajectory."""

    history: list[Epoch]
    status: str
    """`completed`, `diverged` or `stopped early`."""
    best: Epoch | None
    test: Figures | None
    """With the weights of the best epoch."""
    snapshots: list[int]
    iterations: int = field(default=0, compare=False, repr=False)
    """Done by this process: fewer than all of them where an earlier start was interrupted."""
    seconds: float = field(default=0.0, compare=False, repr=False)
    """That they took, with the validation after each epoch; files are written meanwhile."""


def learning_rate(train: parameters.Train, epoch: int, iteration: int, iterations: int) -> float:
    """Return the learning rate of an iteration: constant, or cosine annealing (Loshchilov & Hutter 2017, no restarts).

    Args:
        train: start, end, number of epochs, and which of the three schedules.
        epoch: from 1.
        iteration: within the epoch, from 0.
        iterations: of an epoch.

    `cosine_per_epoch` changes once an epoch and nears the end at the last. `cosine_per_iteration` takes
    its step at every iteration while the period stays that many epochs: it falls to the end in `epochs`
    iterations and rises again in as many, on and on. `constant` stays at the start and has no use for the end.
    """
    if train.schedule == "constant":
        return train.learning_rate
    steps = epoch - 1 if train.schedule == "cosine_per_epoch" else (epoch - 1) * iterations + iteration
    share = (1 + math.cos(math.pi * steps / train.epochs)) / 2
    return train.final_learning_rate + (train.learning_rate - train.final_learning_rate) * share


def train(run: parameters.Run, seed: int, dataset: Dataset, folder: Path, title: str) -> Outcome:
    """Train a run to its end, from where an earlier start was interrupted if it was.

    Args:
        run: the effective configuration.
        seed: of initialisation, order and augmentation.
        dataset: training, validation and test images.
        folder: takes the state, and the trajectory as it comes into being; a folder that holds the state of
            another configuration must not be handed in, see `state_key`.
        title: what progress is reported under.

    Raises:
        Interrupted: after SIGINT or SIGTERM, once the state is saved.
        UserError: if the data set is not the one that the configuration describes.
    """
    check(dataset, run.data)
    device = devices.configure(run.train)
    return _Training(run, seed, dataset, folder, device).finish(title)


def forget(folder: Path) -> None:
    """Delete the state of a training, before the snapshots that it stands on: it would go on without them."""
    (folder / STATE).unlink(missing_ok=True)


def state_key(run: parameters.Run, data_hash: str, environment: dict[str, Any]) -> str:
    """Return a name for the state of a training: equal for trainings that may go on from one another.

    Args:
        run: the effective configuration.
        data_hash: SHA-256 of the data set's file.
        environment: what `devices.environment` names.
    """
    content = [run.configuration(), data_hash, environment]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class _Training:
    """One training under way."""

    def __init__(self, run: parameters.Run, seed: int, dataset: Dataset, folder: Path, device: torch.device) -> None:
        self.run, self.seed, self.folder, self.device = run, seed, folder, device
        images, labels = upload(dataset.train, device)
        self.size = len(images)
        self.val, self.test = upload(dataset.val, device), upload(dataset.test, device)
        self.iterations = math.ceil(self.size / run.train.batch_size)  # a short last batch is kept
        self.learner = Learner(run, seed, device)
        self.step = fastest_step(self.learner, images, labels, run.train.batch_size)
        self.writer = checkpoints.Writer(device)
        self.best: dict[str, Tensor] = {}
        self.place = Place()
        self.saved = time.monotonic()

    def finish(self, title: str) -> Outcome:
        """Run every epoch that is left, then the test."""
        with self.writer:
            if not (self._state.exists() and self._load()):
                self._keep(paths.snapshot(self.folder, 0))
            total = self.run.train.epochs * self.iterations
            done = (self.place.epoch - 1) * self.iterations + self.place.iteration
            started = time.monotonic()
            with _signals() as caught, Progress(title, total, done) as progress:
                while self.place.epoch <= self.run.train.epochs and self._status(self.place) == "completed":
                    self._epoch(progress, caught)
            seconds = time.monotonic() - started
            iterations = (self.place.epoch - 1) * self.iterations - done
            return replace(self._outcome(), iterations=iterations, seconds=seconds)

    def _epoch(self, progress: Progress, caught: list[int]) -> None:
        """Run the epoch that is under way to its end."""
        epoch, size = self.place.epoch, self.run.train.batch_size
        plan = augmentation.draw(self.size, self.seed, epoch).to(self.device)
        for iteration in range(self.place.iteration, self.iterations):
            self.learner.rate.fill_(learning_rate(self.run.train, epoch, iteration, self.iterations))
            self.step(plan.batch(iteration * size, size))
            self.place.iteration = iteration + 1
            progress.advance()
            self._save_if_due(caught)
        row = self._row()
        self.place = Place(epoch + 1, 0, [*self.place.history, row])
        self._keep_trajectory(row)
        progress.figures(
            f"epoch {epoch}/{self.run.train.epochs}, loss {row.train_loss:.3f}, "
            f"validation {row.val_loss:.3f} and {row.val_accuracy:.1%}"
        )
        self._save_if_due(caught)

    def _row(self) -> Epoch:
        trained = self.learner.figures(self.iterations)
        rate = learning_rate(self.run.train, self.place.epoch, 0, self.iterations)
        val = evaluate(self.learner.model, *self.val, bf16=self.learner.bf16)
        return Epoch(self.place.epoch, rate, *trained, *val)

    def _keep_trajectory(self, row: Epoch) -> None:
        """Keep the epoch's weights if they are wanted; those of a diverged epoch are not."""
        if row.epoch in self._snapshots(self.place):
            self._keep(paths.snapshot(self.folder, row.epoch))
        if row == self.place.best:
            self.best = {name: tensor.clone() for name, tensor in self.learner.model.state_dict().items()}

    def _keep(self, path: Path) -> None:
        self.writer.write(path, self.learner.model.state_dict())

    def _outcome(self) -> Outcome:
        """Use the test set, for the first and only time."""
        place, test = self.place, None
        if place.best:
            self.learner.model.load_state_dict(self.best)
            self._keep(paths.best(self.folder))
            test = evaluate(self.learner.model, *self.test, bf16=self.learner.bf16)
        return Outcome(place.history, self._status(place), place.best, test, self._snapshots(place))

    @property
    def _state(self) -> Path:
        return self.folder / STATE

    def _save_if_due(self, caught: list[int]) -> None:
        if not caught and time.monotonic() - self.saved < SAVE_EVERY:
            return
        best = {f"best.{name}": tensor for name, tensor in self.best.items()}
        self.writer.write(self._state, self.learner.tensors() | best, asdict(self.place))
        self.saved = time.monotonic()
        if caught:
            self.writer.wait()
            raise Interrupted(caught[0], f"epoch {self.place.epoch}, iteration {self.place.iteration}")

    def _load(self) -> bool:
        """Go on from the saved state; if it cannot be used, say so and return False: the training begins anew."""
        try:
            tensors, values = checkpoints.read(self._state)
            place = self._checked(tensors, values)
            for epoch in self._snapshots(place):
                checkpoints.read(paths.snapshot(self.folder, epoch))
        except checkpoints.CheckpointError as error:
            say(f"{error}; the training begins anew")
            return False
        self.learner.restore(tensors)
        best = {name: tensor for name, tensor in tensors.items() if name.startswith("best.")}
        self.best = {name.removeprefix("best."): tensor.to(self.device) for name, tensor in best.items()}
        self.place = place
        say(f"going on from epoch {place.epoch}, iteration {place.iteration}")
        return True

    def _checked(self, tensors: dict[str, Tensor], values: Any) -> Place:
        """Return the place of a saved state; `CheckpointError` unless it is one of this training, with its tensors."""
        written = json.dumps(values, sort_keys=True)
        try:
            place = TypeAdapter(Place).validate_json(written, strict=True)
        except ValidationError:
            raise checkpoints.CheckpointError(f"{self._state}: no place of a training in it") from None
        epochs = [row.epoch for row in place.history]
        within = 0 <= place.iteration <= self.iterations and place.epoch <= self.run.train.epochs + 1
        whole = written == json.dumps(asdict(place), sort_keys=True) and place.epoch == len(epochs) + 1
        if not (within and whole and epochs == list(range(1, len(epochs) + 1))):
            raise checkpoints.CheckpointError(f"{self._state}: no place of this training in it")
        best = self.learner.model.state_dict() if place.best else {}
        needed = self.learner.tensors() | {f"best.{name}": tensor for name, tensor in best.items()}
        if _kinds(tensors) != _kinds(needed):
            raise checkpoints.CheckpointError(f"{self._state}: tensors of another training")
        return place

    def _snapshots(self, place: Place) -> list[int]:
        """List the epochs whose weights are kept by the time that a training is at `place`."""
        reached = place.epoch - 1 - place.diverged
        kept = {epoch for epoch in self.run.train.snapshot_epochs if epoch <= reached}
        return sorted(kept | {reached} if self._status(place) == "stopped early" else kept)

    def _status(self, place: Place) -> str:
        """Say how a training ends, or would if it ended at `place`."""
        if place.diverged:
            return "diverged"
        waited = place.history[-1].epoch - place.best.epoch if place.best else 0
        patience = self.run.train.patience
        return (
            "stopped early" if patience and waited >= patience and place.epoch <= self.run.train.epochs else "completed"
        )


def _kinds(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
