import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

import examples
from vanishing import config, paths
from vanishing.engines import workspace
from vanishing.errors import UserError
from vanishing.report import comparison_tables, figures, latex, macros, tables, typeset
from vanishing.report.why import section

DOCUMENT = "\\documentclass{article}\n\\begin{document}\n%s\n\\end{document}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(not shutil.which("latexmk"), reason="latexmk is not installed")
@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("\\unknowncommand", "report.tex:3: Undefined control sequence"),
        ("\\input{absent}", "absent.tex' not found"),
        ("\\ref{later}, \\ref{absent}\\label{later}", "Reference `absent' on page 1 undefined on input line 3"),
        ("Text.\\label{twice}\\label{twice}", "Label `twice' multiply defined"),
    ],
)
def test_a_mistake_in_the_text_is_one_line_with_latexs_complaint(body, complaint):
    Path("report").mkdir()
    shutil.copy(examples.ROOT / "report" / ".latexmkrc", "report")
    Path("report/report.tex").write_text(DOCUMENT % body)
    Path("report/report.pdf").write_bytes(b"the one before")
    with pytest.raises(UserError, match=r"^report/report.tex: LaTeX failed: ") as raised:
        typeset.typeset()
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)
    assert Path("report/report.pdf").read_bytes() == b"the one before"


@pytest.mark.skipif(not shutil.which("latexmk"), reason="latexmk is not installed")
def test_every_letter_that_a_title_may_have_can_be_set():
    allowed = [chr(code) for code in range(0x2100) if re.match(config.LATIN, chr(code))]
    assert len(allowed) > 300
    body = "\n".join(rf"\section{{{latex.escape(letter)}}}" for letter in allowed)
    shutil.copytree(examples.ROOT / "report", "report", ignore=shutil.ignore_patterns("sections", "build", "why"))
    Path("report/why").mkdir()
    for generated in ("numbers.tex", "why/numbers.tex"):
        Path("report", generated).touch()
    Path("report/report.tex").write_text(DOCUMENT.replace("}\n", "}\\input{preamble}\n", 1) % body)
    assert typeset.typeset().exists()


@pytest.mark.skipif(not shutil.which("latexmk"), reason="latexmk is not installed")
def test_today_is_one_day_for_ever(monkeypatch):
    Path("report").mkdir()
    shutil.copy(examples.ROOT / "report" / ".latexmkrc", "report")
    Path("report/report.tex").write_text(DOCUMENT % r"\today")
    made = set()
    for day in ("0", "864000000"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", day)
        made.add(typeset.typeset().read_bytes())
    assert len(made) == 1


def lay_out(folder, monkeypatch, runs=("vgg08", "vgg38"), trained=("vgg08", "vgg38")):
    """Lay out the pipeline with tables and figures of `trained` runs, as the stages before the report leave them."""
    workspace.lay_out(examples.ROOT, folder, None)
    monkeypatch.chdir(folder)
    title = r"50 % & _more_ \input{x}"
    overlay = {"studies": {"other": {"title": title, "runs": [runs[-1]], "draw": ["training"]}}}
    Path("params.yaml").write_text(yaml.safe_dump(examples.content(overlay | {"seeds": [0, 1]}, runs)))
    study = config.load()
    for run, seed in study.jobs():
        if run in trained:
            examples.result(study, run, seed, train=(1.0 + seed, 0.5), val=(2.0 + seed, 0.4))
    tables.write_tables(study)
    macros.write_numbers(study)
    section.write(study)
    comparison_tables.write_comparison(study)
    drawn = figures.agreement(pd.read_csv(paths.COMPARISON / "published.csv"))
    figures.save({"agreement": drawn}, paths.REPORT / "comparison")
    for key, block in study.studies.items():
        if not set(block.runs) & set(trained):
            continue
        data = figures.read_study(key, study)
        for family in block.draw:
            figures.save(figures.draw(family, data), paths.FIGURES / key)


@pytest.mark.skipif(not shutil.which("latexmk"), reason="latexmk is not installed")
def test_the_report_is_typeset_and_has_the_same_bytes_wherever_and_whenever(folder, monkeypatch):
    lay_out(folder / "here", monkeypatch)
    pdf = typeset.typeset().read_bytes()
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 100_000
    log = Path("report/build/report.log").read_text(errors="replace")  # of the last of LaTeX's runs
    assert "undefined" not in log
    assert "Overfull" not in log
    assert str(folder).encode() not in pdf
    assert not re.search(rb"/CreationDate|/ModDate|/PTEX|/ID ?\[ ?<(?!>)", pdf)
    elsewhere = folder / "elsewhere" / "deeper"
    shutil.copytree(folder / "here", elsewhere)
    monkeypatch.chdir(elsewhere)
    Path("report/build/report.aux").write_text("\\relax what a killed one left")
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    monkeypatch.setenv("HOME", os.fspath(folder))
    assert typeset.typeset().read_bytes() == pdf
    assert (paths.REPORT / "report.pdf").exists()


@pytest.mark.skipif(not shutil.which("latexmk"), reason="latexmk is not installed")
def test_without_results_of_the_core_study_no_reference_leads_nowhere(folder, monkeypatch):
    lay_out(folder, monkeypatch, ("vgg08", "vgg38", "vgg08_short"), ["vgg08_short"])
    typeset.typeset()
    assert r"\studytable{other}" in Path("report/studies.tex").read_text()


INTERVALS = {"raised": (1.1, 1.2), "lowered": (0.8, 0.9), "either": (0.9, 1.1), "alone": ("nan", "nan")}
LENGTHS = {  # ends of the interval of the landscape of 50, and those of a single minibatch, each with its mean
    "estimate": ((0.9, 1.0, 1.1), (1.8, 2.0, 2.2)),
    "landscape": ((1.5, 1.55, 1.6), (1.7, 1.75, 1.8)),
    "open": ((0.5, 1.2, 3.0), (1.7, 1.75, 1.8)),
    "same": ((0.9, 1.0, 1.1), (0.9, 1.2, 1.5)),
}


@pytest.mark.skipif(not shutil.which("latexmk"), reason="latexmk is not installed")
def test_the_text_on_smoothness_says_what_the_intervals_allow(folder):
    """TeX writes what its commands say into the log."""
    shutil.copytree(examples.ROOT / "report", "report", ignore=shutil.ignore_patterns("sections", "build", "why"))
    lines = [rf"\defineresult{{{key}/{end}}}{{{value}}}{{}}" for key, ends in INTERVALS.items()
             for end, value in zip(("low", "high"), ends, strict=True)]  # fmt: skip
    for key, of_both in LENGTHS.items():
        for kind, (low, mean, high) in zip(("landscape", "minibatch"), of_both, strict=True):
            stem = f"why/smoothness/{key}/{kind}/50/gradient_norm"
            lines += [rf"\defineresult{{{stem}{end}}}{{{value}}}{{}}"
                      for end, value in (("", mean), ("/low", low), ("/high", high))]  # fmt: skip
    Path("report/numbers.tex").touch()
    Path("report/why").mkdir()
    Path("report/why/numbers.tex").write_text("\n".join(lines))
    commands = (examples.ROOT / "report/sections/why-smoothness.tex").read_text().partition("The report r2")[0]
    shown = [rf"\typeout{{{key}=\changes{{{key}}}=}}" for key in INTERVALS]
    shown += [rf"\typeout{{{key}=\lengthened{{{key}}}=}}" for key in LENGTHS]
    body = "\n".join(["\\input{preamble}", commands, "\\begin{document}", *shown, "."])
    Path("report/report.tex").write_text(DOCUMENT.replace("\\begin{document}\n%s", "%s") % body)
    typeset.typeset()
    log = "".join(Path("report/build/report.log").read_text().split())  # whose lines break within words
    said = dict(re.findall(rf"({'|'.join([*INTERVALS, *LENGTHS])})=([^=]*)=", log))
    assert {key: said[key] for key in INTERVALS} == {
        "raised": "raises",
        "lowered": "lowers",
        "either": "doesnotmeasurablychange",
        "alone": "maychange",
    }
    assert "averagesfewimages,notthat" in said["estimate"]
    assert "BN'sshareinthelongergradientofasmallminibatchismeasurable" in said["landscape"]
    assert "toofewtotell" in said["open"]
    assert not said["same"]
