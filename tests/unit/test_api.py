"""The functions of `vanishing` itself."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

import examples
import vanishing
from vanishing import config, paths
from vanishing.analysis import gradient_flow as flow
from vanishing.data import dataset as files_of_images
from vanishing.errors import UserError
from vanishing.training import augmentation, models


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_importing_the_package_imports_nothing_else_of_it_nor_pytorch():
    code = "import json, sys, vanishing; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    modules = json.loads(done.stdout)
    assert [name for name in modules if name.startswith("vanishing")] == ["vanishing"]
    assert not {"torch", "numpy", "pandas", "pydantic", "yaml"} & set(modules)


def test_every_public_function_says_what_it_returns_and_raises():
    assert sorted(vanishing.__all__) == vanishing.__all__
    for name in vanishing.__all__:
        assert "return" in vanishing.__dict__[name].__annotations__, name
        told = vanishing.__dict__[name].__doc__
        assert "Raises:" in told or name == "build_model"


def test_parameters_are_read_with_an_overlay():
    Path("params.yaml").write_text(yaml.safe_dump(examples.content()))
    Path("more.yaml").write_text("train: {epochs: 7}")
    assert vanishing.load_parameters().run("vgg38").train.epochs == 2
    assert vanishing.load_parameters(overlay="more.yaml").run("vgg38").train.epochs == 7
    Path("more.yaml").write_text("train: {epoch: 7}")
    with pytest.raises(config.ParameterError, match=r"^more.yaml: train.epoch = 7: unknown key"):
        vanishing.load_parameters("params.yaml", "more.yaml")


def test_images_have_the_split_of_the_run():
    settings = examples.study({"runs": {"vgg38": {"data": {"seed": 1}}}})
    files_of_images.prepare(settings.data, settings.data.path, report=lambda _: None)
    first, other = (vanishing.load_images(settings, run) for run in ("vgg08", "vgg38"))
    assert first.train.images.shape == other.train.images.shape == (150, 3, 32, 32)
    assert not np.array_equal(first.val.images, other.val.images)
    assert np.array_equal(first.test.images, other.test.images)
    settings.data.path.unlink()
    with pytest.raises(files_of_images.DataError, match=r"^data/generated.npz: not there; run `vanishing data`$"):
        vanishing.load_images(settings, "vgg08")


def test_a_model_has_the_weights_that_its_training_begins_with(tiny, dataset):
    run = tiny(train={"epochs": 1, "snapshots": []})
    vanishing.train(run, dataset, "trained", seed=3)
    from safetensors.torch import load_file

    begun = load_file(paths.snapshot(Path("trained"), 0))
    built = vanishing.build_model(run, seed=3).state_dict()
    assert built.keys() == begun.keys()
    assert all(torch.equal(built[name], begun[name]) for name in built)


def test_a_training_leaves_its_trajectory_and_is_the_same_again(tiny, dataset):
    run = tiny()
    first = vanishing.train(run, dataset, "first", seed=1)
    assert [row.epoch for row in first.history] == [1, 2, 3]
    assert first.status == "completed"
    names = ["best", "epoch0000", "epoch0001", "epoch0003"]
    assert [path.stem for path in sorted(Path("first").iterdir())] == names
    assert vanishing.train(run, dataset, Path("second"), seed=1) == first
    for name in names:
        assert Path(f"first/{name}.safetensors").read_bytes() == Path(f"second/{name}.safetensors").read_bytes()


def test_a_training_refuses_a_folder_that_holds_files(tiny, dataset):
    Path("taken").mkdir()
    Path("taken/state.safetensors").write_text("of another configuration")
    with pytest.raises(UserError, match=r"^taken: not empty; a training writes into a folder of its own$"):
        vanishing.train(tiny(), dataset, "taken")


def test_gradient_flow_of_two_weights_by_hand():
    """With W = 0 the probabilities are halves: dL/dW = (p - y) x' = ((-1/2, -1), (1/2, 1)) for x = (1, 2)."""
    linear = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(linear.weight)
    table = vanishing.gradient_flow(nn.Sequential(linear), torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    assert table[["layer", "kind", "mean_abs_gradient"]].values.tolist() == [[1, "linear", 0.75]]


def test_gradient_flow_normalises_bytes_and_takes_floats_as_they_are(tiny, dataset):
    model = models.build(tiny().model, 3, seed=0)
    images, labels = dataset.train.images, dataset.train.labels
    normal = augmentation.normalise(torch.from_numpy(images))
    targets = torch.from_numpy(labels).long()
    pairs = [(normal[at : at + 20], targets[at : at + 20]) for at in (0, 20)]  # of 20 images and of 10
    expected = flow.gradient_flow(model, pairs)
    pd.testing.assert_frame_equal(vanishing.gradient_flow(model, images, labels, batch_size=20), expected)
    pd.testing.assert_frame_equal(vanishing.gradient_flow(model, normal, targets, batch_size=20), expected)
    with pytest.raises(ValueError, match=r"^gradient flow needs at least one minibatch$"):
        vanishing.gradient_flow(model, images[:0], labels[:0])


def test_results_have_a_row_for_each_run_and_seed_in_the_order_of_the_study():
    settings = examples.study({"seeds": [0, 1]})
    examples.result(settings, "vgg38", 1, train=(float("nan"), 0.1))
    examples.result(settings, "vgg38", 0, train=(1.5, 0.5), val=(1.6, 0.4), test=(1.7, 0.3), epochs=2)
    examples.result(settings, "vgg08", 1)
    table = vanishing.load_results(settings, "core")
    assert table[["run", "seed", "status"]].values.tolist() == [
        ["vgg08", 1, "completed"], ["vgg38", 0, "completed"], ["vgg38", 1, "diverged"],
    ]  # fmt: skip
    columns = ["train_loss", "train_accuracy", "val_loss", "val_accuracy", "best_epoch", "test_loss", "test_accuracy"]
    assert table.loc[1, columns].tolist() == [1.5, 0.5, 1.6, 0.4, 2, 1.7, 0.3]
    assert table.loc[2, columns].isna().all()


def test_a_study_without_results_and_one_that_is_not_configured_are_told():
    with pytest.raises(UserError, match=r"^study 'core' has no results yet; `snakemake core` makes them$"):
        vanishing.load_results(examples.study(), "core")
    with pytest.raises(config.ParameterError, match=r"^study 'cor' is not configured; allowed: core$"):
        vanishing.load_results(examples.study(), "cor")
