"""What the user's LaTeX, home, environment and paths are; none of it may change a byte of the report."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import examples
from vanishing.errors import UserError
from vanishing.report import typeset

needs_latex = pytest.mark.skipif(not shutil.which("latexmk"), reason="latexmk is not installed")

PROGRAMS = ("latexmk", "pdflatex", "bibtex", "kpsewhich")

DOCUMENT = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage{lmodern}
\usepackage{booktabs}
\usepackage[numbers]{natbib}
\pdftrailerid{}
\pdfsuppressptexinfo=-1
\pdfinfoomitdate=1
\begin{document}
\input{sections/part}
\begin{tabular}{l}\toprule a\\\bottomrule\end{tabular} \citet{key}
\bibliographystyle{plainnat}
\bibliography{references}
\end{document}
"""
ENTRY = "@article{key, author = {A. Author}, title = {Title}, journal = {Journal}, year = {2026}}\n"


def write_report(folder):
    """Write a report of one page, which takes LaTeX, BibTeX and LaTeX twice more."""
    for name, text in (("report.tex", DOCUMENT), ("references.bib", ENTRY), ("sections/part.tex", "Part.\n")):
        path = folder / "report" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in (".latexmkrc", "report/.latexmkrc", "report/sections/.latexmkrc", ".gitignore"):
        shutil.copy(examples.ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def pdf(tmp_path_factory):
    """The bytes of the report in a plain folder, among plain surroundings."""
    folder = write_report(tmp_path_factory.mktemp("plain"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return typeset.typeset().read_bytes()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(write_report(tmp_path))
    return tmp_path


BROKEN = r"\errmessage{a file of the user's own}"


@needs_latex
def test_the_users_own_latex_changes_nothing(folder, tmp_path_factory, monkeypatch, pdf):
    """Each of these ends or changes the build where it is read."""
    home = tmp_path_factory.mktemp("home")
    for name, text in (
        ("texmf/tex/latex/booktabs/booktabs.sty", BROKEN),
        ("texmf/tex/latex/base/article.cls", BROKEN),
        ("texmf/bibtex/bst/natbib/plainnat.bst", "no style"),
        (".latexmkrc", "$pdflatex = 'false';"),
        (".config/latexmk/latexmkrc", "$pdflatex = 'false';"),
        (".texlive2022/texmf-config/web2c/texmf.cnf", "main_memory = 1"),
    ):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    own = home / "texmf" / "tex" / "latex"
    variables = {
        "HOME": home, "XDG_CONFIG_HOME": home / ".config",
        "TEXINPUTS": f"{own / 'booktabs'}:{own / 'base'}", "BIBINPUTS": "/nowhere", "TFMFONTS": "/nowhere",
        "BSTINPUTS": home / "texmf/bibtex/bst/natbib", "TEXMFHOME": home / "texmf", "TEXMFCNF": home,
        "TEXMF": home / "texmf", "TEXFORMATS": "/nowhere", "TEXFONTMAPS": "/nowhere", "T1FONTS": "/nowhere",
        "openout_any": "p", "openin_any": "p", "max_print_line": "40", "main_memory": "1", "TEXMFOUTPUT": home,
        "LATEXMKRCSYS": home / ".latexmkrc", "SOURCE_DATE_EPOCH": "1", "PERL5LIB": home, "PERL5OPT": "-Mnosuch",
        "LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "tr",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    assert typeset.typeset().read_bytes() == pdf


@needs_latex
@pytest.mark.parametrize("name", ["a:b x{y}", "p;q $1 #2 %3 ~4", "é 'one' \"two\" & \\ ^ <|> * ? `no`", "-v"])
def test_odd_characters_of_the_path_change_nothing(folder, monkeypatch, pdf, name):
    (folder / name).mkdir()
    shutil.move(folder / "report", folder / name / "report")
    monkeypatch.chdir(folder / name)
    assert typeset.typeset().read_bytes() == pdf
    assert "This is BibTeX" in Path("report/build/report.blg").read_text()
    assert "Output written on build/report.pdf" in Path("report/build/report.log").read_text()


@needs_latex
def test_a_file_that_an_editor_locks_is_no_obstacle(folder, pdf):
    Path("report/.#report.tex").symlink_to("me@machine.42:1700000000")
    assert typeset.typeset().read_bytes() == pdf


@needs_latex
def test_a_file_that_cannot_be_copied_is_named(folder):
    os.mkfifo("report/pipe")
    with pytest.raises(UserError, match=r"^report/pipe: cannot be copied to where LaTeX works: .*named pipe"):
        typeset.typeset()


def beside(folder, without=(), **scripts):
    """Return a folder with LaTeX's programs but for some, and scripts in place of others."""
    folder.mkdir()
    for name in {*PROGRAMS, "sh", "grep", "perl"} - set(without) - set(scripts):
        (folder / name).symlink_to(shutil.which(name))
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


def lacks(name):
    """The script of a kpsewhich that does not find a file."""
    return f'{shutil.which("kpsewhich")} "$@" | grep -v /{re.escape(name)}'


@needs_latex
@pytest.mark.parametrize(("without", "hidden", "said"), [
    (PROGRAMS, None, r"bibtex, kpsewhich, latexmk, pdflatex: .*: apt-get install latexmk texlive-latex-rec\S+ lmodern"),
    (["pdflatex"], None, "pdflatex: .* apt-get install texlive-latex-recommended"),
    (["bibtex"], None, "bibtex: .* apt-get install texlive-latex-recommended"),
    (["latexmk"], None, "latexmk: .* apt-get install latexmk"),
    ([], "lmodern.sty", "lmodern.sty: .* apt-get install lmodern"),
    ([], "lmr10.pfb", "lmr10.pfb: .* apt-get install lmodern"),
    ([], "microtype.sty", "microtype.sty: .* apt-get install texlive-latex-recommended"),
    ([], "pdflatex.fmt", "pdflatex.fmt: .* apt-get install texlive-latex-recommended"),
])  # fmt: skip
def test_what_is_missing_of_latex_is_named_before_anything_is_deleted(folder, monkeypatch, without, hidden, said):
    scripts = {"kpsewhich": lacks(hidden)} if hidden else {}
    monkeypatch.setenv("PATH", str(beside(folder / "bin", without, **scripts)))
    before = {"report/report.pdf": b"the one before", "report/build/report.log": b"its log"}
    for name, content in before.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)
    with pytest.raises(UserError, match=rf"^LaTeX: {said}$"):
        typeset.typeset()
    assert {name: Path(name).read_bytes() for name in before} == before


def test_every_package_that_the_report_loads_is_looked_for():
    text = (examples.ROOT / "report" / "preamble.tex").read_text()
    loaded = re.findall(r"\\usepackage(?:\[[^]]*\])?\{([^}]*)\}", text)
    names = {f"{name.strip()}.sty" for group in loaded for name in group.split(",")}
    assert len(names) > 10
    assert names <= {name for files in typeset.NEEDED.values() for name in files}


@needs_latex
def test_a_latexmk_that_says_nothing_on_its_output_is_quoted(folder, monkeypatch):
    programs = beside(folder / "bin", latexmk="echo; echo 'latexmk: no perl here' >&2; exit 127")
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(UserError, match=r"^report/report.tex: LaTeX failed: latexmk: no perl here$"):
        typeset.typeset()


@needs_latex
@pytest.mark.parametrize(("where", "command", "builds"), [
    (".", "latexmk", True),
    (".", "latexmk report/report.tex", True),
    (".", "latexmk -cd report/report", True),
    ("report", "latexmk", True),
    ("report", "latexmk -pdf report.tex", True),
    ("report/sections", "latexmk", True),
    ("report/sections", "latexmk part.tex", False),
    ("report", "pdflatex -interaction=batchmode report.tex", False),
])  # fmt: skip
def test_latex_by_hand_builds_the_report_and_leaves_nothing_that_git_sees(folder, pdf, where, command, builds):
    for arguments in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    done = subprocess.run(command.split(), cwd=folder / where, capture_output=True, text=True, check=False)
    if builds:
        assert done.returncode == 0, done.stdout
        assert Path("report/build/report.pdf").read_bytes() == pdf
    status = ["git", "status", "--porcelain", "--untracked-files=all"]
    changed = subprocess.run(status, cwd=folder, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line for line in changed if not line.startswith("A ")] == []


@needs_latex
def test_latexmk_by_hand_goes_on_from_a_report_typeset_before(folder, pdf):
    typeset.typeset()
    assert Path("report/build/report.fdb_latexmk").exists()
    subprocess.run(["latexmk"], cwd="report", check=True, capture_output=True)
    assert Path("report/build/report.pdf").read_bytes() == pdf
