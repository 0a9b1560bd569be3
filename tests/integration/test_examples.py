"""The example of the API, as a reader runs it."""

import ast
import shutil
from pathlib import Path

import nbformat
import pytest

import examples
from vanishing.report import notebooks

EXAMPLE = examples.ROOT / "examples" / "api.ipynb"


def test_it_is_committed_without_outputs():
    cells = nbformat.read(EXAMPLE, as_version=4).cells
    assert [cell.id for cell in cells] == [f"cell-{place}" for place in range(len(cells))]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells if cell.cell_type == "code")


def test_it_runs_and_shows_what_its_text_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR", "PYDEVD_DISABLE_FILE_VALIDATION"):
        monkeypatch.setenv(name, str(tmp_path))  # execute() sets them; monkeypatch puts them back
    shutil.copy(examples.ROOT / "params.yaml", tmp_path)
    shutil.copytree(examples.ROOT / "results" / "runs" / "vgg08", tmp_path / "results" / "runs" / "vgg08")
    Path("workflow").mkdir()
    shutil.copy(examples.ROOT / "workflow" / "demo.yaml", "workflow")
    executed = nbformat.reads(notebooks.execute([EXAMPLE], {}), as_version=4)
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output.data for output in outputs if "data" in output]
    values = [ast.literal_eval(data["text/plain"]) for data in shown if data["text/plain"].startswith("{")]
    ratios, losses = values
    assert float(ratios["vgg38"]) < 1e-6
    assert float(ratios["vgg38_bn"]) > 0.1
    assert losses["vgg38_bn"] < 2.2 < losses["vgg38"] == pytest.approx(2.3026, abs=0.02)
    assert sum("image/png" in data for data in shown) == 1
    assert "vgg08" in shown[-1]["text/plain"]
