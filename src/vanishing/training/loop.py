"""A training from initialisation to test: the schedule, and a loop that can be killed at any moment.

All randomness is drawn from (seed, epoch). To go on, a run therefore needs only its tensors and its place, and it ends
with the bytes of an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from vanishing import config, paths
from vanishing.console import Progress, say
from vanishing.data.records import Dataset, check
from vanishing.training import augmentation, checkpoints, devices, round_robin
from vanishing.training.schedule import learning_rate
from vanishing.training.step import Evaluation, Learner, Metrics, Step, evaluate, loss_std, upload
from vanishing.training.streams import Mark, Slot, Stream

STATE = "state.safetensors"
"""File of the resumable state, beside the snapshots taken so far."""

SAVE_EVERY = 30.0
"""Seconds between two writes of the resumable state: a kill costs as much, and the moment that a write takes."""


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
        """Whether both losses are finite."""
        return math.isfinite(self.train_loss) and math.isfinite(self.val_loss)


@dataclass
class Place:
    """How far a training has come."""

    epoch: int = 1
    iteration: int = 0
    """Iterations done within `epoch`."""
    history: list[Epoch] = field(default_factory=list)

    def __str__(self) -> str:
        return f"epoch {self.epoch}, iteration {self.iteration}"

    @property
    def diverged(self) -> bool:
        """Whether the last epoch has a non-finite loss."""
        return bool(self.history) and not self.history[-1].finite

    @property
    def best(self) -> Epoch | None:
        """The epoch of best validation accuracy, the first of equals; None before the first finite one."""
        return max((row for row in self.history if row.finite), key=lambda row: row.val_accuracy, default=None)


@dataclass(frozen=True)
class Outcome:
    """The result of a training, beside the files of its trajectory."""

    history: list[Epoch]
    status: str
    """`completed`, `diverged` or `stopped early`."""
    best: Epoch | None
    test: Metrics | None
    """With the weights of the best epoch."""
    snapshots: list[int]
    val_loss_std: float = math.nan
    """Over the validation images, with the final weights; see `step.loss_std`."""
    iterations: int = field(default=0, compare=False, repr=False)
    """Number that this process did: fewer than all of them after an interruption."""
    seconds: float = field(default=0.0, compare=False, repr=False)
    """Duration of these iterations, with the validation after each epoch; files are written meanwhile."""


def train(run: config.Run, seed: int, dataset: Dataset, folder: Path, title: str) -> Outcome:
    """Train a run to its end, going on where an earlier start was interrupted.

    Args:
        run: the effective configuration.
        seed: of initialisation, order and augmentation.
        dataset: training, validation and test images.
        folder: see `Training`.
        title: names the training in its progress.

    Raises:
        Interrupted: after SIGINT or SIGTERM, once the state is saved.
        UserError: if the data set is not the one that the configuration describes.
    """
    check(dataset, run.data)
    training = Training(run, seed, Images.upload(dataset, devices.configure(run.train)), folder, title)
    waiting = [training]
    end = round_robin.run(lambda _: waiting.pop() if waiting else None, at_once=1)
    if end.signal and (end.saved or waiting):
        raise round_robin.Interrupted(end.signal, "nothing was under way" if waiting else f"saved at {training.place}")
    return training.outcome


def state_key(run: config.Run, data_hash: str, environment: dict[str, Any]) -> str:
    """Return a key for the state of a training, equal where one training may go on from the state of another.

    Args:
        run: the effective configuration.
        data_hash: SHA-256 of the data set's file.
        environment: from `devices.environment`.
    """
    content = [run.configuration(), data_hash, environment]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Images(NamedTuple):
    """The images of a data set on a device: uint8 (n, 3, 32, 32), and labels, int64 (n,)."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @classmethod
    def upload(cls, dataset: Dataset, device: torch.device) -> Images:
        """Copy a data set to a device, once for all trainings that read it."""
        images = cls(*(upload(split, device) for split in (dataset.train, dataset.val, dataset.test)))
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # trainings read them in streams of their own
        return images


class Training:
    """One training, in a stream of its own: a task of `round_robin`.

    Args:
        run: the effective configuration.
        seed: of initialisation, order and augmentation.
        images: on the device of the run.
        folder: for the state and the trajectory; it must not hold the state of another configuration, see `state_key`.
        title: names the training in its progress.

    Attributes:
        outcome: once `proceed` has come to its end.
    """

    stream: Stream
    learner: Learner
    step: Step
    validation: Evaluation
    writer: checkpoints.Writer
    outcome: Outcome

    def __init__(self, run: config.Run, seed: int, images: Images, folder: Path, title: str) -> None:
        self.run, self.seed, self.images, self.folder, self.title = run, seed, images, folder, title
        self.device, self.state = images.train[0].device, folder / STATE
        self.size, self.batch = len(images.train[0]), run.train.batch_size
        self.iterations = math.ceil(self.size / self.batch)  # a short last batch is kept
        self.best: dict[str, Tensor] = {}
        self.place = Place()
        self.begun = False
        self.saved = time.monotonic()

    @property
    def total(self) -> int:
        """Iterations of the whole training."""
        return self.run.train.epochs * self.iterations

    @property
    def done(self) -> int:
        """Iterations done so far, those before an interruption included."""
        return (self.place.epoch - 1) * self.iterations + self.place.iteration

    def proceed(self, slot: Slot) -> Generator[Mark, None, None]:
        """Run the epochs that are left, then the test; go on from a saved state if there is one.

        Yields a mark whenever it has handed over enough work; resume it once the device has reached the mark. Between
        two turns other trainings may compute in this thread, and `save` may be called.
        """
        self.stream = slot.on(self.device)
        with contextlib.closing(self._turns()) as turns:
            while True:
                devices.reconfigure(self.run.train)
                with self.stream:
                    mark = next(turns, None)
                if mark is None:
                    return
                yield mark

    def _turns(self) -> Generator[Mark, None, None]:
        self._build()
        with self.writer:
            if not (self.state.exists() and self._load()):
                self._keep(paths.snapshot(self.folder, 0))
            before, started = self.done, time.monotonic()
            with Progress(self.title, self.total, before) as progress:
                while self.place.epoch <= self.run.train.epochs and self._status(self.place) == "completed":
                    yield from self._epoch(progress)
            seconds = time.monotonic() - started
            with self.stream.no_failed_allocations():
                self.outcome = self._test(self.done - before, seconds)

    def _build(self) -> None:
        """Initialise the model; record the training step and the validation."""
        with self.stream.no_failed_allocations():
            self.learner = Learner(self.run, self.seed, self.device)
            pool, last = self.stream.pool(), self.size - (self.iterations - 1) * self.batch
            sizes = {min(self.batch, self.size), last}
            self.step = Step(self.learner, *self.images.train, sizes, self.stream, pool)
            model, bf16 = self.learner.model, self.learner.bf16
            self.validation = Evaluation(model, *self.images.val, bf16, self.stream, pool, self.run.data.scaling)
        self.writer = checkpoints.Writer(self.stream)
        self.begun = True

    def _epoch(self, progress: Progress) -> Generator[Mark, None, None]:
        """Run the rest of the epoch that is under way."""
        epoch, begun, ahead = self.place.epoch, self.place.iteration, deque([self.stream.mark()])
        draws = augmentation.draw(self.size, self.seed, epoch).to(self.device)
        for iteration in range(begun, self.iterations):
            self.learner.rate.fill_(learning_rate(self.run.train, epoch, iteration, self.iterations))
            self.step(draws.batch(iteration * self.batch, self.batch))
            self.place.iteration = iteration + 1
            if self.place.iteration % self.stream.steps == 0:
                progress.advance(self.stream.steps)
                self._save_if_due()
                ahead.append(self.stream.mark())
                yield ahead.popleft()  # not the newest: the device has work while the thread waits
        progress.advance((self.iterations - begun) % self.stream.steps)
        self.validation.launch()
        yield self.stream.mark()
        rate = learning_rate(self.run.train, epoch, 0, self.iterations)
        row = Epoch(epoch, rate, *self.learner.metrics(self.iterations), *self.validation.metrics())
        self.place = Place(epoch + 1, 0, [*self.place.history, row])
        self._keep_trajectory(row)
        progress.show(
            f"epoch {epoch}/{self.run.train.epochs}, loss {row.train_loss:.3f}, "
            f"validation {row.val_loss:.3f} and {row.val_accuracy:.1%}"
        )
        self._save_if_due()
        yield self.stream.mark()

    def _keep_trajectory(self, row: Epoch) -> None:
        """Keep the weights of the epoch if they are a snapshot or the best so far; never those of a diverged one."""
        if row.epoch in self._snapshots(self.place):
            self._keep(paths.snapshot(self.folder, row.epoch))
        if row == self.place.best:
            self.best = {name: tensor.clone() for name, tensor in self.learner.model.state_dict().items()}

    def _keep(self, path: Path) -> None:
        self.writer.write(path, self.learner.model.state_dict())

    def _test(self, iterations: int, seconds: float) -> Outcome:
        """Use the test set, for the first and only time."""
        place, model, bf16, test = self.place, self.learner.model, self.learner.bf16, None
        deviation = loss_std(model, *self.images.val, bf16, self.run.data.scaling)
        if place.best:
            model.load_state_dict(self.best)
            self._keep(paths.best(self.folder))
            test = evaluate(model, *self.images.test, bf16, self.run.data.scaling)
        status, snapshots = self._status(place), self._snapshots(place)
        return Outcome(place.history, status, place.best, test, snapshots, deviation, iterations, seconds)

    def save(self) -> None:
        """Save the state, if there is any yet, and wait until it is written."""
        if self.begun:
            with self.stream:
                self._save()
            self.writer.wait()

    def _save_if_due(self) -> None:
        if time.monotonic() - self.saved >= SAVE_EVERY:
            self._save()

    def _save(self) -> None:
        best = {f"best.{name}": tensor for name, tensor in self.best.items()}
        self.writer.write(self.state, self.learner.tensors() | best, asdict(self.place))
        self.saved = time.monotonic()

    def _load(self) -> bool:
        """Go on from the saved state and return True; if it cannot be used, say so and return False."""
        try:
            tensors, values = checkpoints.read(self.state)
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
        say(f"going on from {place}")
        return True

    def _checked(self, tensors: dict[str, Tensor], values: Any) -> Place:
        """Return the place in a saved state; `CheckpointError` unless it is a state of this training, and whole."""
        written = json.dumps(values, sort_keys=True)
        try:
            place = TypeAdapter(Place).validate_json(written, strict=True)
        except ValidationError:
            raise checkpoints.CheckpointError(f"{self.state}: not the state of a training") from None
        epochs = [row.epoch for row in place.history]
        within = 0 <= place.iteration <= self.iterations and place.epoch <= self.run.train.epochs + 1
        whole = written == json.dumps(asdict(place), sort_keys=True) and place.epoch == len(epochs) + 1
        if not (within and whole and epochs == list(range(1, len(epochs) + 1))):
            raise checkpoints.CheckpointError(f"{self.state}: not a state of this training")
        best = self.learner.model.state_dict() if place.best else {}
        needed = self.learner.tensors() | {f"best.{name}": tensor for name, tensor in best.items()}
        if _types(tensors) != _types(needed):
            raise checkpoints.CheckpointError(f"{self.state}: tensors of another training")
        return place

    def _snapshots(self, place: Place) -> list[int]:
        """List the epochs whose weights a training keeps up to `place`."""
        reached = place.epoch - 1 - place.diverged
        kept = {epoch for epoch in self.run.train.snapshot_epochs if epoch <= reached}
        return sorted(kept | {reached} if self._status(place) == "stopped early" else kept)

    def _status(self, place: Place) -> str:
        """Return the status of a training that ends at `place`."""
        if place.diverged:
            return "diverged"
        waited = place.history[-1].epoch - place.best.epoch if place.best else 0
        out_of_patience = 0 < self.run.train.patience <= waited and place.epoch <= self.run.train.epochs
        return "stopped early" if out_of_patience else "completed"


def _types(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
