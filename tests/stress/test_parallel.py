"""Notebooks of many builds at once, and trainings that wait for one another."""

import re
import subprocess

import engines
import pytest
import yaml

import examples
from vanishing import config, paths
from vanishing.engines import workspace
from vanishing.report.captions import CAPTIONS

BUILDS = 20


def test_the_notebooks_of_twenty_builds_at_once_do_not_clash(tmp_path, monkeypatch):
    """Kernels, fonts and folders are shared: all are of one checkout, in which no notebook has been run before."""
    workspace.lay_out(examples.ROOT, tmp_path, None)
    monkeypatch.chdir(tmp_path)
    content = examples.content(runs=["vgg08"])
    content["studies"] = {
        f"study{at}": {"title": "The same", "runs": ["vgg08"], "draw": ["training"]} for at in range(BUILDS)
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    examples.result(config.load(), "vgg08")
    started = [
        subprocess.Popen(
            ["vanishing", "figures", f"study{at}"],
            cwd=tmp_path, env=engines.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for at in range(BUILDS)
    ]  # fmt: skip
    for process in started:
        _, complaint = process.communicate(timeout=engines.HUNG)
        assert process.returncode == 0, complaint
    made = [{path.name: path.read_bytes() for path in (paths.FIGURES / key).iterdir()} for key in content["studies"]]
    assert set(made[0]) == {f"{name}.pdf" for name in CAPTIONS["training"]}
    assert all(figures == made[0] for figures in made)
    assert not list(tmp_path.glob("kernel*"))  # no socket is left


@pytest.mark.parametrize(("device", "turns"), [("auto", True), ("cpu", False)])
def test_trainings_that_may_use_a_gpu_take_turns_without_a_profile(tmp_path, device, turns):
    """Where there is none either: the device of a training is known once it runs. Those told to use the CPU overlap."""
    engines.lay_out(tmp_path, {}, train={"device": device})
    summaries = [f"results/runs/{run}/seed0/summary.json" for run in engines.RUNS]
    printed = engines.run(tmp_path, "snakemake", "--cores", "4", "--workflow-profile", "none", *summaries)
    told = re.findall(r": (training) vgg|(Finished) jobid: \d+ \(Rule: train\)", printed)
    order = [begins or ends for begins, ends in told]
    one_by_one = ["training", "Finished"] * 2
    assert sorted(order) == sorted(one_by_one)
    assert (order == one_by_one) == turns
