import json
import math
import re

import pandas as pd
import pytest

import examples
from vanishing import files, paths
from vanishing.errors import UserError
from vanishing.results import store
from vanishing.training.loop import Epoch, Outcome
from vanishing.training.step import Metrics

ROWS = [Epoch(1, 1e-3, 2.0, 0.2, 2.1, 0.25), Epoch(2, 5e-4, 1.0, 0.5, 1.1, 0.45)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outcome(**changes):
    whole = {"history": ROWS, "status": "completed", "best": ROWS[1], "test": Metrics(1.2, 0.4), "snapshots": [0, 2]}
    return Outcome(**(whole | changes))


def size():
    from vanishing.training.models import Size

    return Size(layers=8, parameters=59716, macs=10)


def trajectory(folder, names):
    """Write files in the manner of a training's scratch folder."""
    for name in names:
        files.write(folder / name, f"the bytes of {name}")
    return folder


def publish(folder, chosen=None):
    run = examples.study().run("vgg08")
    chosen = chosen or outcome()
    content = store.summarise(run, chosen, size()) | {"data": {"sha256": "0" * 64}, "environment": {"threads": 1}}
    names = [f"epoch{epoch:04d}.safetensors" for epoch in chosen.snapshots]
    store.publish("vgg08", 0, chosen, content, trajectory(folder / "scratch", [*names, "best.safetensors"]))


def test_what_is_published_is_what_is_read(folder):
    publish(folder)
    flow = pd.DataFrame([[0, "plain", 1, "linear", "classifier", 0.5]], columns=store.GRADIENT_COLUMNS)
    store.write_table(paths.results("vgg08", 0) / "gradients.csv", flow)
    read = store.read("vgg08", 0)
    assert not read.diverged
    assert list(read.history.columns) == store.HISTORY_COLUMNS
    assert read.history.val_accuracy.tolist() == [0.25, 0.45]
    assert read.summary["train"] == {"loss": 1.0, "accuracy": 0.5}
    assert read.summary["best"] == {"epoch": 2, "loss": 1.1, "accuracy": 0.45}
    assert read.summary["test"] == {"loss": 1.2, "accuracy": 0.4}
    assert (read.summary["layers"], read.summary["parameters"]) == (8, 59716)


def test_the_summary_names_the_hash_of_every_file(folder):
    publish(folder)
    small, large = paths.results("vgg08", 0), paths.checkpoints("vgg08", 0)
    named = json.loads((small / "summary.json").read_text())["files"]
    there = {path.name: files.sha256(path) for path in (small / "history.csv", *large.iterdir())}
    assert named == there
    assert set(named) == {"history.csv", "epoch0000.safetensors", "epoch0002.safetensors", "best.safetensors"}


def test_a_new_training_leaves_nothing_of_the_one_before(folder):
    stale = trajectory(paths.checkpoints("vgg08", 0), ["epoch0001.safetensors", "epoch0000.safetensors"])
    small = paths.results("vgg08", 0)
    files.write(small / "gradients.csv", "of the weights before")
    publish(folder)
    assert not (small / "gradients.csv").exists()
    assert {path.name for path in stale.iterdir()} == {
        "epoch0000.safetensors", "epoch0002.safetensors", "best.safetensors"
    }  # fmt: skip
    assert (stale / "epoch0000.safetensors").read_text() == "the bytes of epoch0000.safetensors"


def test_a_diverged_training_is_published_without_figures_that_are_no_numbers(folder):
    lost = Epoch(1, 1e-3, math.nan, 0.1, math.inf, 0.1)
    publish(folder, outcome(history=[lost], status="diverged", best=None, test=None, snapshots=[0]))
    summary = json.loads((paths.results("vgg08", 0) / "summary.json").read_text())
    assert summary["status"] == "diverged"
    assert summary["train"]["loss"] is None
    assert summary["validation"]["loss"] is None
    assert summary["best"] is None
    assert summary["test"] is None
    assert "nan" in (paths.results("vgg08", 0) / "history.csv").read_text()
    assert [path.name for path in paths.checkpoints("vgg08", 0).iterdir()] == ["epoch0000.safetensors"]


def test_a_training_that_stopped_early_is_published_as_such(folder):
    publish(folder, outcome(status="stopped early"))
    read = json.loads((paths.results("vgg08", 0) / "summary.json").read_text())
    assert (read["status"], read["epochs"], read["snapshots"]) == ("stopped early", 2, [0, 2])


def test_a_test_loss_that_is_no_number_does_not_lose_the_training(folder):
    publish(folder, outcome(test=Metrics(math.inf, 0.4)))
    summary = json.loads((paths.results("vgg08", 0) / "summary.json").read_text())
    assert summary["test"] == {"loss": None, "accuracy": 0.4}


def test_equal_outcomes_give_equal_bytes(folder):
    publish(folder)
    first = {path: path.read_bytes() for path in (folder / "results").rglob("*.*")}
    publish(folder)
    assert {path: path.read_bytes() for path in first} == first


def test_tables_hold_ten_significant_digits_and_nan(folder):
    store.write_table(folder / "table.csv", pd.DataFrame({"a": [1 / 3, math.nan], "b": [1e-20 / 3, 2.0]}))
    assert (folder / "table.csv").read_text() == "a,b\n0.3333333333,3.333333333e-21\nnan,2\n"


@pytest.mark.parametrize("name", ["summary.json", "history.csv", "gradients.csv"])
def test_a_missing_file_is_named_with_the_command_that_makes_it(name):
    examples.result(examples.study(), "vgg08")
    path = paths.results("vgg08", 0) / name
    path.unlink()
    with pytest.raises(
        UserError, match=rf"^{re.escape(str(path))}: missing; .*`snakemake {re.escape(str(path))}` makes"
    ):
        store.read("vgg08", 0)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("summary.json", b'{"status": '),
        ("summary.json", b"\xff\xfe"),
        ("summary.json", b"[]"),
        ("history.csv", b""),
        ("history.csv", b"epoch,val_loss\n1,2,3,4\n1\n5,6,7,8,9,10\n"),
        ("history.csv", b"a,b\n1,2\n"),
        ("gradients.csv", b"\xff\xfe\x00"),
        ("gradients.csv", b"epoch,layer,name,mean_abs_gradient\n"),
    ],
)
def test_a_damaged_file_is_one_line_that_says_what_to_do(name, damage):
    examples.result(examples.study(), "vgg08")
    path = paths.results("vgg08", 0) / name
    path.write_bytes(damage)
    with pytest.raises(UserError, match="build it again") as raised:
        store.read("vgg08", 0)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def flow(images):
    layers = [
        (0, "normalisation", "input"),
        (1, "convolution", "first"),
        (1, "normalisation", "norm"),
        (2, "linear", "last"),
    ]
    rows = [(epoch, kind, *layer, 0.5) for epoch in (0, 10) for kind in images for layer in layers]
    return pd.DataFrame(rows, columns=store.GRADIENT_COLUMNS)


@pytest.mark.parametrize("images", [["plain", "augmented"], ["plain"]])
def test_gradients_may_be_of_plain_images_alone_and_their_weight_layers_are_known(folder, images):
    store.write_table(folder / "gradients.csv", flow(images))
    read = store.read_gradients(folder / "gradients.csv")
    assert store.weight_layers(read)[["epoch", "name"]].to_numpy().tolist() == [
        [0, "first"], [0, "last"], [10, "first"], [10, "last"],
    ]  # fmt: skip


def test_gradients_of_augmented_images_before_plain_ones_are_refused(folder):
    store.write_table(folder / "gradients.csv", flow(["augmented", "plain"]))
    with pytest.raises(UserError, match="once and in order"):
        store.read_gradients(folder / "gradients.csv")


def test_only_complete_results_of_todays_configuration_are_available():
    study = examples.study({"seeds": [0, 1]})
    examples.result(study, "vgg08", 0)
    examples.result(study, "vgg08", 1)
    examples.result(examples.study({"train": {"weight_decay": 0.1}}), "vgg38", 0)
    (paths.results("vgg08", 1) / "gradients.csv").unlink()
    assert list(store.available(study)) == [("vgg08", 0)]


@pytest.mark.parametrize("damage", ["{", "[]", "7"])
def test_a_summary_that_is_none_is_named(damage):
    study = examples.study()
    examples.result(study, "vgg08")
    (paths.results("vgg08", 0) / "summary.json").write_text(damage)
    with pytest.raises(UserError, match=r"vgg08/seed0/summary.json: .*build it again"):
        list(store.available(study))
