"""A stage more, as CONTRIBUTING.md says: five files, and the two engines and every command know it."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

import examples
from vanishing.engines import workspace

NEW = {
    "src/vanishing/analysis/extremes.py": '''"""The largest training loss of a run."""

from vanishing import paths
from vanishing.results import store


def measure(run: str, seed: int) -> None:
    """Write `extremes.csv`: the largest training loss in nats."""
    history = store.read_history(paths.results(run, seed) / "history.csv")
    store.write_table(paths.results(run, seed) / "extremes.csv", history[["train_loss"]].max().to_frame().T)
''',
    "workflow/rules/extremes.smk": '''rule extremes:
    """Find the largest training loss of one run."""
    input:
        history="results/runs/{run}/seed{seed}/history.csv",
    output:
        graph.outputs("extremes"),
    log:
        "logs/extremes/{run}-seed{seed}.log",
    benchmark:
        "logs/benchmarks/extremes/{run}-seed{seed}.tsv"
    shell:
        "{program} extremes {wildcards.run} --seed {wildcards.seed} 2>&1 | tee {log}"
''',
}
ADDED = {
    "src/vanishing/stages.py": '''

def extremes(settings: config.Parameters, name: str, seed: int) -> None:
    """Find the largest training loss of a run."""
    from vanishing.analysis import extremes as analysis

    settings.check_seed(name, seed)
    analysis.measure(name, seed)
''',
    "dvc.yaml": """
  extremes:
    foreach: ${jobs}
    do:
      cmd: vanishing extremes ${item.run} --seed ${item.seed}
      deps:
        - results/runs/${item.run}/seed${item.seed}/history.csv
      outs:
        - results/runs/${item.run}/seed${item.seed}/extremes.csv:
            cache: false
""",
}
ROW = """    Stage(
        "extremes", "find the largest training loss of trained runs",
        outputs=(RESULT + "extremes.csv",),
        inputs=(RESULT + "history.csv",),
        each="job", from_results=False,
    ),
    Stage(
        "tables","""

GRAPH = """
import json
from dvc.repo import Repo
with Repo() as repo:
    print(json.dumps([stage.cmd for stage in repo.index.stages]))
"""


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with a stage more, and results of one run."""
    folder = tmp_path_factory.mktemp("project") / "project"
    workspace.lay_out(examples.ROOT, folder, None, ["core"])
    (folder / "src").unlink()
    shutil.copytree(examples.ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (folder / "params.yaml").write_text(yaml.safe_dump(examples.content()))
    before = content(folder)
    for name, text in NEW.items():
        (folder / name).write_text(text)
    for name, text in ADDED.items():
        with (folder / name).open("a") as handle:
            handle.write(text)
    catalogue = folder / "src/vanishing/engines/catalogue.py"
    rows = catalogue.read_text()
    assert rows.count('    Stage(\n        "tables",') == 1
    catalogue.write_text(rows.replace('    Stage(\n        "tables",', ROW))
    after = content(folder)
    assert len({name for name in after if after[name] != before.get(name)}) == 5
    return folder


def call(folder, *command):
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_both_engines_have_its_jobs(project):
    call(project, "-m", "vanishing", "configure")
    planned = call(project, "-m", "snakemake", "-n", "--printshellcmds")
    stages = json.loads(call(project, "-c", GRAPH))
    for run in ("vgg08", "vgg38"):
        assert f"vanishing extremes {run} --seed 0" in planned
        assert f"vanishing extremes {run} --seed 0" in stages


def test_the_command_line_explains_and_runs_it(project, monkeypatch):
    monkeypatch.chdir(project)
    assert "find the largest training loss of trained runs" in " ".join(
        call(project, "-m", "vanishing", "--help").split()
    )
    study = examples.study()
    examples.result(study, "vgg08", train=(2.5, 0.1))
    call(project, "-m", "vanishing", "extremes", "vgg08")
    assert (project / "results/runs/vgg08/seed0/extremes.csv").read_text() == "train_loss\n2.5\n"


def test_its_file_is_known_by_its_command(project):
    code = "from pathlib import Path; from vanishing.engines import catalogue as c; print(c.maker_of(Path({!r})))"
    made = "results/runs/vgg08/seed0/extremes.csv"
    assert call(project, "-c", code.format(made)).strip() == "vanishing extremes vgg08 --seed 0"


def test_a_study_cannot_take_its_name(project, tmp_path):
    content = examples.content()
    content["studies"] = {"extremes": content["studies"]["core"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    environment = os.environ | {"PYTHONPATH": str(project / "src")}
    done = subprocess.run(
        [sys.executable, "-m", "vanishing", "models"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "studies.extremes: allowed: another name" in done.stderr
