"""Cost estimate of trainings: arithmetic, disk, and the time that they take on this machine.

The training step is timed for seconds in two of the models; a step of any other is taken to cost
a * layers + b * multiply-accumulates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vanishing import config

if TYPE_CHECKING:
    from vanishing.training.models import Size

STEP = 3
"""Forward passes that a training step costs: the backward pass takes gradients of inputs and of weights."""

FLOAT = 4
"""Bytes of a weight."""

STATE = 4
"""Copies of the weights in a resumable state: themselves, Adam's two moments, and those of the best epoch."""

MEASURED_FOR = 2.0
"""Seconds for which the steps of a model are timed, after a warm-up."""

FEWEST_STEPS = 3
"""Steps that are timed, however long they take."""

Setting = tuple[str, int, str, str]


@dataclass(frozen=True)
class Entry:
    """A run, its seeds by what is left to do, and the cost of one training."""

    name: str
    run: config.Run
    size: Size
    done: list[int]
    to_measure: list[int]
    """Seeds that are trained, and whose gradient flow is not measured yet."""
    to_train: list[int]

    @property
    def work(self) -> float:
        """Billions of multiply-accumulates in the forward pass of a minibatch."""
        return self.size.macs * self.run.train.batch_size / 1e9

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a training, evaluation included."""
        train, val, test = self.run.data.sizes
        return self.size.macs * (self.run.train.epochs * (STEP * train + val) + test)

    @property
    def last_share(self) -> float:
        """Share of a training's arithmetic that follows its last epoch: the test, and the validation once more."""
        _, val, test = self.run.data.sizes
        return self.size.macs * (val + test) / self.macs

    @property
    def steps(self) -> float:
        """Steps of a training, the evaluation counted in steps of the same arithmetic."""
        train, val, test = self.run.data.sizes
        epochs, size = self.run.train.epochs, self.run.train.batch_size
        return epochs * math.ceil(train / size) + (epochs * val + test) / (STEP * size)

    @property
    def kept(self) -> int:
        """Bytes that a training leaves: the snapshots and the best weights."""
        return (len(self.run.train.snapshot_epochs) + 1) * FLOAT * self.size.parameters

    @property
    def scratch(self) -> int:
        """Bytes that it needs beside them at its end: a second copy of the trajectory, and the resumable state."""
        return self.kept + STATE * FLOAT * self.size.parameters

    @property
    def setting(self) -> Setting:
        """What a step's time depends on beside its arithmetic: device, threads, precision, kernels."""
        train = self.run.train
        return train.device, train.threads, train.precision, train.kernels


@dataclass(frozen=True)
class Estimate:
    """Seconds of one training, by run, and a line for each measurement behind them."""

    seconds: dict[str, float]
    measurements: list[str]
    at_once: int = 1
    """Trainings that share the device meanwhile."""


def estimate(
    listed: Iterable[Entry], step_seconds: Callable[[config.Run], tuple[float, str]] | None = None, at_once: int = 1
) -> Estimate:
    """Estimate the time of the trainings that are left, from a measurement of two of them for each setting.

    Args:
        listed: the runs; nothing is measured where nothing is left to train.
        step_seconds: returns the seconds of a training step and the device; `time_step` by default.
        at_once: trainings that share the device.
    """
    groups: dict[Setting, list[Entry]] = {}
    for entry in listed:
        if entry.to_train:
            groups.setdefault(entry.setting, []).append(entry)
    seconds: dict[str, float] = {}
    lines = []
    for group in groups.values():
        samples = []
        for reference in _references(group):
            measured, device = step_seconds(reference.run) if step_seconds else time_step(reference.run, at_once)
            samples.append((reference.size.layers, reference.work, measured))
            beside = f" beside {at_once - 1} other{'s' if at_once > 2 else ''}" if at_once > 1 else ""
            precision = reference.run.train.precision
            lines.append(
                f"{reference.name}: {float(f'{measured * 1000:.3g}'):g} ms a step{beside} in {precision} on {device}"
            )
        a, b = fit(samples)
        seconds |= {entry.name: entry.steps * (a * entry.size.layers + b * entry.work) for entry in group}
    return Estimate(seconds, lines, at_once)


def _references(group: Sequence[Entry]) -> list[Entry]:
    """Choose the entries of fewest and most layers; among equals that of least, or most, arithmetic and weights."""

    def size(entry: Entry) -> tuple[float, ...]:
        return entry.size.layers, entry.work, entry.size.parameters

    least, most = min(group, key=size), max(group, key=size)
    return [least] if size(least)[:2] == size(most)[:2] else [least, most]


def fit(samples: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Fit seconds = a * layers + b * work to (layers, work, seconds), a and b not negative, by relative error."""
    scaled = np.array([(layers / seconds, work / seconds) for layers, work, seconds in samples])
    both = np.linalg.lstsq(scaled, np.ones(len(scaled)), rcond=None)[0]
    if (both >= 0).all():
        return float(both[0]), float(both[1])
    alone = scaled.sum(axis=0) / (scaled**2).sum(axis=0)  # the best multiple of either column
    error = ((scaled * alone - 1) ** 2).sum(axis=0)
    return (float(alone[0]), 0.0) if error[0] < error[1] else (0.0, float(alone[1]))


def time_step(run: config.Run, at_once: int = 1) -> tuple[float, str]:
    """Time the training step of a run on random images: seconds of a step, and the hardware.

    With `at_once` trainings, as `vanishing train --at-once` has them, it is the time in which each takes one step.
    """
    import torch

    from vanishing.data.records import SHAPE
    from vanishing.training import augmentation, devices, streams
    from vanishing.training.step import Learner, Step

    device, size = devices.configure(run.train), run.train.batch_size
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(256, (size, *SHAPE), dtype=torch.uint8, generator=drawn).to(device)
    labels = torch.randint(run.data.classes, (size,), generator=drawn).to(device)
    minibatch = augmentation.draw(size, 0, 1).to(device)
    together = []
    for stream in (slot.on(device) for slot in streams.slots(at_once)):
        with stream:
            learner = Learner(run, 0, device)
            together.append((stream, learner, Step(learner, images, labels, [size], stream, stream.pool())))

    def timed(steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            for stream, _, step in together:
                with stream:
                    step(minibatch)
        for stream, learner, _ in together:
            with stream:
                learner.metrics(steps)  # waits for the device
        return (time.perf_counter() - start) / steps

    timed(2)
    steps = max(FEWEST_STEPS, int(MEASURED_FOR / timed(1)))
    return timed(steps), devices.hardware(device)
