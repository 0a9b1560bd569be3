"""Tables, figures and report that no record covers, built once more from the results in a folder of their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from vanishing import files, paths
from vanishing.console import say
from vanishing.engines import catalogue, sync, workspace
from vanishing.errors import UserError
from vanishing.verify.mismatch import Mismatch, Scope, guarded, remove

ARGUMENTS = ("snakemake", "report", "html", "--cores", "1", "--config", "from_results=true")
"""What builds all of it."""

BUILD = " ".join(ARGUMENTS)

SAMPLES = paths.REPORT / "samples"


def reports(scope: Scope) -> Iterator[Mismatch]:
    """Compare what is made of the results with what they give: the same results give the same bytes."""
    data = scope.settings.data.path
    made = {
        path: catalogue.maker_of(path) or BUILD
        for stage in catalogue.STAGES
        if stage.from_results or (stage.name == "samples" and data.exists())
        for pattern in stage.patterns
        for path in sorted(Path().glob(pattern))
        if path not in scope.compared
    }
    if not made:
        return
    say(f"building {len(made)} files of results/ and report/ again")
    with tempfile.TemporaryDirectory() as name:
        try:
            folder = _build(Path(name) / "study", data)
        except (UserError, OSError) as error:
            expected = f"{len(made)} files of results/ and report/ (built again)"
            yield Mismatch(paths.REPORT, expected, f"none to compare: {error}", BUILD)
            return
        for path, command in made.items():
            scope.compared.add(path)
            if (folder / path).exists():
                yield from guarded(path, command, _compare(path, folder / path, command))
            else:
                yield Mismatch(path, "no such file (results/ give none)", "one", remove(path))


def _compare(path: Path, again: Path, command: str) -> Iterator[Mismatch]:
    if not path.is_file() or files.content(path) != files.content(again):
        yield Mismatch(path, "what results/ give (built again)", "other bytes", command)


def _build(folder: Path, data: Path) -> Path:
    """Build the report from the results in `folder`, with the page of the data set where the report here has it."""
    workspace.lay_out(Path(), folder, None)
    if SAMPLES.exists():
        if data.exists():
            (folder / data).parent.mkdir(parents=True)
            (folder / data).symlink_to(data.resolve())
            sync.engine("vanishing", "samples", folder=folder)
        else:
            shutil.copytree(SAMPLES, folder / SAMPLES)
    for made in (paths.RESULTS / "runs", paths.ANALYSES):
        if made.exists():
            shutil.copytree(made, folder / made)
    sync.engine(*ARGUMENTS, folder=folder)
    return folder
