"""A second folder with the whole pipeline in it, under other parameters: how the demonstration is run.

The same Snakefile, `dvc.yaml`, notebooks and report work there as here; nothing is written outside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vanishing import config, files, paths
from vanishing.console import say
from vanishing.engines import graph, lock
from vanishing.errors import UserError

SOURCES = [
    "Snakefile",
    "dvc.yaml",
    ".dvcignore",
    ".dvc/plots/*.json",
    "workflow/rules/*.smk",
    "workflow/captions/*.rst",
    "profiles/*/config.yaml",
    "workflow/profiles/*/config.yaml",
    "notebooks/*.ipynb",
    "report/.latexmkrc",
    "report/sections/.latexmkrc",
    "report/report.tex",
    "report/preamble.tex",
    "report/references.bib",
    "report/sections/*.tex",
]
"""What the pipeline reads but does not make, besides `params.yaml`."""

MARK = paths.SCRATCH / "workspace"
"""Marks a folder as a workspace, whose sources may be replaced, and lists the hash of each as it was laid out."""

EDITED = paths.SCRATCH / "edited"
"""Sources that a user has edited in a workspace, when they are replaced: out of sight of the engines."""

DVC_CONFIG = "[core]\n    no_scm = true\n    analytics = false\n    check_update = false\n"


def lay_out(origin: Path, folder: Path, overlay: Path | None, studies: Sequence[str] | None = None) -> None:
    """Copy the pipeline from `origin` into `folder`, with the parameters of `overlay` laid over its own.

    If `studies` are named, the other studies are left out, and with them the runs that only they have.

    Unchanged files keep their times, so that neither engine rebuilds what depends on them; sources that `origin` no
    longer has are removed. One that was edited in `folder` is moved to `EDITED` before it is replaced or removed.

    Raises:
        UserError: `origin` is not the project, or `folder` is `origin`, holds files that are not a workspace's, has an
            engine or a training at work in it, or a path in which DVC does not work.
        ParameterError: the resulting parameters are not allowed.
    """
    _check(origin, folder)
    content = config.read(origin / "params.yaml")
    if overlay:
        content = config.merge(content, config.read(overlay))
    settings = config.check(content, overlay or origin / "params.yaml")
    if studies:
        content["studies"] = {key: content["studies"][key] for key in studies if settings.study(key)}
        content = config.with_runs(content, {run for key in studies for run in settings.study(key).runs})
        settings = config.check(content)
    sources = {path: files.content(origin / path) for path in _sources(origin)}  # hashed with line feeds alone
    _replace(folder, sources | {Path("params.yaml"): config.text(content).encode()})
    files.write_if_changed(folder / paths.JOBS, graph.job_list(settings))
    files.write_if_changed(folder / paths.PLOTS, graph.plots(settings))
    if not (folder / ".dvc" / "config").exists():  # later the user's, who may have named a remote there
        files.write(folder / ".dvc" / "config", DVC_CONFIG)
    _link(folder, (origin / "src").resolve())


def _check(origin: Path, folder: Path) -> None:
    """Raise `UserError` unless `origin` is the project, and `folder` is new, empty or a workspace at rest."""
    if not (origin / "Snakefile").exists():
        raise UserError(f"{origin}: no Snakefile here; run this in the project's folder")
    if folder.resolve() == origin.resolve():
        raise UserError(f"{folder}: is the project itself; name another folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise UserError(f"{folder}: is neither empty nor laid out by this command; name another folder")
    lock.check_path(folder)
    if (folder / MARK).exists():
        try:
            with contextlib.chdir(folder):
                lock.check_idle("vanishing workspace")
        except UserError as error:
            raise UserError(f"{folder}: {error}") from None


def _replace(folder: Path, sources: Mapping[Path, bytes]) -> None:
    """Write the sources, and remove those of the last time that are no more; first keep what was edited of either."""
    before = _laid_out(folder / MARK)
    hashes = {path: hashlib.sha256(content).hexdigest() for path, content in sources.items()}
    stale = before.keys() & set(_sources(folder)) - hashes.keys()
    for path in sorted(stale | hashes.keys()):
        if (folder / path).exists() and files.sha256(folder / path) not in (before.get(path), hashes.get(path)):
            _keep(folder, path)
    listed = "".join(f"{digest}  {path.as_posix()}\n" for path, digest in sorted(hashes.items()))
    files.write_if_changed(
        folder / MARK, f"laid out by `vanishing workspace`; its sources are replaced each time\n{listed}"
    )
    for path in stale:
        (folder / path).unlink(missing_ok=True)
    for path, content in sources.items():
        files.write_if_changed(folder / path, content)


def _laid_out(mark: Path) -> dict[Path, str]:
    """Return the SHA-256 of each source as it was laid out the last time."""
    listed = mark.read_text(encoding="utf-8") if mark.exists() else ""
    return {Path(path): digest for digest, path in re.findall(r"^([0-9a-f]{64})  (.+)$", listed, re.MULTILINE)}


def _keep(folder: Path, path: Path) -> None:
    """Move what a user has edited to a name that is free, and say so."""
    kept = folder / EDITED / path
    names = itertools.chain([kept], (kept.with_name(f"{kept.name}.{number}") for number in itertools.count(2)))
    free = next(name for name in names if not name.exists())
    free.parent.mkdir(parents=True, exist_ok=True)
    (folder / path).replace(free)
    say(f"{folder / path}: was edited; is now {free}, and laid out anew")


def _sources(folder: Path) -> Iterator[Path]:
    for pattern in SOURCES:
        for path in folder.glob(pattern):
            yield path.relative_to(folder)


def _link(folder: Path, target: Path) -> None:
    """Link the code, after whose change stages are stale, in place of whatever else is there."""
    link, wanted = folder / "src", os.path.relpath(target, folder.resolve())
    if not target.is_dir() or (link.is_symlink() and str(link.readlink()) == wanted):
        return
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        _keep(folder, Path("src"))
    link.symlink_to(wanted, target_is_directory=True)
