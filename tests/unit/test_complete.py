"""Completion in a shell, asked for as argcomplete's functions for bash and zsh ask."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import examples

MAIN = "import sys; sys.argv[0] = 'vanishing'; from vanishing import cli; cli.main()"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(examples.content({"seeds": [0, 3]})))
    return tmp_path


def offered(line, code=MAIN, **variables):
    """Return what is offered at the end of a line."""
    return asked(line, code, **variables)[0]


def asked(line, code=MAIN, **variables):
    """Return what is offered at the end of a line, and what is printed beside it."""
    environment = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": f"{len(line)}"}
    environment |= {"_ARGCOMPLETE_STDOUT_FILENAME": "offered", "PYTHONPATH": str(examples.ROOT / "src")} | variables
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, check=False, timeout=60)
    return [each.strip() for each in Path("offered").read_text().splitlines()], done.stdout + done.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("vanishing st", ["status"]),
        ("vanishing status --w", ["--watch"]),
        ("vanishing show --format m", ["markdown"]),
        ("vanishing compare vgg0", ["vgg08"]),
        ("vanishing train vgg08:", ["vgg08:0", "vgg08:3"]),
        ("vanishing train vgg08 vgg3", ["vgg38"]),
        ("vanishing train --missing c", ["core"]),
        ("vanishing plan c", ["core"]),
    ],
)
def test_commands_options_runs_seeds_and_studies_are_offered(line, words):
    assert offered(line) == words


NOTE = """
import os, sys
from pathlib import Path
end = os._exit
def noted(code):
    Path("imported").write_text(f"{sorted({'torch', 'pandas', 'snakemake', 'dvc'} & set(sys.modules))}")
    end(code)
os._exit = noted
"""
"""Notes what has been imported when the answer is there."""


def test_nothing_slow_is_imported():
    """A user waits for it at every press of the key."""
    assert offered("vanishing train vgg08:", NOTE + MAIN) == ["vgg08:0", "vgg08:3"]
    assert Path("imported").read_text() == "[]"


@pytest.mark.parametrize("text", [None, "runs: [", "runs: [1, 2]", "runs: vgg08", "[]"])
def test_without_parameters_or_with_a_mistake_in_them_nothing_is_offered(text):
    Path("params.yaml").unlink()
    if text:
        Path("params.yaml").write_text(text)
    (words, printed), seeds = asked("vanishing compare v"), offered("vanishing train vgg08:")
    assert (words, printed, seeds) == ([], b"", [])
    assert offered("vanishing sta") == ["status"]
