"""What all analyses share: which snapshots are measured, on what, and what a killed measurement goes on from."""

import pandas as pd
import pytest
import torch

import examples
from vanishing import paths
from vanishing.analysis import kept, snapshots
from vanishing.data import records
from vanishing.results import store
from vanishing.training import checkpoints, models

JOB = "vgg08", 0
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch):
    """A trajectory of four snapshots, each the initialisation with its epoch as seed."""
    monkeypatch.chdir(tmp_path)
    settings = examples.study({"analyses": {"signal": {"snapshots": [1, 2, 9], "batches": 2, "batch_size": 3}}})
    run = settings.run("vgg08")
    for epoch in (0, 1, 2, 5):
        weights = models.build(run.model, run.data.classes, seed=epoch).state_dict()
        checkpoints.write(paths.snapshot(paths.checkpoints(*JOB), epoch), weights)
    return settings


@pytest.fixture
def train():
    images = torch.randint(0, 256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return records.Split(images.numpy(), torch.arange(20, dtype=torch.uint8).remainder(10).numpy())


def first_weight(snapshot):
    value = float(snapshot.model.entry.conv.weight[0, 0, 0, 0].detach())
    return pd.DataFrame({"name": ["entry"], "weight": [value], "share": [float("nan")]})


def test_the_chosen_snapshots_and_the_last_are_measured_with_their_own_weights(study, train):
    seen = []

    def measure(snapshot):
        seen.append(snapshot)
        return first_weight(snapshot)

    table = snapshots.measure_trajectory("signal", JOB, study, train, CPU, measure)
    assert [snapshot.epoch for snapshot in seen] == [1, 2, 5]
    assert all(snapshot.epochs == [1, 2, 5] for snapshot in seen)
    assert [len(labels) for _, labels in seen[0].batches] == [3, 3]
    run = study.run("vgg08")
    weights = [
        float(models.build(run.model, 10, seed=epoch).entry.conv.weight[0, 0, 0, 0].detach()) for epoch in (1, 2, 5)
    ]
    assert table.columns.tolist() == ["epoch", "name", "weight", "share"]
    assert table.epoch.tolist() == ["1", "2", "5"]
    assert table.weight.tolist() == [f"{weight:.10g}" for weight in weights]
    assert all(snapshot.model.training for snapshot in seen)


def test_a_killed_measurement_goes_on_with_the_same_bytes(study, train):
    whole = store.as_text(snapshots.measure_trajectory("signal", JOB, study, train, CPU, first_weight))
    kept.forget(paths.measured("signal", *JOB))
    measured = []

    def measure(snapshot):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(snapshot.epoch)
        return first_weight(snapshot)

    with pytest.raises(KeyboardInterrupt):
        snapshots.measure_trajectory("signal", JOB, study, train, CPU, measure)
    left = []
    resumed = snapshots.measure_trajectory(
        "signal", JOB, study, train, CPU, lambda snapshot: left.append(snapshot.epoch) or first_weight(snapshot)
    )
    assert (measured, left) == ([1, 2], [5])
    assert store.as_text(resumed) == whole
    kept.forget(paths.measured("signal", *JOB))
    assert not paths.measured("signal", *JOB).exists()


def test_what_was_measured_otherwise_is_measured_again(study, train):
    snapshots.measure_trajectory("signal", JOB, study, train, CPU, first_weight)
    weights = models.build(study.run("vgg08").model, 10, seed=7).state_dict()
    checkpoints.write(paths.snapshot(paths.checkpoints(*JOB), 2), weights)
    measured = []
    snapshots.measure_trajectory(
        "signal", JOB, study, train, CPU, lambda snapshot: measured.append(snapshot.epoch) or first_weight(snapshot)
    )
    assert measured == [1, 2, 5]
