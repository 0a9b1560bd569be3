"""A tiny study through both engines: what each records, runs again, and says."""

import json
import re
import shutil
from pathlib import Path

import pytest
from engines import COMMANDS, content, lay_out, planned, run, start

pytestmark = pytest.mark.pipeline


@pytest.fixture
def built(builds):
    """What each engine has built, by its name."""
    return {engine: builds[engine] for engine in COMMANDS}


def test_the_report_is_there_and_every_table_and_figure(built):
    made = content(built["snakemake"])
    assert "results/checks.csv" in made
    assert made["report/report.pdf"].startswith(b"%PDF")
    assert {"results/tables/core.csv", "report/tables/core.tex", "report/figures/core/loss.pdf"} <= set(made)
    assert {"results/notebooks/core.ipynb", "results/comparison/agreement.ipynb"} <= set(made)


def test_after_a_sync_neither_engine_has_anything_to_do(built):
    for folder in built.values():
        run(folder, "vanishing", "sync")
        assert "Nothing to be done" in run(folder, "snakemake", "-n")
        assert run(folder, "dvc", "status").strip() == "Data and pipelines are up to date."
        again = run(folder, "vanishing", "sync")
        assert "stages entered in DVC's record: 0\nstages entered in Snakemake's record: 0\n" in again


def test_what_was_trained_at_once_outside_the_engines_is_theirs_after_a_sync(built, tmp_path):
    """And its bytes are those of a job each."""
    lay_out(tmp_path, {})
    run(tmp_path, "vanishing", "data")
    run(tmp_path, "vanishing", "train", "--missing", "core", "--at-once", "2")
    made = content(tmp_path)
    assert {name: made[name] for name in made if "/runs/" in name or name.startswith("checkpoints")} == {
        name: data for name, data in content(built["snakemake"]).items()
        if name.startswith("checkpoints") or ("/runs/" in name and "gradients" not in name)
    }  # fmt: skip
    run(tmp_path, "vanishing", "sync")
    assert {rule for rule, _ in planned(tmp_path)} & {"data", "train"} == set()
    stale = json.loads(run(tmp_path, "dvc", "status", "--json"))
    assert not [name for name in stale if name == "data" or name.startswith("train@")]
    assert [name for name in stale if name.startswith("gradients@")]


def test_after_a_sync_each_engine_sees_a_changed_parameter(built):
    """Snakemake notices it only where the sync has entered the parameters, not the times alone."""
    for folder in built.values():
        run(folder, "vanishing", "sync")
        before = (folder / "params.yaml").read_bytes()
        lay_out(folder, {"vgg08": {"train": {"learning_rate": 0.002}}})
        assert planned(folder) == ALL_OF_VGG08
        assert set(json.loads(run(folder, "dvc", "status", "--json"))) == {"configure"}
        run(folder, "vanishing", "configure")
        assert "train@vgg08-0" in json.loads(run(folder, "dvc", "status", "--json"))
        assert "train@vgg14_bn-0" not in json.loads(run(folder, "dvc", "status", "--json"))
        (folder / "params.yaml").write_bytes(before)
        assert "Nothing to be done" in run(folder, "snakemake", "-n")


ALL_OF_VGG08 = {("train", "vgg08"), ("gradients", "vgg08")} | {
    (rule, "") for rule in ("tables", "figures", "compare", "numbers", "check", "report")
}


def test_a_changed_learning_rate_runs_that_run_and_what_stands_on_it(built, tmp_path):
    folders = {engine: Path(shutil.copytree(folder, tmp_path / engine)) for engine, folder in built.items()}
    outputs = {}
    for engine, folder in folders.items():
        run(folder, "vanishing", "sync")
        lay_out(folder, {"vgg08": {"train": {"learning_rate": 0.002}}})
        outputs[engine] = start(COMMANDS[engine], folder)
    texts = {engine: process.communicate(timeout=300)[0] for engine, process in outputs.items()}
    commands = {
        "vanishing train vgg08 --seed 0",
        "vanishing gradients vgg08 --seed 0",
        "vanishing tables core",
        "vanishing figures core",
        "vanishing compare",
        "vanishing numbers",
        "vanishing check",
        "vanishing report",
    }
    for engine, text in texts.items():
        ran = {" ".join(line) for line in re.findall(r"(vanishing) ((?:(?!2>&1)[^\n])+?)(?: 2>&1.*)?$", text, re.M)}
        assert ran == (commands | {"vanishing configure --same-jobs"} if engine == "dvc" else commands), text
    assert content(folders["snakemake"]) == content(folders["dvc"])
    changed = {name for name, bytes_ in content(folders["dvc"]).items() if content(built["dvc"]).get(name) != bytes_}
    assert not {name for name in changed if "vgg14_bn" in name}


def test_what_is_planned_is_what_snakemake_would_train(tmp_path):
    """Before anything ran, once a run is trained, and once it is measured too."""
    folder = tmp_path / "study"
    lay_out(folder, {})
    for target, left in (
        ("data/generated.npz", {"vgg08", "vgg14_bn"}),
        ("results/runs/vgg08/seed0/summary.json", {"vgg14_bn"}),
        ("results/runs/vgg08/seed0/gradients.csv", {"vgg14_bn"}),
    ):
        run(folder, "snakemake", "--cores", "1", target)
        assert left == {name for rule, name in planned(folder) if rule == "train"}
        table = run(folder, "vanishing", "plan").partition("\n\n")[0]
        rows = [line.split() for line in table.splitlines()[1:]]
        assert left == {name for name, _, _, done, missing, *_ in rows if (done, missing) == ("-", "0")}
        assert {name for name, *_ in rows} - left == {name for name, _, _, done, *_ in rows if done == "0"}


@pytest.mark.parametrize(("lost", "target"), [("gradients.csv", "core"), ("history.csv", "all")])
def test_a_lost_result_of_a_finished_study_is_made_again(built, tmp_path, lost, target):
    """Left to itself Snakemake would not miss it: everything that stands on it is up to date."""
    folder = Path(shutil.copytree(built["snakemake"], tmp_path / "study"))
    before = content(folder)
    (folder / "results/runs/vgg08/seed0" / lost).unlink()
    assert {name for rule, name in planned(folder) if rule == "train"} == (
        {"vgg08"} if lost == "history.csv" else set()
    )
    run(folder, "snakemake", "--cores", "1", target)
    assert content(folder) == before


def test_a_mistake_in_the_parameters_costs_dvc_nothing(built, tmp_path):
    folder = Path(shutil.copytree(built["dvc"], tmp_path / "dvc"))
    before = content(folder)
    lay_out(folder, {"vgg08": {"train": {"epochs": 0}}})
    process = start(COMMANDS["dvc"], folder)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert (
        "vanishing configure: params.yaml: runs.vgg08.train.epochs = 0: allowed: greater than or equal to 1" in output
    )
    assert content(folder) == before


def test_a_changed_default_trains_only_the_runs_that_it_changes(built, tmp_path):
    folder = Path(shutil.copytree(built["dvc"], tmp_path / "dvc"))
    run(folder, "vanishing", "sync")
    lay_out(folder, {"vgg14_bn": {"train": {"batch_size": 20}}}, train={"batch_size": 10})
    run(folder, "vanishing", "configure")
    stale = {name for name in json.loads(run(folder, "dvc", "status", "--json")) if name.startswith("train@")}
    assert stale == {"train@vgg08-0"}
    assert {name for rule, name in planned(folder) if rule == "train"} == {"vgg08"}


def test_a_longer_list_of_runs_takes_dvc_the_same_command_twice(built, tmp_path):
    """DVC has read the list by the time that it runs anything."""
    folder = Path(shutil.copytree(built["dvc"], tmp_path / "dvc"))
    lay_out(folder, {"vgg20_bn": {"model": {"blocks": 2, "norm": "batch"}}})
    before = content(folder)
    first, _ = (process := start(COMMANDS["dvc"], folder)).communicate(timeout=300)
    assert process.returncode != 0
    assert "workflow/jobs.json: runs, seeds or studies have changed; the same command again" in first
    assert content(folder) == before
    second, _ = (process := start(COMMANDS["dvc"], folder)).communicate(timeout=300)
    assert process.returncode == 0, second
    assert (folder / "results/runs/vgg20_bn/seed0/gradients.csv").exists()


def test_the_report_is_rebuilt_from_results_alone(built, tmp_path):
    folder = tmp_path / "clone"
    lay_out(folder, {})
    shutil.copytree(built["snakemake"] / "results" / "runs", folder / "results" / "runs")
    run(folder, "snakemake", "report", "--cores", "2", "--config", "from_results=true")
    assert not (folder / "data").exists()
    assert not (folder / "checkpoints").exists()
    assert (folder / "report/report.pdf").read_bytes() == (built["snakemake"] / "report/report.pdf").read_bytes()


def test_a_report_without_any_result_says_so(tmp_path):
    lay_out(tmp_path / "empty", {})
    run(tmp_path / "empty", "snakemake", "report", "--cores", "1", "--config", "from_results=true")
    assert (tmp_path / "empty/report/studies.tex").read_text() == ""
    assert (tmp_path / "empty/report/report.pdf").read_bytes().startswith(b"%PDF")


def test_a_failing_job_names_its_log_and_shows_its_end(tmp_path):
    lay_out(tmp_path / "broken", {}, data={"set": "cifar100", "sources": ["nowhere"], "validation_per_class": 25})
    process = start(COMMANDS["snakemake"], tmp_path / "broken")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "logs/data.log" in output
    assert output.count("vanishing data: ") >= 2, "once as it happens, once from the log"
    assert not (tmp_path / "broken/data/cifar100.npz").exists()
