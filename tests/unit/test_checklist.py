"""The checklist of reproducibility: its numbers are those of the trainings, and what it names is there."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import examples
from vanishing import cli, paths
from vanishing.report import macros

SECTIONS = examples.ROOT / "report" / "sections"
TEXT = " ".join(re.sub(r"(?<!\\)%.*", "", (SECTIONS / "checklist.tex").read_text()).split())


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the results of a small study of two seeds: three of four trainings, one of which diverged."""
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        examples.result(study(), "vgg08", seed)
        set_hardware(seed, "AVX512")
    examples.result(study(), "vgg38", 0, train=(float("nan"), 0.1))


def study():
    return examples.study({"seeds": [0, 1]})


def set_hardware(seed, kind):
    path = paths.results("vgg08", seed) / "summary.json"
    environment = {"device": "cpu", "kind": kind, "torch": "9.9", "precision": "fp32", "threads": 1}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"environment": environment}))


def answers():
    """Return what the checklist answers to each question, with the numbers that `numbers` writes."""
    macros.write_numbers(study())
    lines = Path("report/numbers.tex").read_text().splitlines()
    results = {
        match[1]: match[2] for line in lines if (match := re.match(r"\\defineresult\{(.*?)\}\{.*?\}\{(.*)\}", line))
    }
    text = re.sub(r"\\result\{(.*?)\}", lambda match: results[match[1]], TEXT)
    return dict(re.findall(r"\\item \\emph\{(.*?)\} (.*?)(?= \\item| \\end)", text))


def facts():
    macros.write_numbers(study())
    return re.findall(r"\\definefact\{(trainings.*?)\}", Path("report/numbers.tex").read_text())


def test_every_question_has_an_answer_and_its_numbers_are_those_of_the_results():
    found = answers()
    assert len(found) == TEXT.count(r"\item \emph") == 17 + 6
    assert all(
        re.match(
            r"(\\iffact\{(trainings/spread|own)\}\{)?\\textbf\{(Yes|In part|Not answered|Not applicable)\.\} \S", text
        )
        for text in found.values()
    )
    assert "3 of 4 trainings" in found["Can the main results be reproduced from what is written?"]
    assert r"\textbf{Yes.} 1 diverged" in found["Are trainings that failed reported?"]
    assert "Up to 2 seeds" in found["Is there a measure of statistical uncertainty?"]
    assert "Trained on cpu AVX2, cpu AVX512, 6 epochs in all" in found["Is the computing described?"]
    assert "with PyTorch 2.13.0, 9.9." in found["Are dependencies given?"]
    assert "2 runs, 2 epochs" in found["Are all settings given, and how they were chosen?"]
    assert "of 3 epochs" in found["Are trained models given?"]
    assert "1 CPU threads, fp32." in found["Does the same command give the same numbers?"]
    assert torch.__version__ not in "".join(found.values()), "a clone with another version typesets the same bytes"


def test_with_results_of_one_seed_there_is_no_spread():
    assert facts() == ["trainings/spread"]
    shutil.rmtree(paths.results("vgg08", 1))
    assert facts() == []


def test_without_trainings_it_says_so():
    shutil.rmtree(paths.RESULTS)
    assert "Trained on no training yet, 0 epochs" in answers()["Is the computing described?"]


def test_what_a_summary_says_is_escaped():
    set_hardware(0, r"A_B & \input{x}")
    assert r"A\_B \& \textbackslash{}input\{x\}" in answers()["Is the computing described?"]


def test_the_commands_that_the_checklist_names_are_there(capsys):
    named = set(re.findall(r"\\texttt\{vanishing (\w+)", TEXT))
    assert named >= {"verify", "manifest", "data", "models", "train", "show"}
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    help_text = capsys.readouterr().out
    assert all(re.search(rf"^ +{name}\s", help_text, re.MULTILINE) for name in named)
    makefile = (examples.ROOT / "Makefile").read_text()
    targets = re.findall(r"\\texttt\{make (\w+)\}", TEXT)
    assert targets
    assert all(f"\n{target}:" in makefile for target in targets)
