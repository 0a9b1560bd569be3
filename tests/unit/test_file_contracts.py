"""`docs/files.md` says of every file what its maker writes."""

import contextlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

import examples
from vanishing import paths
from vanishing.engines import catalogue, progress
from vanishing.results import (
    checks,
    columns,
    differences,
    initial_gradients,
    published,
    published_gradients,
    published_schedules,
    store,
    throughput,
)

PAGE = (examples.ROOT / "docs" / "files.md").read_text()
SECTIONS = dict(re.findall(r"^## `(.+?)`\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
STUDY = [
    "run", "layers", "parameters", *columns.SETTINGS, "averaged_epochs", "n", "diverged", "devices",
    *(f"{metric}_{part}" for metric in columns.METRICS for part in ("mean", "std")),
]  # fmt: skip
WRITTEN = {
    "results/runs/RUN/seedS/history.csv": store.HISTORY_COLUMNS,
    "results/runs/RUN/seedS/gradients.csv": [*store.GRADIENT_COLUMNS, *store.GRADIENT_MEASURES],
    "results/tables/STUDY.csv": STUDY,
    "results/tables/STUDY-differences.csv": list(differences.frame([])),
    "results/comparison/published.csv": published.COLUMNS,
    "results/comparison/schedules.csv": list(published_schedules.schedules_frame([])),
    "results/comparison/scatter.csv": list(published_schedules.scatter_frame([])),
    "results/comparison/brackets.csv": list(published_schedules.brackets_frame([])),
    "results/comparison/gradients.csv": published_gradients.COLUMNS,
    "results/comparison/initialisation.csv": initial_gradients.COLUMNS,
    "results/checks.csv": checks.COLUMNS,
    "logs/rates.csv": throughput.COLUMNS,
}
"""What the code writes; committed results have it too."""


def told(section):
    """List the names in the first column of the table of a section."""
    rows = [line.split(" | ")[0] for line in SECTIONS[section].splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`(.+?)`", row)]


def committed(section):
    """Return the committed files of which a section tells."""
    pattern = section.replace("seedS", "seed*").replace("RUN", "*").replace("STUDY", "*")
    found = sorted(examples.ROOT.glob(pattern))
    return [path for path in found if path.stem.endswith("-differences") == section.endswith("-differences.csv")]


@pytest.mark.parametrize(("section", "written"), WRITTEN.items(), ids=WRITTEN)
def test_the_columns_are_those_that_are_written(section, written):
    assert told(section) == list(written)
    assert all(list(pd.read_csv(path, nrows=0)) == written for path in committed(section))


def test_the_verdicts_of_the_diagnosis_have_the_columns_that_are_told():
    section = "results/diagnosis.csv"
    assert told(section) == list(pd.read_csv(examples.ROOT / section, nrows=0))


def test_the_summary_has_the_keys_that_are_told():
    paths = committed("results/runs/RUN/seedS/summary.json")
    assert paths
    for path in paths:
        assert list(yaml.safe_load(path.read_text())) == told("results/runs/RUN/seedS/summary.json")


def test_no_meaning_is_left_out():
    assert [line for line in PAGE.splitlines() if re.search(r"\|\s*\|", line)] == []


def test_the_progress_file_has_the_keys_that_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = examples.study()
    training = SimpleNamespace(
        place=SimpleNamespace(epoch=1, iteration=2),
        run=study.run("vgg08"),
        iterations=3,
        state=Path("x"),
        done=2,
        total=9,
    )
    with contextlib.suppress(ValueError), progress.Reporter(study, "vgg08", 0) as reporter:
        reporter.update(training)
        raise ValueError("a broken step")
    written = json.loads(paths.progress("vgg08", 0).read_text())
    assert list(written) == told(f"{paths.PROGRESS}/RUN-seedS.json")


def test_every_csv_of_the_pipeline_is_told_of():
    outputs = {output for stage in catalogue.STAGES for output in stage.outputs if output.endswith(".csv")}
    named = {as_told(output) for output in outputs if "analyses" not in output}
    assert named == {section for section in SECTIONS if section in named}


def as_told(template):
    """Write the template of a path as the page does."""
    return template.format(run="RUN", seed="S", study="STUDY", set="SET")


def test_every_output_has_its_command_and_whoever_versions_it():
    rows = re.findall(r"^\| (`.+`) \| `(vanishing \w+)` \| (git|DVC) \|$", PAGE, re.MULTILINE)
    said = {(name, command, by) for names, command, by in rows for name in re.findall(r"`(.+?)`", names)}
    assert said == {
        (as_told(output), f"vanishing {stage.name}", "git" if uncached(output) else "DVC")
        for stage in catalogue.STAGES
        for output in stage.outputs
    }


def uncached(output):
    """Whether `dvc.yaml` leaves an output to git."""
    stages = yaml.safe_load((examples.ROOT / "dvc.yaml").read_text())["stages"].values()
    blocks = [block.get("do", block) for block in stages]
    entries = [entry for block in blocks for kind in ("outs", "metrics", "plots") for entry in block.get(kind, [])]
    options = {}
    for entry in entries:
        options |= entry if isinstance(entry, dict) else {entry: {}}
    fields = {"run": "${item.run}", "seed": "${item.seed}", "study": "${key}", "set": "${data.set}"}
    return options[output.format(**fields).removesuffix("/")].get("cache") is False
