"""Which run stands for a network in the report on causes, its look, and means over the seeds."""

import math

import pandas as pd
import pytest

import examples
from vanishing import paths
from vanishing.report.why import measured
from vanishing.report.why.measured import Measured
from vanishing.results import store

RUNS = ["vgg08", "vgg38", "vgg38_fp32", "vgg08_short", "vgg38_bn_short", "vgg38_start", "vgg38_bn_start"]
"""Of a block of parameters: three networks; the full training of the one with BN is not among them."""


@pytest.fixture
def data():
    """Return a function that makes measurements of some runs, one with each seed."""
    settings = examples.study({"train": {"epochs": 20}}, RUNS)
    looks = {run: ((0.1 * at, 0.0, 0.0), "--") for at, run in enumerate(RUNS)}

    def make(*runs):
        table = pd.DataFrame({"run": runs, "seed": 0, "epoch": 0, "name": math.nan, "loss": 1.0})
        table = pd.concat([table, table.assign(seed=1, loss=2.0), table.assign(epoch=5)], ignore_index=True)
        return Measured(table, RUNS, looks, settings)

    return make


@pytest.mark.parametrize(
    ("runs", "networks"),
    [
        (RUNS, [("vgg08", "vgg08"), ("vgg38", "vgg38"), ("vgg38_bn", "vgg38_bn_short")]),
        (["vgg38_bn_start", "vgg38_start"], [("vgg38", "vgg38_start"), ("vgg38_bn", "vgg38_bn_start")]),
        (["vgg38_start", "vgg08_short", "vgg38_fp32"], [("vgg08", "vgg08_short"), ("vgg38", "vgg38_fp32")]),
    ],
)
def test_the_longest_training_stands_for_a_network_in_the_order_of_the_block(data, runs, networks):
    assert list(data(*runs).networks.items()) == networks


def test_a_network_looks_like_its_full_training(data):
    found = data("vgg08_short", "vgg38_bn_short")
    assert found.look("vgg08_short") == {"color": (0.0, 0.0, 0.0), "linestyle": "--"}
    assert found.look("vgg38_bn_short") == {"color": (0.4, 0.0, 0.0), "linestyle": "--"}  # which has no full one here


def test_means_are_over_the_seeds_and_keep_rows_without_a_name(data):
    means = data("vgg08", "vgg38").means("vgg38", "epoch", "name")
    assert means[["epoch", "loss"]].to_numpy().tolist() == [[0, 1.5], [5, 1.0]]
    assert list(means.columns) == ["epoch", "name", "loss"]


def test_what_is_measured_is_read_before_the_gradient_flow_is(tmp_path, monkeypatch):
    """No engine is told to wait for it; of a training with another configuration nothing is read."""
    monkeypatch.chdir(tmp_path)
    settings = examples.study({}, ["vgg08"])
    block = settings.analyses.signal.model_copy(update={"runs": ["vgg08"]})
    settings = settings.model_copy(update={"analyses": settings.analyses.model_copy(update={"signal": block})})
    examples.result(settings, "vgg08")
    store.write_table(paths.analysis("signal", "vgg08", 0), pd.DataFrame({"epoch": [0], "layer": [1]}))
    (paths.results("vgg08", 0) / "gradients.csv").unlink()
    assert measured.read("signal", settings).table.to_numpy().tolist() == [["vgg08", 0, 0, 1]]
    other = examples.study({"train": {"learning_rate": 0.5}}, ["vgg08"])
    assert measured.read("signal", other.model_copy(update={"analyses": settings.analyses})) is None
