"""The examples, as a reader runs them."""

import ast
import shutil
from pathlib import Path

import nbformat
import pytest

import examples
from vanishing.report import notebooks

API, DIAGNOSIS = (examples.ROOT / "examples" / f"{name}.ipynb" for name in ("api", "diagnosis"))


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    """Work in an empty folder, and put back what `execute` sets."""
    monkeypatch.chdir(tmp_path)
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR", "PYDEVD_DISABLE_FILE_VALIDATION"):
        monkeypatch.setenv(name, str(tmp_path))


def shown(example):
    """Run a notebook and return what its cells show."""
    executed = nbformat.reads(notebooks.execute([example], {}), as_version=4)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    return [output.data if "data" in output else {"text/plain": output.text} for output in outputs]


@pytest.mark.parametrize("example", [API, DIAGNOSIS], ids=lambda path: path.stem)
def test_they_are_committed_without_outputs(example):
    cells = nbformat.read(example, as_version=4).cells
    assert [cell.id for cell in cells] == [f"cell-{place}" for place in range(len(cells))]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells if cell.cell_type == "code")


def test_the_api_runs_and_shows_what_its_text_says(tmp_path):
    shutil.copy(examples.ROOT / "params.yaml", tmp_path)
    shutil.copytree(examples.ROOT / "results" / "runs" / "vgg08", tmp_path / "results" / "runs" / "vgg08")
    Path("workflow").mkdir()
    shutil.copy(examples.ROOT / "workflow" / "demo.yaml", "workflow")
    data = shown(API)
    values = [ast.literal_eval(each["text/plain"]) for each in data if each["text/plain"].startswith("{")]
    ratios, losses = values
    assert float(ratios["vgg38"]) < 1e-6
    assert float(ratios["vgg38_bn"]) > 0.1
    assert losses["vgg38_bn"] < 2.2 < losses["vgg38"] == pytest.approx(2.3026, abs=0.02)
    assert sum("image/png" in each for each in data) == 1
    assert "vgg08" in data[-1]["text/plain"]


def test_the_diagnosis_runs_and_shows_what_its_text_says():
    page, findings, text, verdict = shown(DIAGNOSIS)
    assert "data:image/svg+xml;base64," in page["text/html"]
    assert "The signal is lost" in page["text/html"]
    kinds = [kind for kind, *_ in ast.literal_eval(findings["text/plain"])]
    assert kinds == ["lost", "vanishing"]
    assert "Verdict: Healthy" in text["text/plain"]
    assert "vanishes through time" in verdict["text/plain"]
