"""Typesetting the report with latexmk, so that the same sources give the same PDF."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from vanishing import environment, files, paths
from vanishing.console import say
from vanishing.errors import UserError

TARGET = paths.REPORT / "report.pdf"
BUILD = paths.REPORT / "build"
"""Auxiliary files of the latest run, for the reader: LaTeX itself works elsewhere, and begins afresh each time."""

SHOWN_LINES = 30
"""Of latexmk's output, when it fails; all of it is in `report/build/report.log`."""

NEEDED = {
    "latexmk": ("latexmk",),
    "texlive-latex-recommended": (
        "pdflatex", "bibtex", "kpsewhich", "pdflatex.fmt", "plainnat.bst",
        *(f"{name}.sty" for name in (
            "fontenc", "inputenc", "microtype", "geometry", "amsmath", "amssymb", "graphicx", "array", "booktabs",
            "caption", "fancyhdr", "natbib", "hyperref",
        )),
    ),
    "lmodern": ("lmodern.sty", "lmr10.pfb"),
}  # fmt: skip
"""Programs and files of LaTeX that the report needs, by the package of Debian that brings them."""


def typeset() -> Path:
    """Run latexmk on a copy of `report/` and return the PDF; `UserError` names LaTeX's own complaint.

    LaTeX finds nothing but its distribution and that copy, whose path has none of the characters at which TeX and
    BibTeX stumble, such as `$` and `;`.
    """
    check()
    with environment.plain_folder() as folder:
        work = _copy(folder / "report")
        # a user's own settings are left out: the project's are in .latexmkrc; with -Werror, a reference that leads
        # nowhere, a doubled label or a character that no font has is an error, and not a hole in the text
        done = _run(work, ["latexmk", "-norc", "-r", ".latexmkrc", "-Werror", "report.tex"])
        _keep(work / BUILD.name)
        if done.returncode:
            output = done.stdout + done.stderr
            say("\n".join(output.splitlines()[-SHOWN_LINES:]))
            raise UserError(f"{paths.REPORT / 'report.tex'}: LaTeX failed: {_complaint(output)}")
        files.write(TARGET, (work / BUILD.name / TARGET.name).read_bytes())
    return TARGET


def check() -> None:
    """Raise `UserError` if a part of LaTeX is missing; it names the part, and Debian's package."""
    programs = {name for names in NEEDED.values() for name in names if "." not in name}
    absent = sorted(name for name in programs if not shutil.which(name))
    if not absent:
        needed = [name for names in NEEDED.values() for name in names if "." in name]
        with environment.plain_folder() as folder:
            found = _run(folder, ["kpsewhich", "-engine=pdftex", "-progname=pdflatex", *needed]).stdout.splitlines()
        absent = sorted(set(needed) - {Path(line).name for line in found})
    if absent:
        # without kpsewhich the files cannot be looked for
        packages = [package for package, names in NEEDED.items() if "kpsewhich" in absent or set(names) & set(absent)]
        raise UserError(f"LaTeX: {', '.join(absent)}: not installed; on Debian: apt-get install {' '.join(packages)}")


def _copy(work: Path) -> Path:
    """Copy the report's sources, without the dangling links by which editors lock files."""
    made = shutil.ignore_patterns(BUILD.name, TARGET.name)
    try:
        return shutil.copytree(paths.REPORT, work, ignore=made, ignore_dangling_symlinks=True)
    except shutil.Error as error:
        name, _, reason = error.args[0][0]
        raise UserError(f"{name}: cannot be copied to where LaTeX works: {reason}") from None


def _run(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program of LaTeX in `folder`, without the settings and packages in a user's home."""
    empty = str(folder / "home")
    return subprocess.run(
        command,
        cwd=folder,
        env=environment.child(HOME=empty, TEXMFHOME=empty, TEXMFVAR=empty, TEXMFCONFIG=empty),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def _keep(build: Path) -> None:
    """Put LaTeX's log and auxiliary files where they are looked for, in place of those of an earlier run."""
    shutil.rmtree(BUILD, ignore_errors=True)
    if build.is_dir():
        shutil.copytree(build, BUILD, ignore=shutil.ignore_patterns(TARGET.name), dirs_exist_ok=True)


def _complaint(output: str) -> str:
    """Find the first error in what latexmk printed, or else the last warning that it takes for one."""
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("!") or ".tex:" in line]
    unresolved = [line for line in lines if re.search("Warning: (Reference|Citation|Label) |Missing character", line)]
    return errors[0] if errors else (unresolved or lines or ["no output"])[-1]
