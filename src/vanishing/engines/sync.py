"""The bridge between the engines: what one has built, the other need not build again.

Snakemake and DVC each record what every output was made from. `bring_together` compares the two records stage by stage:
it enters what is up to date in one in the other, and leaves what is up to date in neither for an engine to build. The
summary of a training names its own inputs, so trainings that `vanishing train` made without an engine enter both.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vanishing import config, environment, files, paths
from vanishing.console import say
from vanishing.engines import catalogue, graph, lock
from vanishing.errors import UserError
from vanishing.results import store

if TYPE_CHECKING:
    from dvc.repo import Repo

DAMAGED = paths.SCRATCH / "dvc.lock.damaged"
"""DVC's record as a kill has left it."""

SHOWN = 8
"""Name up to this many stages; count more of them by kind."""

GIT = ("is not a git repository", "is outside of git repository")
"""What DVC says where there is no git, and of outputs behind a link that leads out of the project."""

PLACES = (
    "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR", "DVC_SITE_CACHE_DIR", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS",
)  # fmt: skip
"""Variables that say where the settings of the user's DVC are, its cache among them, and where it keeps its state."""


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
    _check_line_ends()
    _check_results(settings)
    _check_images(settings)
    _set_aside()
    graph.configure(settings)  # DVC compares its files, and Snakemake does not make them
    stages = _stages()
    decision = compare(stages, stale=_stale(), pending=_pending(), certain=_certain(settings))
    if decision.commit:
        _own(path for stage in stages if stage.name in decision.commit for path in stage.outputs)
        # relinked files would have new times, by which Snakemake would want everything after them again
        engine("dvc", "commit", "--force", "--no-relink", *decision.commit)
    _arrange([stage.name for stage in stages])
    _touch(stages, set(decision.touch), set(decision.build))
    say(f"stages entered in DVC's record: {listed(decision.commit)}")
    say(f"stages entered in Snakemake's record: {listed(decision.touch)}")
    say(f"stages still to be built, by either engine: {listed(decision.build)}")


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


def listed(names: Collection[str]) -> str:
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
    from dvc.utils.strictyaml import YAMLSyntaxError, YAMLValidationError

    if not Path(LOCK_FILE).exists():
        return
    with _repository() as repo:
        try:
            Lockfile(repo, LOCK_FILE).load()
        except (YAMLSyntaxError, YAMLValidationError):
            Path(LOCK_FILE).replace(DAMAGED)
            say(f"{LOCK_FILE}: cannot be read; is now {DAMAGED}, and made anew")


def _arrange(names: Sequence[str]) -> None:
    """Bring the entries of DVC's record into the order in which `dvc repro` makes them.

    Entries of stages that `dvc.yaml` no longer has are dropped; DVC itself keeps them (treeverse/dvc#5293).
    """
    from dvc.dvcfile import LOCK_FILE
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    path = Path(LOCK_FILE)
    if not path.exists():
        return
    content = parse_yaml_for_update(path.read_text(encoding="utf-8"), LOCK_FILE)
    entries = content.get("stages", {})
    kept = [name for name in names if name in entries]
    if list(entries) == kept:
        return
    content["stages"] = {name: entries[name] for name in kept}
    files.write(path, dumps_yaml(content))
    if gone := entries.keys() - set(kept):
        say(f"stages that are no more, dropped from DVC's record: {listed(gone)}")


def _touch(stages: Sequence[Stage], names: set[str], build: set[str]) -> None:
    """Enter stages in Snakemake's record, until it would make nothing again but what is to be built.

    One command may not do: Snakemake passes over a job that stands on another one of them by `ancient` files alone, and
    what it enters has a new time, by which it may want what was up to date before.
    """
    waiting = {stage.name for stage in stages if (stage.upstream | {stage.name}) & build}
    while names:
        outputs = sorted(path for stage in stages if stage.name in names for path in stage.outputs)
        engine("snakemake", "--cores", "1", "--touch", "--force", *outputs)
        pending = _pending()
        behind = {stage.name for stage in stages if stage.outputs & pending} - waiting
        if behind == names:
            raise UserError(f"snakemake: does not enter {listed(names)}; `snakemake -n` says why")
        names = behind


def _stages() -> list[Stage]:
    """Ask DVC for the stages of `dvc.yaml`, in the order of `dvc repro`, their outputs and their dependencies."""
    import networkx
    from dvc.repo.reproduce import plan_repro

    with _repository() as repo:
        dag = repo.index.graph  # edges lead from a stage to what it needs
        return [
            Stage(
                name=stage.addressing,
                outputs=frozenset(Path(out.fs_path).relative_to(repo.root_dir).as_posix() for out in stage.outs),
                upstream=frozenset(below.addressing for below in networkx.descendants(dag, stage)),
            )
            for stage in plan_repro(dag)
        ]


@contextlib.contextmanager
def _repository() -> Iterator[Repo]:
    """Open the project as DVC sees it; `UserError` where it does not."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            yield repo
    except DvcException as error:
        raise UserError(f"dvc: {_advised(str(error))}") from None


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


def _check_line_ends() -> None:
    """Check that no result has the line ends of Windows: DVC would record its bytes, which nothing else would match."""
    for path in (path for path in paths.RESULTS.rglob("*") if path.is_file()):
        if files.content(path) != path.read_bytes():
            raise UserError(
                f"{path}: has the line ends of Windows; let git convert nothing here (.gitattributes), then type "
                f"`git rm -r --cached --quiet {paths.RESULTS}` and `git checkout HEAD -- {paths.RESULTS}`"
            )


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
    """Run an engine, in `folder` or here, and return what it printed; the user's own settings do not steer it.

    Raises:
        UserError: it failed; the text is the first error of a `vanishing` command in its output, else its own.
    """
    command = [sys.executable, "-m", name, *arguments]
    kept = ("PYTHONPATH", *PLACES) if name == "dvc" else ("PYTHONPATH",)
    own = {variable: os.environ[variable] for variable in kept if variable in os.environ}
    done = subprocess.run(
        command, cwd=folder, env=environment.child(**own), capture_output=True, encoding="utf-8", errors="replace",
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise UserError(f"{name} {arguments[0]} failed: {_complaint(done)}")
    return done.stdout


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    """Say in a line why an engine failed."""
    lines = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    for told in (r"vanishing [a-z_]+: ", r"ERROR: "):  # DVC's own line is followed by where to ask for help
        if found := next((line for line in lines if re.match(told, line)), None):
            return _advised(found.removeprefix("ERROR: "))
    if lines:
        return lines[-1]
    return f"ended by signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"


def _advised(message: str) -> str:
    """Return DVC's complaint in a line, with what helps where it misses git."""
    first = (message.strip() or "no reason given").splitlines()[0]
    if any(words in first for words in GIT):
        return f"{first}; `dvc config --local core.no_scm true` has it work without git (docs/reproducibility.md)"
    return first
