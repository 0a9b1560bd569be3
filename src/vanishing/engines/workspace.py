"""A second folder with the whole pipeline in it, under other parameters: how the demonstration is run.

The same Snakefile, `dvc.yaml`, notebooks and report work there as here; nothing is written outside it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from vanishing import config, files, locks, paths
from vanishing.engines import graph
from vanishing.errors import UserError

SOURCES = [
    "Snakefile",
    "dvc.yaml",
    ".dvcignore",
    "workflow/rules/*.smk",
    "profiles/*/config.yaml",
    "notebooks/*.ipynb",
    "report/.latexmkrc",
    "report/report.tex",
    "report/preamble.tex",
    "report/references.bib",
    "report/sections/*.tex",
]
"""What the pipeline reads but does not make, besides `params.yaml`."""

MARK = Path(".vanishing") / "workspace"
"""Marks a folder as a workspace, whose sources may be replaced."""

DVC_CONFIG = "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"


def lay_out(origin: Path, folder: Path, overlay: Path | None, studies: Sequence[str] | None = None) -> None:
    """Copy the pipeline from `origin` into `folder`, with the parameters of `overlay` laid over its own.

    If `studies` are named, the other studies are left out, and with them the runs that only they have.

    Unchanged files keep their times, so that neither engine rebuilds what depends on them; sources that `origin` no
    longer has are removed.

    Raises:
        UserError: `origin` is not the project, or `folder` is `origin`, holds files that are not a workspace's, or has
            an engine or a training at work in it.
        ParameterError: the resulting parameters are not allowed.
    """
    if not (origin / "Snakefile").exists():
        raise UserError(f"{origin}: no Snakefile here; run this in the project's folder")
    if folder.resolve() == origin.resolve():
        raise UserError(f"{folder}: is the project itself; name another folder")
    mark = folder / MARK
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise UserError(f"{folder}: is neither empty nor laid out by this command; name another folder")
    for holder in locks.holders(folder / paths.LOCKS):
        raise UserError(f"{folder}: in use: {holder}")
    content = config.read(origin / "params.yaml")
    if overlay:
        content = config.merge(content, config.read(overlay))
    settings = config.check(content, overlay or origin / "params.yaml")
    if studies:
        content["studies"] = {key: content["studies"][key] for key in studies if settings.study(key)}
        content = config.with_runs(content, {run for key in studies for run in settings.study(key).runs})
        settings = config.check(content)
    sources = set(_sources(origin))
    files.write_if_changed(mark, b"laid out by `vanishing workspace`; its sources are replaced each time\n")
    for stale in set(_sources(folder)) - sources:
        (folder / stale).unlink()
    for source in sources:
        files.write_if_changed(folder / source, (origin / source).read_bytes())
    files.write_if_changed(folder / "params.yaml", config.text(content))
    files.write_if_changed(folder / paths.JOBS, graph.job_list(settings))
    files.write_if_changed(folder / ".dvc" / "config", DVC_CONFIG)
    _link(folder / "src", origin / "src")


def _sources(folder: Path) -> Iterator[Path]:
    for pattern in SOURCES:
        for path in folder.glob(pattern):
            yield path.relative_to(folder)


def _link(link: Path, target: Path) -> None:
    """Link the code, after whose change stages are stale, in place of whatever an earlier version has left."""
    wanted = os.path.relpath(target.resolve(), link.parent.resolve())
    if not target.is_dir() or (link.is_symlink() and str(link.readlink()) == wanted):
        return
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    else:
        link.unlink(missing_ok=True)
    link.symlink_to(wanted, target_is_directory=True)
