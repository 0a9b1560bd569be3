"""What `vanishing show` and `vanishing compare` print."""

import io
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

import examples
from vanishing import cli, config

ROWS = {
    "vgg08": [(1.0, 0.50), (1.2, 0.60)],
    "vgg38": [(2.0, 0.30), (2.4, 0.20)],
}


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch):
    """Stand in a folder with two runs of two seeds each."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(examples.content({"seeds": [0, 1]})))
    made = config.load()
    for run, seeds in ROWS.items():
        for seed, test in enumerate(seeds):
            examples.result(made, run, seed, test=test)
    return made


def call(capsys, *arguments):
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_two_runs_side_by_side_with_the_paired_difference(capsys):
    """Test accuracy differs by 20 and 40 points: 30, with 12.706 (Student, 1 degree) x 14.142 / sqrt(2) = 127.06."""
    code, out, _ = call(capsys, "compare", "vgg08", "vgg38")
    lines = [line.split() for line in out.splitlines()]
    assert (code, lines[0], lines[1]) == (0, ["configuration", "vgg08", "vgg38"], ["model.blocks", "0", "5"])
    assert lines[3] == ["metric", "vgg08", "vgg38", "difference", "95", "%", "interval", "n", "verdict"]
    assert " ".join(lines[-1]) == ("test accuracy 55.00 ± 7.07 % 25.00 ± 7.07 % +30.00 -97.06 to +157.06 2 cannot tell")
    assert len(lines) == 9


def test_what_one_pair_cannot_tell_is_said(capsys):
    _, out, _ = call(capsys, "compare", "vgg08:1", "vgg38:1")
    lines = out.splitlines()
    assert lines[0].split() == ["configuration", "vgg08:1", "vgg38:1"]
    assert " ".join(lines[-2].split()) == "test accuracy 60.00 % 20.00 % +40.00 - 1 cannot tell"
    assert lines[-1] == "n = 1: one pair of trainings has no interval, since it says nothing of the spread over seeds"


def test_seeds_of_one_run_are_not_paired(capsys):
    _, out, _ = call(capsys, "compare", "vgg08:0", "vgg08:1")
    lines = out.splitlines()
    assert lines[0] == "one configuration"
    assert " ".join(lines[-2].split()) == "test accuracy 50.00 % 60.00 % - - 0 cannot tell"
    assert lines[-1] == "no seed in common, so no paired difference"


def test_a_diverged_seed_is_named_and_left_out(study, capsys):
    examples.result(study, "vgg38", 1, train=(float("nan"), 0.1))
    _, out, _ = call(capsys, "compare", "vgg08", "vgg38")
    assert "\nvgg38: 1 diverged (epoch 2)\nn = 1: " in out


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["compare", "vgg08", "vgg08:1"], 2, "compare: vgg08:1: on both sides; allowed: two runs, or two seeds of one"),
        (["compare", "vgg08", "vgg09"], 2, "compare: run 'vgg09' is not configured; allowed: vgg08, vgg38"),
        (["show", "cor"], 2, "show: study 'cor' is not configured; allowed: core"),
    ],
)
def test_a_mistake_is_a_line(capsys, arguments, code, line):
    assert call(capsys, *arguments) == (code, "", f"vanishing {line}\n")


def test_without_results_the_next_step_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    Path("params.yaml").write_text(yaml.safe_dump(examples.content()))
    _, _, err = call(capsys, "compare", "vgg08", "vgg38")
    assert err == ("vanishing compare: vgg08: no results for these seeds yet; see `vanishing status`\n")
    _, _, err = call(capsys, "show", "core")
    assert err.endswith("vanishing show: study 'core' has no results yet; `snakemake core` makes them\n")


def test_show_names_the_runs_that_have_no_results(tmp_path, capsys):
    _, complete, _ = call(capsys, "show", "core")
    assert "no results yet" not in complete
    shutil.rmtree(tmp_path / "results/runs/vgg38")
    _, text, _ = call(capsys, "show", "core")
    assert text.splitlines()[-1] == "no results yet: vgg38"


def test_show_writes_the_table_of_a_study_in_each_format(capsys):
    _, text, _ = call(capsys, "show", "core")
    assert text.startswith("Depth (losses in nats, accuracies in %)\n  run  layers")
    _, markdown, _ = call(capsys, "show", "core", "--format", "markdown")
    assert markdown.splitlines()[:3] == ["Depth (`core`, 2 epochs):", "", markdown.splitlines()[2]]
    assert "| vgg08 | per epoch | 2 | fp32 |" in markdown
    assert "| 55.00 ± 7.07 % | 2 | cpu |" in markdown
    _, latex, _ = call(capsys, "show", "--format", "latex")
    assert latex.startswith("% Depth\n\\begin{tabular}")
    _, table, _ = call(capsys, "show", "--format", "csv")
    read = pd.read_csv(io.StringIO(table))
    assert read[["study", "run", "n"]].to_numpy().tolist() == [["core", "vgg08", 2], ["core", "vgg38", 2]]
    assert read.test_accuracy_mean.tolist() == pytest.approx([0.55, 0.25])
