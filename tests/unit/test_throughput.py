"""Iterations per second: what a training leaves, and the table of it."""

import json
import math

import pandas as pd
import pytest

import examples
from vanishing import cli, config, files, paths, stages
from vanishing.results import throughput
from vanishing.training import loop, step
from vanishing.training.round_robin import Interrupted

POOLED = {"norm": "batch", "shortcut": "identity", "reduction_shortcut": "pool"}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """Stand in an empty folder."""
    monkeypatch.chdir(tmp_path)


def study(**overlay):
    return examples.study({"model": {"filters": 4}, "seeds": [0, 1, 2], **overlay}, runs=["vgg08"])


def record(settings, run, seed, iterations, **changes):
    """Write what a training of 10 s leaves."""
    content = {"run": run, "seed": seed, "iterations": iterations, "seconds": 10.0, "hardware": "a chip"}
    content |= {"torch": "2", "precision": "fp32", "threads": 1}
    content |= {"configuration": settings.run(run).configuration()} | changes
    files.write(paths.rate(run, seed), json.dumps(content))


def test_a_training_leaves_its_throughput_outside_the_results():
    settings = study()
    stages.data(settings)
    stages.train(settings, [("vgg08", 1)])
    left = json.loads(paths.rate("vgg08", 1).read_text())
    assert left["iterations"] == 30, "2 epochs of 150 images, 10 at a time"
    assert 0 < left["seconds"] < 60
    assert (left["precision"], left["threads"]) == ("fp32", 1)
    assert left["hardware"].endswith(", 1 threads")
    assert paths.RATES.parts[0] == "logs"
    assert "seconds" not in (paths.results("vgg08", 1) / "summary.json").read_text()


def test_only_what_this_process_did_is_counted(monkeypatch):
    settings, steps = study(), []
    stages.data(settings)

    def stop(self, images, labels, plan):
        steps.append(plan)
        taken(self, images, labels, plan)
        if len(steps) == 7:
            raise Interrupted(2, "here")

    taken = step.Learner.step
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(step.Learner, "step", stop)
        stages.train(settings, [("vgg08", 0)])
    assert not paths.rate("vgg08", 0).exists()
    stages.train(settings, [("vgg08", 0)])
    assert json.loads(paths.rate("vgg08", 0).read_text())["iterations"] == 24, "30, and 6 were saved"


def test_a_row_is_the_median_over_the_seeds_of_one_machine():
    settings = study()
    for seed, iterations in enumerate([10, 90, 30]):
        record(settings, "vgg08", seed, iterations)
    row = throughput.throughput_frame(settings).iloc[0]
    assert (row.run, row.hardware, row.throughput, row.n, row.layers) == ("vgg08", "a chip", 3.0, 3, 8)
    assert math.isnan(row.published)
    record(settings, "vgg08", 2, 30, hardware="another chip")
    assert throughput.throughput_frame(settings)[["hardware", "throughput", "n"]].values.tolist() == [
        ["a chip", 5.0, 2],
        ["another chip", 3.0, 1],
    ]


def test_what_another_configuration_took_is_left_out():
    before = study()
    record(before, "vgg08", 0, 10)
    assert len(throughput.throughput_frame(before)) == 1
    assert throughput.throughput_frame(study(model={"filters": 8})).empty


def test_only_the_runs_of_the_studies_named_are_listed():
    settings = examples.study({"studies": {"deep": {"title": "Deep", "runs": ["vgg38"]}}})
    for run in ("vgg08", "vgg38"):
        record(settings, run, 0, 10)
    assert throughput.throughput_frame(settings).run.tolist() == ["vgg08", "vgg38"]
    assert throughput.throughput_frame(settings, ["deep"]).run.tolist() == ["vgg38"]


@pytest.mark.parametrize(
    ("run", "printed"),
    [("vgg68_resnet_wd3", 8.6), ("vgg72_resnet_wd3", 2.34), ("vgg132_resnet_wd3", 1.2), ("vgg38_resnet_wd3", 6.45)],
)
def test_the_published_throughput_is_r4s(run, printed):
    assert throughput.published_throughput(run) == printed
    assert math.isnan(throughput.published_throughput("vgg38_resnet"))


def test_the_command_prints_and_writes_the_table(tmp_path, capsys):
    (tmp_path / "params.yaml").write_text(json.dumps(examples.content()))
    assert cli.main(["rates"]) == 0
    assert capsys.readouterr().err == "no throughput in logs/rates; a training leaves its own when it ends\n"
    record(config.load(), "vgg08", 0, 123)
    assert cli.main(["rates"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split("  ")[-1].strip() == "r4's it/s"
    assert row.split()[-3:] == ["12.3", "1", "-"]
    assert pd.read_csv("logs/rates.csv").throughput.tolist() == [12.3]
