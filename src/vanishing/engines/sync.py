"""The bridge between the engines: what one has built, the other need not build again.

Snakemake and DVC each record what every output was made from. `bring_together` compares the two records stage by stage:
it enters what is up to date in one in the other, and leaves what is up to date in neither for an engine to build. The
summary of a training names its own inputs, so trainings that `vanishing train` made without an engine enter both.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from vanishing import config, files, paths
from vanishing.console import say
from vanishing.engines import catalogue, graph, lock
from vanishing.errors import UserError
from vanishing.results import store

DAMAGED = paths.SCRATCH / "dvc.lock.damaged"
"""DVC's record as a kill has left it."""

SHOWN = 8
"""Name up to this many stages; count more of them by kind."""


@dataclass(frozen=True)
class Stage:
    """A stage of `dvc.yaml`, expanded."""

    name: str
    outputs: frozenset[str]
    """Paths relative to the project's folder."""
    upstream: frozenset[str]
    """Names of all stages that it depends on, directly or not."""


@dataclass(frozen=True)
class Decision:
    """What to do with the stages whose records differ, by name."""

    commit: list[str]
    """Up to date in Snakemake's record, or by their own account: to be entered in DVC's."""
    touch: list[str]
    """Up to date in DVC's record, or by their own account: to be entered in Snakemake's."""
    build: list[str]
    """Up to date in neither, or downstream of such a stage."""


def bring_together(settings: config.Parameters) -> None:
    """Enter what one engine has built in the record of the other.

    Raises:
        UserError: an engine is running, a result does not match its summary, or an engine fails.
    """
    lock.check("vanishing sync")
    _check_plain(settings)
    _check_results(settings)
    _check_images(settings)
    _set_aside()
    graph.configure(settings)  # DVC compares its files, and Snakemake does not make them
    stages = _stages()
    _forget({stage.name for stage in stages})
    decision = compare(stages, stale=_stale(), pending=_pending(), certain=_certain(settings))
    if decision.commit:
        _own(path for stage in stages if stage.name in decision.commit for path in stage.outputs)
        # relinked files would have new times, by which Snakemake would want everything after them again
        engine("dvc", "commit", "--force", "--no-relink", "--quiet", *decision.commit)
    if decision.touch:
        outputs = sorted(path for stage in stages if stage.name in decision.touch for path in stage.outputs)
        engine("snakemake", "--cores", "1", "--touch", "--force", *outputs)
    say(f"stages entered in DVC's record: {counted(decision.commit)}")
    say(f"stages entered in Snakemake's record: {counted(decision.touch)}")
    say(f"stages still to be built, by either engine: {counted(decision.build)}")


def compare(
    stages: Iterable[Stage], stale: set[str], pending: set[str], certain: Collection[str] = frozenset()
) -> Decision:
    """Decide about every stage.

    Args:
        stages: all of them.
        stale: names of those that DVC would run.
        pending: outputs that Snakemake would make or has no record of.
        certain: names of those that are up to date, whatever the records say.
    """
    stages = list(stages)
    behind = {stage.name for stage in stages if stage.outputs & pending}
    neither = (stale & behind).difference(certain)
    waiting = {stage.name for stage in stages if stage.upstream & neither}
    return Decision(
        commit=sorted(stale - behind.difference(certain) - waiting),
        touch=sorted(behind - stale.difference(certain) - waiting),
        build=sorted(neither | (waiting & (stale | behind))),
    )


def counted(names: Collection[str]) -> str:
    """Count stages and name them; where they are many, count each kind."""
    if not names:
        return "0"
    kinds = sorted(Counter(name.partition("@")[0] for name in names).items())
    shown = sorted(names) if len(names) <= SHOWN else [f"{count} {kind}" for kind, count in kinds]
    return f"{len(names)} ({', '.join(shown)})"


def _own(outputs: Iterable[str]) -> None:
    """Copy files of other users in place, with their times: DVC sets the modes of some outputs, as owners alone may."""
    for path in map(Path, outputs):
        if path.is_file() and (status := path.stat()).st_uid != os.geteuid() != 0:
            files.write(path, path.read_bytes())
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _set_aside() -> None:
    """Set DVC's record aside if a killed DVC has left it half-written, with which no DVC would start."""
    from dvc.dvcfile import LOCK_FILE, Lockfile
    from dvc.repo import Repo
    from dvc.utils.strictyaml import YAMLSyntaxError, YAMLValidationError

    if not Path(LOCK_FILE).exists():
        return
    with Repo() as repo:
        try:
            Lockfile(repo, LOCK_FILE).load()
        except (YAMLSyntaxError, YAMLValidationError):
            Path(LOCK_FILE).replace(DAMAGED)
            say(f"{LOCK_FILE}: cannot be read; is now {DAMAGED}, and made anew")


def _forget(known: set[str]) -> None:
    """Drop entries of stages that `dvc.yaml` no longer has; DVC itself keeps them (treeverse/dvc#5293)."""
    from dvc.dvcfile import LOCK_FILE
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    path = Path(LOCK_FILE)
    if not path.exists():
        return
    content = parse_yaml_for_update(path.read_text(encoding="utf-8"), LOCK_FILE)
    gone = sorted(content.get("stages", {}).keys() - known)
    for name in gone:
        del content["stages"][name]
    if gone:
        files.write(path, dumps_yaml(content))
        say(f"stages that are no more, dropped from DVC's record: {counted(gone)}")


def _stages() -> list[Stage]:
    """Ask DVC for the stages of `dvc.yaml`, their outputs and their dependencies."""
    import networkx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            dag = repo.index.graph  # edges lead from a stage to what it needs
            return [
                Stage(
                    name=stage.addressing,
                    outputs=frozenset(Path(out.fs_path).relative_to(repo.root_dir).as_posix() for out in stage.outs),
                    upstream=frozenset(below.addressing for below in networkx.descendants(dag, stage)),
                )
                for stage in dag
            ]
    except DvcException as error:
        raise UserError(f"dvc: {error}") from None


def _certain(settings: config.Parameters) -> set[str]:
    """Name the trainings whose summary has the current configuration, and `data` if one of them used its split.

    The files have been checked against the summaries before. A run with a validation split of its own cannot vouch for
    the split in the file.
    """
    trained = list(store.trained(settings))
    made = settings.data.configuration()
    split = settings.data.path.exists() and any(settings.run(run).data.configuration() == made for run, _ in trained)
    return {f"train@{run}-{seed}" for run, seed in trained} | ({"data"} if split else set())


def _stale() -> set[str]:
    """Ask DVC which stages it would run."""
    return set(json.loads(engine("dvc", "status", "--json")))


def _pending() -> set[str]:
    """Ask Snakemake which outputs it would make, or has no record of.

    Without a record it would keep an output, even when the configuration changes later.
    """
    lines = engine("snakemake", "--detailed-summary").splitlines()
    start = next((at for at, line in enumerate(lines) if line.startswith("output_file\t")), None)
    if start is None:
        raise UserError("snakemake: printed no summary; `snakemake -n` says why")
    rows = csv.DictReader(lines[start:], delimiter="\t")
    return {row["output_file"] for row in rows if row["plan"] != "no update" or row["shellcmd"] == "-"}


def cache() -> Path | None:
    """Return the folder of DVC's cache if its configuration names one: the project's, the user's or the system's."""
    from dvc.config import Config, ConfigError

    try:
        chosen = Config(".dvc")["cache"].get("dir")
    except ConfigError as error:
        raise UserError(f".dvc/config: {error}") from None
    return Path(chosen) if chosen else None


def _check_plain(settings: config.Parameters) -> None:
    """Check that no output is a pipe or a device, which an engine might never finish reading."""
    folders = [*map(Path, catalogue.FOLDERS), paths.CONFIGURATION]
    made = (path for folder in folders for path in folder.rglob("*") if not path.is_dir())
    for path in (*filter(Path.exists, [settings.data.path]), *made):
        files.check_plain(path, files.FILE_BYTES)


def _check_results(settings: config.Parameters) -> None:
    """Check that the files of every training match its summary: `dvc commit` would record them whatever they are."""
    for run, seed in settings.jobs():
        summary = paths.results(run, seed) / "summary.json"
        if not summary.exists() or not paths.checkpoints(run, seed).exists():
            continue
        for name, expected in store.read_summary(summary)["files"].items():
            path = paths.trained(run, seed, name)
            if not path.exists() or files.sha256(path) != expected:
                raise UserError(f"{path}: not what {summary} says, SHA-256 {expected}; {store.back(path, run, seed)}")


def _check_images(settings: config.Parameters) -> None:
    """Check that the data file is the one that the runs of the current configuration were trained on."""
    path = settings.data.path
    found = files.sha256(path) if path.exists() else None
    for name, summary in store.trainings(settings):
        expected = summary["data"]["sha256"]
        if found and found != expected:
            raise UserError(
                f"{path}: not what {name} was trained on, SHA-256 {expected}; `vanishing data` makes it again"
            )


def engine(name: str, *arguments: str, folder: Path | None = None) -> str:
    """Run an engine, in `folder` or here, and return what it printed.

    Raises:
        UserError: it failed; the text is the first error of a `vanishing` command in its output, else its last line.
    """
    command = [sys.executable, "-m", name, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        ours = (line for line in (done.stdout + done.stderr).splitlines() if re.match(r"vanishing [a-z]+: ", line))
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise UserError(f"{name} {arguments[0]} failed: {next(ours, last)}")
    return done.stdout
