import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import examples
from vanishing import project
from vanishing.errors import UserError


@pytest.fixture
def top(tmp_path, monkeypatch):
    """A project without code, and a folder below it."""
    for name in ("params.yaml", "Snakefile"):
        (tmp_path / name).touch()
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    return tmp_path


def test_the_top_is_found_from_a_folder_below(top):
    assert project.enter() == top == Path.cwd()


def test_a_folder_with_parameters_is_a_top_of_its_own(top):
    Path("params.yaml").touch()
    assert project.enter() == top / "a" / "b"


def test_another_projects_parameters_above_are_no_top(top):
    (top / "Snakefile").unlink()
    assert project.enter() == top / "a" / "b"


def test_code_of_another_checkout_is_refused_unless_it_is_the_same(top):
    shutil.copytree(project.RUNNING, top / "src" / "vanishing", ignore=shutil.ignore_patterns("__pycache__"))
    project.enter()
    with (top / "src" / "vanishing" / "report" / "latex.py").open("a") as handle:
        handle.write("# edited\n")
    with pytest.raises(UserError, match=r"^src/vanishing: differs from the code that runs, .*; type `make setup` and"):
        project.enter()


def test_converted_line_ends_are_no_other_code(top):
    shutil.copytree(project.RUNNING, top / "src" / "vanishing", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (top / "src" / "vanishing").rglob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    project.enter()


def test_commands_work_below_the_top_with_the_paths_that_were_typed(top):
    (top / "params.yaml").write_text((examples.ROOT / "params.yaml").read_text())
    command = [sys.executable, "-m", "vanishing", "manifest", "--output", "here.json"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert (top / "a" / "b" / "here.json").exists()


def test_outside_a_project_one_line_says_where_to_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "vanishing", "models"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    line = "vanishing models: params.yaml: neither here nor in a folder above; run this in the project's folder\n"
    assert done.stderr == line
