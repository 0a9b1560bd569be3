"""Tables, figures and report that no record covers, built once more from the results in a folder of their own."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vanishing import paths
from vanishing.console import say
from vanishing.engines import sync, workspace
from vanishing.errors import UserError
from vanishing.verify.mismatch import Finding, Scope, guarded, remove

GENERATED = {
    "vanishing tables": ("results/tables/*.csv", "report/tables/*.tex"),
    "vanishing compare": ("results/comparison/*", "report/comparison/*"),
    "vanishing figures {name}": ("report/figures/*/*.pdf", "report/figures/*.sha256", "results/notebooks/*.ipynb"),
    "vanishing numbers": ("report/numbers.tex", "report/studies.tex"),
    "vanishing report": ("report/report.pdf",),
}
"""What the stages after the results make, by the command that makes it."""

COMMAND = ("snakemake", "--cores", "1", "report", "--config", "from_results=true")
"""What builds all of it."""


def reports(scope: Scope) -> Iterator[Finding]:
    """Compare what is made of the results with what they give: the same results give the same bytes."""
    made = {
        path: command.format(name=shlex.quote(path.parent.name if path.suffix == ".pdf" else path.stem))
        for command, patterns in GENERATED.items()
        for pattern in patterns
        for path in sorted(Path().glob(pattern))
        if path not in scope.proven
    }
    if not made:
        return
    say(f"building {len(made)} files of results/ and report/ again")
    with tempfile.TemporaryDirectory() as name:
        try:
            folder = _build(Path(name) / "study")
        except (UserError, OSError) as error:
            expected = f"{len(made)} files of results/ and report/ (built again)"
            yield Finding(paths.REPORT, expected, f"none to compare: {error}", " ".join(COMMAND))
            return
        for path, command in made.items():
            scope.proven.add(path)
            if (folder / path).exists():
                yield from guarded(path, command, _compare(path, folder / path, command))
            else:
                yield Finding(path, "no such file (results/ give none)", "one", remove(path))


def _compare(path: Path, again: Path, command: str) -> Iterator[Finding]:
    if not path.is_file() or path.read_bytes() != again.read_bytes():
        yield Finding(path, "what results/ give (built again)", "other bytes", command)


def _build(folder: Path) -> Path:
    """Build the report from the results alone, in `folder`."""
    workspace.lay_out(Path(), folder, None)
    shutil.copytree(paths.RESULTS / "runs", folder / paths.RESULTS / "runs")
    sync.engine(*COMMAND, folder=folder)
    return folder
