"""Typesetting the report with latexmk, so that the same sources give the same PDF."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from vanishing import files, paths
from vanishing.console import say
from vanishing.errors import UserError

TARGET = paths.REPORT / "report.pdf"
BUILD = paths.REPORT / "build"
"""Auxiliary files of the latest run, begun afresh each time: what a killed one left is never read."""

SHOWN_LINES = 30
"""Of latexmk's output, when it fails; all of it is in `report/build/report.log`."""

INSTALL = "apt-get install latexmk texlive-latex-recommended texlive-fonts-recommended lmodern"


def typeset() -> Path:
    """Run latexmk on `report/report.tex` and return the PDF; `UserError` names LaTeX's own complaint."""
    if not shutil.which("latexmk"):
        raise UserError(f"latexmk: not installed; on Debian: {INSTALL}")
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    done = subprocess.run(
        # a user's own settings are left out: the project's are in .latexmkrc
        ["latexmk", "-norc", "-r", ".latexmkrc", f"-outdir={BUILD.name}", "report.tex"],
        cwd=paths.REPORT,
        env=os.environ | {"LC_ALL": "C", "TEXMFVAR": str((paths.SCRATCH / "texmf").resolve())},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        say("\n".join((done.stdout + done.stderr).splitlines()[-SHOWN_LINES:]))
        raise UserError(f"{paths.REPORT / 'report.tex'}: LaTeX failed: {_complaint(done.stdout)}")
    files.write(TARGET, (BUILD / "report.pdf").read_bytes())
    return TARGET


def _complaint(output: str) -> str:
    """Find the first error in what latexmk printed."""
    lines = output.splitlines()
    marked = (line for line in lines if line.startswith("!") or ".tex:" in line)
    return next(marked, lines[-1] if lines else "no output")
