"""Cost estimate of trainings and analyses: arithmetic, disk, and the time that they take on this machine.

The training step is timed for seconds in two of the models; a step of any other is taken to cost
a * layers + b * multiply-accumulates. Analyses are estimated in the same way from the pass of a minibatch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from vanishing import config
from vanishing.console import counted

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

WINDOWS = 3
"""Into which it is divided; the fastest counts, since whatever else the machine does slows a step."""

Setting = tuple[str, int, str, str]

Seconds = Callable[..., tuple[float, str]]
"""Measures the seconds of a minibatch of a `config.Run`, and names the hardware."""


@dataclass(frozen=True)
class Analysis:
    """What an analysis has left to measure of a run."""

    name: str
    seeds: list[int]
    """Whose trajectories are not measured yet."""
    images: float
    """Its arithmetic for one trajectory, in forward passes of one image."""
    precision: Literal["fp32", "fp64"]


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
    analyses: list[Analysis] = field(default_factory=list)
    part: tuple[int, int, int] | None = None
    """Its training, validation and test images, where it does not take the whole data set."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Training, validation and test images."""
        return self.part or self.run.data.sizes

    @property
    def work(self) -> float:
        """Billions of multiply-accumulates in the forward pass of a minibatch."""
        return self.size.macs * self.run.train.batch_size / 1e9

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a training, evaluation included."""
        train, val, test = self.sizes
        return self.size.macs * (self.run.train.epochs * (STEP * train + val) + test)

    @property
    def last_share(self) -> float:
        """Share of a training's arithmetic that follows its last epoch: the test, and the validation once more."""
        _, val, test = self.sizes
        return self.size.macs * (val + test) / self.macs

    @property
    def steps(self) -> float:
        """Steps of a training, the evaluation counted in steps of the same arithmetic."""
        train, val, test = self.sizes
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
    analyses: dict[tuple[str, str], float] = field(default_factory=dict)
    """Seconds of one trajectory, by run and analysis."""


def estimate(
    listed: Iterable[Entry],
    step_seconds: Seconds | None = None,
    at_once: int = 1,
    pass_seconds: Seconds | None = None,
) -> Estimate:
    """Estimate the time of the trainings and analyses that are left, from a measurement of two runs for each setting.

    Args:
        listed: the runs; nothing is measured where nothing is left.
        step_seconds: returns the seconds of a training step and the device; `time_step` by default.
        at_once: trainings that share the device.
        pass_seconds: the same of an analysis' pass, which also takes its `precision`; `time_pass` by default.
    """
    listed = list(listed)
    beside = f" beside {counted(at_once - 1, 'other')}" if at_once > 1 else ""
    step, one = step_seconds or partial(time_step, at_once=at_once), pass_seconds or time_pass
    seconds: dict[str, float] = {}
    lines: list[str] = []
    for (*_, precision, _), group in _grouped(listed, lambda entry: [entry.setting] if entry.to_train else []):
        found = _fitted(group, step, f"a step{beside} in {precision}", lines)
        seconds |= {entry.name: entry.steps * each for entry, each in zip(group, found, strict=True)}
    analyses: dict[tuple[str, str], float] = {}
    for (*_, precision), group in _grouped(listed, _analysed):
        found = _fitted(group, partial(one, precision=precision), f"a pass in {precision}", lines)
        for entry, each in zip(group, found, strict=True):
            chosen = [analysis for analysis in entry.analyses if analysis.precision == precision and analysis.seeds]
            size = entry.run.train.batch_size
            analyses |= {(entry.name, analysis.name): analysis.images / size * each for analysis in chosen}
    return Estimate(seconds, lines, at_once, analyses)


def _analysed(entry: Entry) -> list[Setting]:
    """List the settings in which something of a run is left to analyse."""
    device, threads, _, _ = entry.setting
    return sorted({(device, threads, "", each.precision) for each in entry.analyses if each.seeds})


def _grouped(
    listed: Iterable[Entry], settings: Callable[[Entry], Iterable[Setting]]
) -> Iterable[tuple[Setting, list[Entry]]]:
    """Group runs by their settings."""
    groups: dict[Setting, list[Entry]] = {}
    for entry in listed:
        for setting in settings(entry):
            groups.setdefault(setting, []).append(entry)
    return groups.items()


def _fitted(group: Sequence[Entry], measure: Seconds, unit: str, lines: list[str]) -> list[float]:
    """Return the seconds of a minibatch for each run of a group, and add the measurements behind them to `lines`."""
    samples = []
    for reference in _references(group):
        measured, device = measure(reference.run)
        samples.append((reference.size.layers, reference.work, measured))
        lines.append(f"{reference.name}: {float(f'{measured * 1000:.3g}'):g} ms {unit} on {device}")
    a, b = fit(samples)
    return [a * entry.size.layers + b * entry.work for entry in group]


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
    steps = max(1, int(MEASURED_FOR / WINDOWS / timed(1)))
    return min(timed(steps) for _ in range(WINDOWS)), devices.hardware(device)


def time_pass(run: config.Run, precision: str) -> tuple[float, str]:
    """Time a pass of an analysis: a third of a gradient on a random minibatch, in that precision; and the hardware."""
    import torch
    from torch.nn import functional

    from vanishing.data.records import SHAPE
    from vanishing.training import devices, models

    device, size = devices.configure(run.train, measuring=True), run.train.batch_size
    kind = torch.float64 if precision == "fp64" else torch.float32
    model = models.build(run.model, run.data.classes, seed=0).to(device, kind)
    images = torch.randn(size, *SHAPE, generator=torch.Generator().manual_seed(0)).to(device, kind)
    labels = torch.zeros(size, dtype=torch.long, device=device)

    def timed(gradients: int) -> float:
        start = time.perf_counter()
        for _ in range(gradients):
            loss = functional.cross_entropy(model(images), labels)
            float(torch.autograd.grad(loss, list(model.parameters()))[0].sum())  # waits for the device
        return (time.perf_counter() - start) / gradients

    timed(1)
    gradients = max(1, int(MEASURED_FOR / WINDOWS / timed(1)))
    return min(timed(gradients) for _ in range(WINDOWS)) / STEP, devices.hardware(device)
