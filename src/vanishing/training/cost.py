"""What a study asks for before anything of it runs: arithmetic, disk, and the time that it takes on this machine.

The time is an estimate: the project's own step is timed for seconds in two models of those still to be
trained, and a step of every other is taken to cost a * layers + b * multiply-accumulates.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vanishing import config
from vanishing.results import store

if TYPE_CHECKING:
    from vanishing.training.models import Size

STEP = 3
"""Forward passes that a training step costs: the backward pass takes gradients of inputs and of weights."""

FLOAT = 4
"""Bytes of a weight."""

STATE = 4
"""Copies of the weights in a resumable state: themselves, Adam's two moments, and those of the best epoch."""

MEASURED_FOR = 2.0
"""Seconds that the steps of a model are timed for, after a warm-up."""

FEWEST_STEPS = 3
"""Steps that are timed, however long they take."""


@dataclass(frozen=True)
class Entry:
    """A run, its seeds by what is left to do for them, and what one training of it asks for."""

    name: str
    run: config.Run
    size: Size
    done: list[int]
    to_measure: list[int]
    """Seeds that are trained, and whose gradient flow is not measured yet."""
    to_train: list[int]

    @classmethod
    def of(cls, name: str, run: config.Run, to_train: list[int]) -> Entry:
        """Return the entry of a run whose seeds are all to be trained."""
        from vanishing.training import models

        return cls(name, run, models.measure(run.model, run.data.classes), [], [], to_train)

    @property
    def seeds(self) -> int:
        """Number of trainings."""
        return len(self.done + self.to_measure + self.to_train)

    @property
    def work(self) -> float:
        """Billions of multiply-accumulates in the forward pass of a minibatch."""
        return self.size.macs * self.run.train.batch_size / 1e9

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a training, evaluation included."""
        train, val, test = self._images
        return self.size.macs * (self.run.train.epochs * (STEP * train + val) + test)

    @property
    def last_share(self) -> float:
        """Share of the arithmetic of a training that its end takes: the test, and the validation once more."""
        _, val, test = self._images
        return self.size.macs * (val + test) / self.macs

    @property
    def steps(self) -> float:
        """Steps of a training, the evaluation counted in steps of the same arithmetic."""
        train, val, test = self._images
        epochs, size = self.run.train.epochs, self.run.train.batch_size
        return epochs * math.ceil(train / size) + (epochs * val + test) / (STEP * size)

    @property
    def kept(self) -> int:
        """Bytes that a training leaves: the snapshots and the best weights."""
        return (len(self.run.train.snapshot_epochs) + 1) * FLOAT * self.size.parameters

    @property
    def scratch(self) -> int:
        """Bytes that it needs beside them at its end: its own copy of the trajectory, and the resumable state."""
        return self.kept + STATE * FLOAT * self.size.parameters

    @property
    def setting(self) -> tuple[str, int, str, str]:
        """What a step's time depends on beside its arithmetic: device, threads, precision, kernels."""
        train = self.run.train
        return train.device, train.threads, train.precision, train.kernels

    @property
    def _images(self) -> tuple[int, int, int]:
        data = self.run.data
        train, val, test = data.train_per_class, data.validation_per_class, data.test_per_class
        return data.classes * train, data.classes * val, data.classes * test


@dataclass(frozen=True)
class Estimate:
    """Seconds of one training, by run, and a line for each measurement that they come from."""

    seconds: dict[str, float]
    measurements: list[str]
    at_once: int = 1
    """Trainings that share the device meanwhile."""


def entries(settings: config.Parameters, studies: Sequence[str] = ()) -> list[Entry]:
    """List the runs of `studies`, of all where none is named, in the order of `params.yaml`.

    A (run, seed) is done where its results are there, made with today's configuration; a training alone is,
    where its trajectory is too. `ParameterError` for a study that is not configured.
    """
    from vanishing.training import models

    chosen = chosen_runs(settings, studies)
    done, trained = set(store.available(settings)), set(store.trained(settings))
    seeds: dict[str, list[int]] = {}
    for name, seed in settings.jobs():
        seeds.setdefault(name, []).append(seed)
    measure = functools.cache(models.measure)
    found = []
    for name in chosen:
        run = settings.run(name)
        ready = [seed for seed in seeds[name] if (name, seed) in done]
        measurable = [seed for seed in seeds[name] if (name, seed) in trained - done]
        rest = [seed for seed in seeds[name] if seed not in ready + measurable]
        found.append(Entry(name, run, measure(run.model, run.data.classes), ready, measurable, rest))
    return found


def to_train(settings: config.Parameters, studies: Sequence[str] = ()) -> list[tuple[str, int]]:
    """List the runs of `studies`, of all where none is named, with each seed that has no results of today's yet."""
    return [(entry.name, seed) for entry in entries(settings, studies) for seed in entry.to_train]


def to_measure(settings: config.Parameters, studies: Sequence[str] = ()) -> list[tuple[str, int]]:
    """List the runs, as `to_train` does, with each seed that is trained and whose gradient flow is not measured yet."""
    return [(entry.name, seed) for entry in entries(settings, studies) for seed in entry.to_measure]


def chosen_runs(settings: config.Parameters, studies: Sequence[str]) -> list[str]:
    """List the runs of `studies`, of all where none is named; `ParameterError` for one that is not configured."""
    named = {run for key in studies for run in settings.study(key).runs}
    return [run for run in dict.fromkeys(run for run, _ in settings.jobs()) if not studies or run in named]


def estimate(
    listed: Iterable[Entry],
    step_seconds: Callable[[config.Run], tuple[float, str]] | None = None,
    at_once: int = 1,
) -> Estimate:
    """Estimate the trainings that are left, from a measurement of two of them for each device and precision.

    Args:
        listed: the runs; where none has anything to train, nothing is measured.
        step_seconds: gives the seconds of a training step, and the device; `time_step` unless told otherwise.
        at_once: trainings that share the device.
    """
    groups: dict[tuple[str, int, str, str], list[Entry]] = {}
    for entry in listed:
        if entry.to_train:
            groups.setdefault(entry.setting, []).append(entry)
    seconds: dict[str, float] = {}
    lines = []
    for group in groups.values():
        samples = []
        for reference in references(group):
            measured, device = step_seconds(reference.run) if step_seconds else time_step(reference.run, at_once)
            samples.append((reference.size.layers, reference.work, measured))
            precision = reference.run.train.precision
            beside = f" beside {_count(at_once - 1, 'other')}" if at_once > 1 else ""
            lines.append(f"{reference.name}: {measured * 1000:.3g} ms a step{beside} in {precision} on {device}")
        a, b = fit(samples)
        seconds |= {entry.name: entry.steps * (a * entry.size.layers + b * entry.work) for entry in group}
    return Estimate(seconds, lines, at_once)


def references(group: Sequence[Entry]) -> list[Entry]:
    """Choose the entries of least and most layers; of equals that of least, or most, arithmetic and weights."""

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
    """Time the training step of a run on random images: seconds of a step, and the device in words.

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
                learner.figures(steps)  # waits for the device
        return (time.perf_counter() - start) / steps

    timed(2)
    steps = max(FEWEST_STEPS, int(MEASURED_FOR / timed(1)))
    return timed(steps), devices.hardware(device)


def text(listed: Sequence[Entry], made: Estimate) -> str:
    """Lay out a line a run, with the amounts of one training, then the totals and where the time comes from."""
    rows = [("run", "layers", "epochs", "seeds trained", "seeds to train", "MAC each", "disk each", "time each")]
    for entry in listed:
        spent = made.seconds.get(entry.name)
        amounts = _si(entry.macs, "MAC"), _si(entry.kept, "B"), _time(spent) if spent is not None else "-"
        done, left = _seeds(entry.done + entry.to_measure), _seeds(entry.to_train)
        rows.append((entry.name, f"{entry.size.layers}", f"{entry.run.train.epochs}", done, left, *amounts))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        " ".join(
            [name.ljust(widths[0]), *(cell.rjust(width + 1) for cell, width in zip(rest, widths[1:], strict=True))]
        )
        for name, *rest in rows
    ]
    return "\n".join([*lines, "", *_totals(listed, made)])


def _totals(listed: Sequence[Entry], made: Estimate) -> list[str]:
    """Sum up all trainings, those that are left, and what the time is worth."""
    left = [entry for entry in listed if entry.to_train]
    lines = [f"in all: {_sum(listed, {entry.name: entry.seeds for entry in listed})}"]
    unmeasured = sum(len(entry.to_measure) for entry in listed)
    if unmeasured:
        lines.append(f"left to measure: the gradient flow of {_count(unmeasured, 'training')}")
    if not left:
        return [*lines, "left to train: nothing"]
    wait = sum(len(entry.to_train) * made.seconds[entry.name] for entry in left) / made.at_once
    order = "one after another" if made.at_once == 1 else f"{made.at_once} at once"
    most = _si(max(entry.scratch for entry in left), "B")
    lines.append(f"left to train: {_sum(left, {entry.name: len(entry.to_train) for entry in left})}")
    lines.append(f"  {_time(wait)} {order}, and {most} more on the disk while the largest of them ends")
    return [*lines, "the time is an estimate, without start-up, from a measurement just now:", *_indented(made)]


def _indented(made: Estimate) -> list[str]:
    return [f"  {line}" for line in made.measurements]


def _sum(listed: Sequence[Entry], trainings: dict[str, int]) -> str:
    macs = sum(trainings[entry.name] * entry.macs for entry in listed)
    disk = sum(trainings[entry.name] * entry.kept for entry in listed)
    return f"{_count(sum(trainings.values()), 'training')}, {_si(macs, 'MAC')}, {_si(disk, 'B')} on the disk"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _seeds(seeds: Sequence[int]) -> str:
    return ",".join(map(str, seeds)) or "-"


def _si(value: float, unit: str) -> str:
    """Write a number of at least 1 with two digits and a prefix: 3.4 PMAC, 180 MB."""
    rounded = float(f"{value:.2g}")
    power = min(int(math.log10(rounded)) // 3, 6)
    return f"{rounded / 1000**power:g} {('', 'k', 'M', 'G', 'T', 'P', 'E')[power]}{unit}"


def _time(seconds: float) -> str:
    """Write an estimated duration with two digits: 45 s, 12 min, 1.2 h, 110 h."""
    divisor, unit = (1, "s") if seconds < 90 else (60, "min") if seconds < 5400 else (3600, "h")
    return f"{float(f'{seconds / divisor:.2g}'):g} {unit}"
