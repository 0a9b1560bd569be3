"""Notebooks at the same time: each kernel has sockets of its own."""

import subprocess
import sys

import nbformat
import pytest

pytestmark = pytest.mark.pipeline

NOTEBOOKS = 20

EXECUTE = """
import sys
from pathlib import Path
from vanishing import notebooks
sys.stdout.write(notebooks.execute([Path("sum.ipynb")], {"study": sys.argv[1]}))
"""


def test_twenty_notebooks_at_once_do_not_clash(tmp_path):
    cells = [
        nbformat.v4.new_code_cell("study = ''", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("print(study, sum(range(101)))"),
    ]
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "sum.ipynb")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", EXECUTE, f"study{at}"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for at in range(NOTEBOOKS)
    ]  # fmt: skip
    for at, process in enumerate(started):
        output, complaint = process.communicate(timeout=300)
        assert process.returncode == 0, complaint
        assert f"study{at} 5050" in output
    assert {path.name for path in tmp_path.iterdir()} == {"sum.ipynb", ".vanishing"}  # no socket is left
