"""What a job asks a scheduler for: a GPU, memory, and time by the cost of its run.

On one machine Snakemake counts the GPUs alone. A cluster wants memory and a time limit too. This module imports nothing
slow, since Snakemake loads it for every job.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vanishing.config import ParameterError, Parameters

if TYPE_CHECKING:
    from vanishing.config import Run, Train

Resources = dict[str, Callable[[Any], int | str]]
"""Resources of a rule by name, each a function of its wildcards."""

GRES = "gres"
"""Key of `--config` for clusters that hand out GPUs by `--gres` and not by `--gpus`: what stands after it."""

STEP = {"cuda": 0.0065, "cpu": 0.04}
"""Seconds that a training step of a hundred images takes for each layer of 32 filters of 3 x 3, at most.

On a GPU: r4's slowest, 132 layers at 1.2 iterations per second. On a CPU: a quarter more than vgg38_bn_rc takes with
AVX2 and two threads (docs/performance.md).
"""

START = 10
"""Minutes for everything before and after the steps: imports, images, validation, test."""

SIGNAL = "--signal=TERM@180"
"""Option of `sbatch`: SIGTERM to the processes of a job three minutes before its limit, so that it saves its state."""

MEASUREMENT = 120
"""Minutes for an analysis of a trajectory, which goes on after its last snapshot if it needs more."""

MEMORY = 8000
"""MB for a process with PyTorch, its GPU's context and the images; on a CPU a training takes 1,300."""


def training(settings: Parameters, overrides: Mapping[str, Any]) -> Resources:
    """Return the resources of a job that trains a run."""
    return _of_run(settings, overrides, minutes) | {"slurm_extra": lambda _: SIGNAL}


def measuring(settings: Parameters, overrides: Mapping[str, Any]) -> Resources:
    """Return the resources of a job that measures a trajectory."""
    return _of_run(settings, overrides, lambda _: MEASUREMENT)


def sweeping(settings: Parameters, overrides: Mapping[str, Any]) -> Resources:
    """Return the resources of the job that trains plain networks of many depths."""
    block, classes = settings.trainable_depth, settings.data.classes
    steps = block.epochs * math.ceil(block.images * classes / block.batch_size)
    layers = sum(sum(sweep.layers) * len(sweep.seeds) for sweep in block.sweeps)
    time = START + _minutes(settings.train.device, steps, block.batch_size, layers)
    return _on_device(overrides, lambda _: settings.train, lambda _: time) | {"slurm_extra": lambda _: SIGNAL}


def minutes(run: Run) -> int:
    """Return the time limit of a training in minutes; one that needs more is saved in time and goes on."""
    train = run.train
    steps = train.epochs * math.ceil(run.data.sizes[0] / train.batch_size)
    wider = max(1.0, (run.model.filters / 32 * run.model.kernel_size / 3) ** 2)
    return START + _minutes(train.device, steps, train.batch_size, wider * run.model.layers)


def _minutes(device: str, steps: int, batch_size: int, layers: float) -> int:
    each = STEP["cpu" if device == "cpu" else "cuda"] * layers * max(1.0, batch_size / 100)
    return math.ceil(steps * each / 60)


def _of_run(settings: Parameters, overrides: Mapping[str, Any], time: Callable[[Run], int]) -> Resources:
    return _on_device(
        overrides,
        lambda wildcards: settings.run(wildcards.run).train,
        lambda wildcards: time(settings.run(wildcards.run)),
    )


def _on_device(overrides: Mapping[str, Any], train: Callable[[Any], Train], time: Callable[[Any], int]) -> Resources:
    """Ask for a GPU unless the job is told to use the CPU, for memory and for time."""
    gres = str(overrides.get(GRES, ""))
    if not re.fullmatch(r"([A-Za-z]\w*(:[\w.]+)?(:\d+)?)?", gres, re.ASCII):
        raise ParameterError(f"--config {GRES} = {gres!r}: allowed: what the cluster's --gres takes, such as gpu:1")

    def gpus(wildcards: Any) -> int:
        return int(train(wildcards).device != "cpu")

    asked: Resources = {"gpu": gpus}
    if gres:
        asked = {"gres": lambda wildcards: gres * gpus(wildcards)}
    return {**asked, "mem_mb": lambda _: MEMORY, "runtime": time}
