"""What is left to run of the study, and the text of `vanishing plan`."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence

from vanishing import config, paths
from vanishing.analysis import trainable_depth
from vanishing.console import aligned, counted, duration
from vanishing.results import store
from vanishing.training import models
from vanishing.training.cost import Analysis, Entry, Estimate


def entries(settings: config.Parameters, studies: Sequence[str] = ()) -> list[Entry]:
    """List the runs of `studies`, all if none is named, in the order of `params.yaml`.

    A run and seed are done once their results are there, made with today's configuration. Only the gradient flow is
    left to measure if that alone is missing and the trajectory is there.

    Raises:
        ParameterError: for a study that is not configured.
    """
    done, trained = set(store.available(settings)), set(store.trained(settings))
    found = []
    for name in settings.runs_of(studies):
        run, seeds = settings.run(name), settings.seeds_of(name)
        ready = [seed for seed in seeds if (name, seed) in done]
        measurable = [seed for seed in seeds if (name, seed) in trained - done]
        rest = [seed for seed in seeds if seed not in ready + measurable]
        size, analyses = models.measure(run.model, run.data.classes), _analyses(settings, name)
        found.append(Entry(name, run, size, ready, measurable, rest, analyses))
    return found


def _analyses(settings: config.Parameters, run: str) -> list[Analysis]:
    """List what the analyses have left to measure of a run."""
    found = []
    chosen = settings.run(run)
    for name, block in settings.analyses:
        module = importlib.import_module(f"vanishing.analysis.{name}")
        jobs = [job for job in settings.analysed(name) if job[0] == run]
        seeds = [seed for _, seed in jobs if not paths.analysis(name, run, seed).exists()]
        epochs = {epoch for epoch in chosen.train.snapshot_epochs if epoch in {*block.snapshots, chosen.train.epochs}}
        found.append(Analysis(name, seeds, module.passes(block, chosen.model, len(epochs)), module.PRECISION))
    return found


def sweep(settings: config.Parameters) -> list[Entry]:
    """List the trainings of the sweep over depths, none once its table is there.

    Their cost is an upper bound: a network that is above the strict threshold is not trained further. It leaves out
    the gradients of a few minibatches at initialisation.
    """
    if paths.TRAINABLE_DEPTH.exists():
        return []
    block, classes = settings.trainable_depth, settings.data.classes
    part = block.images * classes, block.held_out * classes, 0
    found = []
    for each in trainable_depth.networks(settings):
        size = models.measure(each.run.model, classes)
        found.append(Entry(each.name, each.run, size, [], [], [each.seed], part=part))
    return found


def to_train(settings: config.Parameters, studies: Sequence[str] = ()) -> list[tuple[str, int]]:
    """List each run and seed of `studies`, of all if none is named, that is left to train."""
    return [(entry.name, seed) for entry in entries(settings, studies) for seed in entry.to_train]


def text(listed: Sequence[Entry], made: Estimate) -> str:
    """Lay out a line a run, with the cost of a training and its analyses, then the totals and what they rest on."""
    head = "run", "layers", "epochs", "trained", "to train", "MAC each", "disk each", "time each"
    rows = [(*head, "analyses each")]
    for entry in listed:
        seconds = made.seconds.get(entry.name)
        cost = _si(entry.macs, "MAC"), _si(entry.kept, "B"), "-" if seconds is None else duration(seconds)
        done, left = _seeds(entry.done + entry.to_measure), _seeds(entry.to_train)
        found = [made.analyses[entry.name, each.name] for each in entry.analyses if each.seeds]
        analyses = duration(sum(found)) if found else "-"
        rows.append((entry.name, f"{entry.size.layers}", f"{entry.run.train.epochs}", done, left, *cost, analyses))
    return "\n".join([aligned(rows, gap=2), "", *_totals(listed, made)])


def sweep_text(listed: Sequence[Entry], made: Estimate) -> str:
    """Say what the sweep over depths has left to train, the time at most, and what that rests on."""
    amount = f"{counted(len(listed), 'training')}, {_si(sum(entry.macs for entry in listed), 'MAC')}"
    time = f"at most {duration(sum(made.seconds.values()))} one after another"
    lines = (f"  {line}" for line in made.measurements)
    return "\n".join([f"left to sweep: trainable_depth of {amount}, {time}", *lines])


def _totals(listed: Sequence[Entry], made: Estimate) -> list[str]:
    """Sum up all trainings, those that are left, what is left to measure, and their time."""
    lines = [f"in all: {_sum(listed, [len(entry.done + entry.to_measure + entry.to_train) for entry in listed])}"]
    if unmeasured := sum(len(entry.to_measure) for entry in listed):
        lines.append(f"left to measure: the gradient flow of {counted(unmeasured, 'training')}")
    for name in dict.fromkeys(analysis for _, analysis in made.analyses):
        lines.append(f"left to analyse: {_analysed(listed, made, name)}")
    left = [entry for entry in listed if entry.to_train]
    if left:
        wait = sum(len(entry.to_train) * made.seconds[entry.name] for entry in left) / made.at_once
        order = "one after another" if made.at_once == 1 else f"{made.at_once} at once"
        most = _si(max(entry.scratch for entry in left), "B")
        lines += [
            f"left to train: {_sum(left, [len(entry.to_train) for entry in left])}",
            f"  {duration(wait)} {order}, and {most} more on the disk while the largest of them ends",
        ]
    else:
        lines.append("left to train: nothing")
    if made.measurements:
        lines.append("the time is an estimate, without start-up, from a measurement just now:")
    return [*lines, *(f"  {line}" for line in made.measurements)]


def _analysed(listed: Sequence[Entry], made: Estimate, name: str) -> str:
    """Say how many trajectories an analysis has left, and the time that they take one after another."""
    left = [(entry.name, each) for entry in listed for each in entry.analyses if each.name == name]
    seconds = sum(len(each.seeds) * made.analyses.get((run, name), 0.0) for run, each in left)
    trajectories = sum(len(each.seeds) for _, each in left)
    return f"{name} of {counted(trajectories, 'training')}, {duration(seconds)} one after another"


def _sum(listed: Sequence[Entry], trainings: Sequence[int]) -> str:
    macs = sum(count * entry.macs for entry, count in zip(listed, trainings, strict=True))
    disk = sum(count * entry.kept for entry, count in zip(listed, trainings, strict=True))
    return f"{counted(sum(trainings), 'training')}, {_si(macs, 'MAC')}, {_si(disk, 'B')} on the disk"


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}" if seeds else "-"


def _si(value: float, unit: str) -> str:
    """Write a number of at least 1 with two digits and a prefix: 3.4 PMAC, 180 MB."""
    rounded = float(f"{value:.2g}")
    power = min(int(math.log10(rounded)) // 3, 6)
    return f"{rounded / 1000**power:g} {('', 'k', 'M', 'G', 'T', 'P', 'E')[power]}{unit}"
