"""Experiments on a tiny study: DVC's own, and the same setting from Snakemake, one after the other and at once."""

import csv
import io
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import engines
import psutil
import pytest
from clones import git, under_git
from engines import run

from examples import ROOT
from vanishing import config, paths

SETTING = "runs.vgg14_bn.train.learning_rate=0.003"
SNAKEMAKES = ["--config", "runs={vgg14_bn: {train: {learning_rate: 0.003}}}"]
TRAINING = "train@vgg14_bn-0"
SUMMARY, HISTORY = (f"results/runs/vgg14_bn/seed0/{name}" for name in ("summary.json", "history.csv"))
CACHED = f"Stage '{TRAINING}' is cached - skipping run, checking out outputs"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A git checkout of a study whose two networks DVC has trained, known to Snakemake too."""
    folder = tmp_path_factory.mktemp("trained") / "study"
    engines.lay_out(folder, {"vgg14_bn": {"train": {"learning_rate": 0.001, "epochs": 3}}})
    (folder / "src").unlink()
    (folder / "src").symlink_to(ROOT / "src")  # found in copies at another depth too
    under_git(folder)
    for key, value in (("name", "A"), ("email", "a@example.org")):  # as whom DVC commits experiments
        git(folder, "config", f"user.{key}", value)
    run(folder, "dvc", "repro", "train@vgg08-0", TRAINING)
    run(folder, "vanishing", "sync")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Two networks")
    return folder


@pytest.fixture
def study(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "study", symlinks=True))


def experiment(folder, *options):
    """Run an experiment of the setting in this file; return what it printed."""
    return run(folder, "dvc", "exp", "run", "-S", f"params.yaml:{SETTING}", *options, TRAINING)


def listed(folder):
    """Return what `dvc exp show` lists of experiments: rows by their names, of what the document keeps, and commits."""
    kept = "(?!Experiment$|rev$|runs|.*:test)"
    printed = run(folder, "dvc", "exp", "show", "--csv", "--only-changed", "--hide-workspace", "--drop", kept)
    rows = csv.DictReader(io.StringIO(printed))
    return {row["Experiment"]: {key.rpartition(":")[2]: row[key] for key in row if key != "Experiment"} for row in rows}


def test_two_variants_are_queued_listed_compared_and_drawn_over_each_other(study):
    for name, rate in (("slower", "0.003"), ("faster", "0.01")):
        setting = f"params.yaml:runs.vgg14_bn.train.learning_rate={rate}"
        run(study, "dvc", "exp", "run", "--queue", "--name", name, "-S", setting, TRAINING)
    run(study, "dvc", "exp", "run", "--run-all")
    assert git(study, "status", "--porcelain") == ""

    rows = {name: row for name, row in listed(study).items() if name in ("slower", "faster")}
    losses = {
        name: json.loads(git(study, "show", f"{row['rev']}:{SUMMARY}"))["test"]["loss"] for name, row in rows.items()
    }
    assert {name: float(row["runs.vgg14_bn.train.learning_rate"]) for name, row in rows.items()} == {
        "slower": 0.003, "faster": 0.01,
    }  # fmt: skip
    assert {name: float(row["test.loss"]) for name, row in rows.items()} == losses
    assert losses["slower"] != losses["faster"]

    changed = json.loads(run(study, "dvc", "params", "diff", "--json", "slower", "faster"))
    assert changed == {"params.yaml": {"runs.vgg14_bn.train.learning_rate": {"old": 0.003, "new": 0.01, "diff": 0.007}}}
    metrics = json.loads(run(study, "dvc", "metrics", "diff", "--json", "slower", "faster"))
    assert metrics.keys() == {SUMMARY}
    assert metrics[SUMMARY]["test.loss"]["new"] == losses["faster"]

    drawn = run(study, "dvc", "plots", "diff", "HEAD", "slower", "faster", "--targets", "core: training loss", "--json")
    (plot,) = json.loads(drawn)["data"]["core: training loss"]
    values = {
        (each["rev"], each["filename"], each["epoch"]): each["train_loss"] for each in plot["content"]["data"]["values"]
    }
    assert {rev for rev, *_ in values} == {"HEAD", "slower", "faster"}
    assert {name for _, name, _ in values} == {"vgg08/seed0/history.csv", "vgg14_bn/seed0/history.csv"}
    first = next(csv.DictReader(io.StringIO(git(study, "show", f"{rows['slower']['rev']}:{HISTORY}"))))
    assert values["slower", "vgg14_bn/seed0/history.csv", "1"] == first["train_loss"]


def test_snakemake_trains_the_same_and_both_engines_know_it_for_another_setting(study):
    experiment(study, "--temp", "--name", "same")
    commit = listed(study)["same"]["rev"]
    printed = run(study, "snakemake", "--cores", "1", *SNAKEMAKES, "--", SUMMARY)
    assert f"vanishing --set {SETTING} train vgg14_bn --seed 0" in printed
    for name in (SUMMARY, HISTORY):
        assert (study / name).read_text() == git(study, "show", f"{commit}:{name}")

    assert "Nothing to be done" in run(study, "snakemake", "-n", *SNAKEMAKES, "--", SUMMARY)
    assert "params have changed since last execution:\n        train" in run(study, "snakemake", "-n", SUMMARY)
    status = json.loads(run(study, "dvc", "status", "--json"))[TRAINING]
    assert {"changed outs": {SUMMARY: "modified"}}.items() <= {
        kind: {SUMMARY: paths[SUMMARY]} for each in status for kind, paths in each.items()
    }.items()
    printed = run(study, "vanishing", "sync")
    assert TRAINING not in re.search(r"stages entered in DVC's record: (.*)", printed)[1]

    write_setting(study)
    printed = run(study, "vanishing", "sync")  # what is there is of the file now: entered, without a training
    assert TRAINING in re.search(r"stages entered in DVC's record: (.*)", printed)[1]
    both_have_nothing_to_do(study)


def write_setting(folder, *others):
    """Enter the setting in params.yaml."""
    content = config.merge(config.read(folder / "params.yaml"), config.read_settings([SETTING, *others]))
    (folder / "params.yaml").write_text(config.text(content))


def both_have_nothing_to_do(folder):
    """Assert that of the training."""
    assert "vanishing train" not in run(folder, "dvc", "repro", TRAINING)
    assert "Nothing to be done" in run(folder, "snakemake", "-n", SUMMARY)


def test_a_training_of_an_experiment_is_not_repeated_by_another_one_nor_by_snakemake(study):
    assert "vanishing train vgg14_bn" in experiment(study, "--temp")
    printed = experiment(study)  # in the checkout this time
    assert CACHED in printed
    assert "vanishing train" not in printed
    run(study, "vanishing", "sync")
    both_have_nothing_to_do(study)


def test_what_snakemake_has_replaced_comes_back_from_dvcs_cache(study):
    before = {name: (study / name).read_bytes() for name in (SUMMARY, HISTORY)}
    run(study, "snakemake", "--cores", "1", *SNAKEMAKES, "--", SUMMARY)
    assert (study / SUMMARY).read_bytes() != before[SUMMARY]
    printed = run(study, "dvc", "repro", TRAINING)
    assert "vanishing train" not in printed
    assert {name: (study / name).read_bytes() for name in before} == before
    run(study, "vanishing", "sync")
    both_have_nothing_to_do(study)


LONG = "runs.vgg14_bn.train.epochs=60"
COMMANDS = {
    "dvc": ["dvc", "exp", "run", "-S", SETTING, "-S", LONG, TRAINING],
    "snakemake": [
        "snakemake", "--cores", "1", "--config",
        "runs={vgg14_bn: {train: {learning_rate: 0.003, epochs: 60}}}", "--", SUMMARY,
    ],
}  # fmt: skip
BUSY = {
    "dvc": r"^snakemake: another engine is at work here: \(PID {pid}\): .*dvc exp run",
    "snakemake": r"^ERROR: .+ busy(?s:.+)^  \(PID {pid}\): snakemake ",
}


@pytest.mark.parametrize(("first", "second"), [("dvc", "snakemake"), ("snakemake", "dvc")])
def test_started_both_ways_at_once_one_trains_and_the_other_names_it(study, first, second):
    process = engines.start(COMMANDS[first], study)
    until = time.monotonic() + 300
    while not list((study / ".vanishing").rglob("*.safetensors")) and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[0]
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in family:  # at work for as long as the second takes to start
        each.suspend()
    refused = subprocess.run(
        COMMANDS[second], cwd=study, env=engines.environment(), capture_output=True, text=True, check=False
    )
    for each in family:
        each.resume()
    said = refused.stdout + refused.stderr
    assert refused.returncode not in (0, 2), said
    assert re.search(BUSY[first].format(pid=process.pid), said, re.M), said
    printed, _ = process.communicate(timeout=engines.HUNG)
    assert process.returncode == 0, printed
    made = (study / SUMMARY).read_bytes()

    if first == "snakemake":  # whose settings are in no file; DVC has written its own into params.yaml
        write_setting(study, LONG)
    run(study, "vanishing", "sync")
    both_have_nothing_to_do(study)
    assert (study / SUMMARY).read_bytes() == made
    assert not (study / paths.resume("vgg14_bn", 0)).exists()
