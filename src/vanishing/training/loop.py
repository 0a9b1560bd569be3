"""Training: the step, the schedule, and a loop that can be killed at any moment.

Everything random is drawn from (seed, epoch), so what a run needs to go on is its tensors and its
place; it ends with the bytes of an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from vanishing import config, paths
from vanishing.console import Progress, say
from vanishing.data.dataset import Dataset, check
from vanishing.training import augmentation, checkpoints, devices, round_robin
from vanishing.training.round_robin import Interrupted
from vanishing.training.step import Evaluation, Figures, Learner, Step, evaluate, loss_std, upload
from vanishing.training.streams import Mark, Slot, Stream

STATE = "state.safetensors"
"""File of the resumable state, beside the snapshots taken so far."""

SAVE_EVERY = 30.0
"""Seconds between two writes of the resumable state: what a kill can cost, and the moment that a write takes."""


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

    def __str__(self) -> str:
        return f"epoch {self.epoch}, iteration {self.iteration}"

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
    val_loss_std: float = math.nan
    """Over the validation images, with the weights at the end; see `learner.loss_std`."""
    iterations: int = field(default=0, compare=False, repr=False)
    """Done by this process: fewer than all of them where an earlier start was interrupted."""
    seconds: float = field(default=0.0, compare=False, repr=False)
    """That they took, with the validation after each epoch; files are written meanwhile."""


def learning_rate(train: config.Train, epoch: int, iteration: int, iterations: int) -> float:
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


def train(run: config.Run, seed: int, dataset: Dataset, folder: Path, title: str) -> Outcome:
    """Train a run to its end, from where an earlier start was interrupted if it was.

    Args:
        run: the effective configuration.
        seed: of initialisation, order and augmentation.
        dataset: training, validation and test images.
        folder: see `Training`.
        title: what progress is reported under.

    Raises:
        Interrupted: after SIGINT or SIGTERM, once the state is saved.
        UserError: if the data set is not the one that the configuration describes.
    """
    check(dataset, run.data)
    images = put(dataset, devices.configure(run.train))
    alone = _Alone(lambda slot: Training(run, seed, images, folder, title, slot.on(images.train[0].device)))
    waiting = [alone]
    end = round_robin.run(lambda _: waiting.pop() if waiting else None, at_once=1)
    if end.signal and not alone.outcomes:
        raise Interrupted(end.signal, f"saved at {alone.training.place}" if end.saved else "nothing was under way")
    return alone.outcomes[0]


def forget(folder: Path) -> None:
    """Delete the state of a training, before the snapshots that it stands on: it would go on without them."""
    (folder / STATE).unlink(missing_ok=True)


def state_key(run: config.Run, data_hash: str, environment: dict[str, Any]) -> str:
    """Return a name for the state of a training: equal for trainings that may go on from one another.

    Args:
        run: the effective configuration.
        data_hash: SHA-256 of the data set's file.
        environment: what `devices.environment` names.
    """
    content = [run.configuration(), data_hash, environment]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class Images(NamedTuple):
    """The images of a data set on a device: uint8 (n, 3, 32, 32), and labels, int64 (n,)."""

    train: tuple[Tensor, Tensor]
    val: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def put(dataset: Dataset, device: torch.device) -> Images:
    """Put a data set on a device, once for all trainings that read it."""
    images = Images(*(upload(split, device) for split in (dataset.train, dataset.val, dataset.test)))
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # trainings read them in streams of their own
    return images


class Training:
    """One training under way, in a stream of its own.

    Args:
        run: the effective configuration.
        seed: of initialisation, order and augmentation.
        images: on the device of the run.
        folder: takes the state, and the trajectory as it comes into being; a folder that holds the state of
            another configuration must not be handed in, see `state_key`.
        title: what progress is reported under.
        stream: on the device of `images`; nothing else uses it meanwhile.
    """

    def __init__(self, run: config.Run, seed: int, images: Images, folder: Path, title: str, stream: Stream) -> None:
        self.run, self.seed, self.folder, self.title = run, seed, folder, title
        self.device, self.stream = images.train[0].device, stream
        self.size, self.batch = len(images.train[0]), run.train.batch_size
        self.iterations = math.ceil(self.size / self.batch)  # a short last batch is kept
        self.val, self.test = images.val, images.test
        with self.stream, self.stream.unstrained():
            self.learner = Learner(run, seed, self.device)
            pool, last = self.stream.pool(), self.size - (self.iterations - 1) * self.batch
            sizes = {min(self.batch, self.size), last}
            self.step = Step(self.learner, *images.train, sizes, self.stream, pool)
            self.validation = Evaluation(self.learner.model, *self.val, self.learner.bf16, self.stream, pool)
        self.writer = checkpoints.Writer(self.stream)
        self.best: dict[str, Tensor] = {}
        self.place = Place()
        self.saved = time.monotonic()

    @property
    def total(self) -> int:
        """Iterations of the whole training."""
        return self.run.train.epochs * self.iterations

    @property
    def done(self) -> int:
        """Iterations that are done, by earlier starts too."""
        return (self.place.epoch - 1) * self.iterations + self.place.iteration

    def proceed(self) -> Generator[Mark, None, Outcome]:
        """Run every epoch that is left, then the test; from where an earlier start was interrupted if it was.

        Yields a mark whenever enough has been handed over to the device, and is to be resumed once that is reached.
        Between two turns others may compute in this thread, and `save` may be called.
        """
        turns = self._proceed()
        with contextlib.closing(turns):
            while True:
                devices.resume(self.run.train)
                with self.stream:
                    try:
                        mark = next(turns)
                    except StopIteration as ended:
                        outcome: Outcome = ended.value
                        return outcome
                yield mark

    def _proceed(self) -> Generator[Mark, None, Outcome]:
        with self.writer:
            if not (self._state.exists() and self._load()):
                self._keep(paths.snapshot(self.folder, 0))
            before, started = self.done, time.monotonic()
            with Progress(self.title, self.total, before) as progress:
                while self.place.epoch <= self.run.train.epochs and self._status(self.place) == "completed":
                    yield from self._epoch(progress)
            seconds = time.monotonic() - started
            with self.stream.unstrained():
                return replace(self._outcome(), iterations=self.done - before, seconds=seconds)

    def _epoch(self, progress: Progress) -> Generator[Mark, None, None]:
        """Run the epoch that is under way to its end."""
        epoch, begun, ahead = self.place.epoch, self.place.iteration, deque([self.stream.mark()])
        plan = augmentation.draw(self.size, self.seed, epoch).to(self.device)
        for iteration in range(begun, self.iterations):
            self.learner.rate.fill_(learning_rate(self.run.train, epoch, iteration, self.iterations))
            self.step(plan.batch(iteration * self.batch, self.batch))
            self.place.iteration = iteration + 1
            if self.place.iteration % self.stream.steps == 0:
                progress.advance(self.stream.steps)
                self._save_if_due()
                ahead.append(self.stream.mark())
                yield ahead.popleft()  # not the newest: the device has work while it is waited for
        progress.advance((self.iterations - begun) % self.stream.steps)
        self.validation.launch()
        yield self.stream.mark()
        row = self._row()
        self.place = Place(epoch + 1, 0, [*self.place.history, row])
        self._keep_trajectory(row)
        progress.figures(
            f"epoch {epoch}/{self.run.train.epochs}, loss {row.train_loss:.3f}, "
            f"validation {row.val_loss:.3f} and {row.val_accuracy:.1%}"
        )
        self._save_if_due()
        yield self.stream.mark()

    def _row(self) -> Epoch:
        trained = self.learner.figures(self.iterations)
        rate = learning_rate(self.run.train, self.place.epoch, 0, self.iterations)
        return Epoch(self.place.epoch, rate, *trained, *self.validation.figures())

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
        deviation = loss_std(self.learner.model, *self.val, bf16=self.learner.bf16)
        if place.best:
            self.learner.model.load_state_dict(self.best)
            self._keep(paths.best(self.folder))
            test = evaluate(self.learner.model, *self.test, bf16=self.learner.bf16)
        return Outcome(place.history, self._status(place), place.best, test, self._snapshots(place), deviation)

    @property
    def _state(self) -> Path:
        return self.folder / STATE

    def save(self) -> None:
        """Save the state, and wait until it is written."""
        with self.stream:
            self._save()
        self.writer.wait()

    def _save_if_due(self) -> None:
        if time.monotonic() - self.saved >= SAVE_EVERY:
            self._save()

    def _save(self) -> None:
        best = {f"best.{name}": tensor for name, tensor in self.best.items()}
        self.writer.write(self._state, self.learner.tensors() | best, asdict(self.place))
        self.saved = time.monotonic()

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


class _Alone:
    """A training as a task without others."""

    training: Training

    def __init__(self, begin: Callable[[Slot], Training]) -> None:
        self.begin, self.outcomes = begin, list[Outcome]()

    def proceed(self, slot: Slot) -> Generator[Mark, None, None]:
        self.training = self.begin(slot)
        self.outcomes.append((yield from self.training.proceed()))

    def save(self) -> None:
        self.training.save()
