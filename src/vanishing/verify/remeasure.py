"""Repeated measurements: the test accuracy of the best weights, and the gradient flow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from vanishing import config, files, paths
from vanishing.analysis.gradient_flow import measure_trajectory
from vanishing.console import say
from vanishing.data import dataset, records
from vanishing.errors import UserError
from vanishing.results import store
from vanishing.training import checkpoints, devices, step
from vanishing.verify.mismatch import Mismatch, Record, Scope, guarded

TOLERANCE = 0.002
"""Difference of test accuracies, as a fraction, that another processor, GPU or PyTorch version may make."""


def accuracies(scope: Scope) -> Iterator[Mismatch]:
    """Test the best weights of some trainings, or of all, and compare the metrics with the summary.

    In the environment that the summary names they must be equal to the last bit; elsewhere the accuracy may differ by
    `TOLERANCE`.
    """
    for record in scope.sample:
        if record.summary["test"] is None or not (images := _dataset(scope, record)):
            continue
        path = paths.best(record.trajectory)
        if not path.exists():
            scope.notes.append(
                f"{path}: not here, its test accuracy is not measured; `dvc pull` brings it if it was pushed"
            )
            continue
        say(f"testing {path}")
        scope.tested += 1
        yield from _test(scope.settings.run(record.run), record, path, images.test)


def gradient_flow(scope: Scope) -> Iterator[Mismatch]:
    """Measure the gradient flow again where no record covers it, or everywhere if all is to be tested."""
    for record in scope.current:
        path = record.folder / "gradients.csv"
        if not path.exists() or (path in scope.compared and not scope.every):
            continue
        run, there = scope.settings.run(record.run), any(record.trajectory.glob("epoch*.safetensors"))
        device, same = _device(run, record, measuring=True)
        if not there or not same or not (images := _dataset(scope, record)):
            why = (
                "no snapshots here" if not there else "no such data here" if same else "made on another kind of device"
            )
            scope.notes.append(f"{path}: not measured again: {why}")
            continue
        try:
            table = measure_trajectory(run, scope.settings.gradients, images.train, record.trajectory, device)
        except UserError as error:
            scope.notes.append(f"{path}: not measured again: {error}")
            continue
        scope.tested += 1
        scope.compared.add(path)
        command = f"vanishing gradients {record.run} --seed {record.seed}"
        yield from guarded(path, command, _compare(path, store.as_text(table), command))


def _test(run: config.Run, record: Record, path: Path, test: records.Split) -> Iterator[Mismatch]:
    device, same = _device(run, record)
    model = step.Learner(run, record.seed, device).model
    try:
        checkpoints.load_weights(path, model)
    except UserError:
        yield Mismatch(
            path, f"the weights of {record.run}", "a damaged file, or weights of another model", record.command
        )
        return
    found = step.evaluate(model, *step.upload(test, device), run.train.precision == "bf16", run.data.scaling)
    said = record.summary["test"]
    equal = found.accuracy == said["accuracy"] and said["loss"] in (found.loss, None)
    if not (equal if same else abs(found.accuracy - said["accuracy"]) <= TOLERANCE):
        expected = f"test accuracy {said['accuracy']!r} and loss {said['loss']!r} ({record.path})"
        margin = "" if same else f", within {TOLERANCE:.1%} on another device or version"
        yield Mismatch(path, f"{expected}{margin}", f"{found.accuracy!r} and {found.loss!r}", record.command)


def _compare(path: Path, expected: str, command: str) -> Iterator[Mismatch]:
    """Compare a table's text with the expected one, line by line."""
    files.check_plain(path, files.RESULT_BYTES)
    found, wanted = (text.splitlines() for text in (path.read_text(encoding="utf-8", errors="replace"), expected))
    for number, (line, right) in enumerate(zip(found, wanted, strict=False), start=1):
        if line != right:
            yield Mismatch(path, f"{right!r} in line {number} (measured again)", repr(line), command)
            return
    if path.read_bytes() != expected.encode():
        yield Mismatch(path, f"{len(wanted)} lines (measured again)", f"{len(found)}, or other ends of lines", command)


def _device(run: config.Run, record: Record, measuring: bool = False) -> tuple[torch.device, bool]:
    """Set PyTorch up for a run; return the device, and whether this is the environment that the summary names."""
    if run.train.device == "cuda" and devices.cuda_obstacle():
        run = run.model_copy(update={"train": run.train.model_copy(update={"device": "cpu"})})
    device = devices.configure(run.train, measuring)
    return device, devices.environment(run.train, device) == record.summary["environment"]


def _dataset(scope: Scope, record: Record) -> records.Dataset | None:
    """Return the data set that a training used, if it is here and undamaged."""
    block = scope.settings.run(record.run).data
    if not block.path.is_file() or files.sha256(block.path) != record.summary["data"]["sha256"]:
        return None
    return dataset.load_split(block, scope.settings.data.seed)
