"""One engine at a time in a checkout.

Snakemake and DVC do not see each other's locks, and Snakemake's own lock outlives a killed process. While it runs jobs,
Snakemake therefore holds two more: one of `locks`, and an entry in DVC's list of writers, so that `dvc repro` refuses
to start and names the holder. The same list tells Snakemake when DVC is running.
"""

from __future__ import annotations

import atexit
import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from vanishing import files, locks, paths
from vanishing.console import say
from vanishing.engines import typed
from vanishing.errors import UserError, line

LOCK = paths.LOCKS / "snakemake.lock"

STALE = Path(".snakemake") / "locks"
"""Snakemake's own locks: plain files, which a killed process leaves behind."""

DVC = Path(".dvc") / "tmp"

LIST = DVC / "rwlock"
"""DVC's list of its processes, with what they read and write."""

LOCKS = ("lock", "rwlock.lock")
"""DVC's locks in that folder: of the project, and of its list of readers and writers, `rwlock`."""

DELETING = ("delete_all_output", "delete_temp_output", "cleanup_metadata", "unlock", "no_hooks")
"""Snakemake's options, as its parser names them, with which it deletes, or works, without a word to `take`."""

FORCING = ("force", "forceall", "forcerun")
"""Those with which it deletes finished outputs to make them again."""

UNFIT = "{}"
"""Characters of a path in which DVC does not work: it takes them for a template's."""

_held = contextlib.ExitStack()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Tell an error of the file system in one line, where a Snakefile would show a traceback."""
    try:
        yield
    except OSError as error:
        raise UserError(line(error)) from None


@_told()
def clear() -> None:
    """Remove the locks that a killed Snakemake has left; keep those of a running one, and name it."""
    left = list(STALE.glob("*.lock"))
    if not left:
        return
    try:
        with locks.hold(LOCK):
            for path in left:
                path.unlink(missing_ok=True)
    except locks.Held as holder:
        say(f"at work here: {holder}")


@_told()
def take(arguments: list[str]) -> None:
    """Reserve the checkout for this process until it ends.

    Args:
        arguments: the command line of Snakemake.

    Raises:
        UserError: another engine is running here, or a training without one, beside which this call would delete
            outputs; the message names it.
    """
    with contextlib.ExitStack() as taken:
        _enter(taken, locks.command_line(arguments))
        options = typed.options(arguments)
        if not options.touch and any(getattr(options, name) for name in FORCING + DELETING):
            _check_trainings()
        _held.push(taken.pop_all())


atexit.register(_held.close)


def guard(arguments: list[str]) -> None:
    """Reserve the checkout for a call of Snakemake that deletes outputs or records and runs no job; see `take`."""
    options = typed.options(arguments)
    if not options.dryrun and any(getattr(options, name) for name in DELETING):
        take(arguments)


def check_path(folder: Path) -> None:
    """Raise `UserError` if the path of `folder` is one in which DVC does not work."""
    for character in UNFIT:
        if character in f"{folder.resolve()}":
            raise UserError(f"{folder.resolve()}: DVC does not work in a path with '{character}'; use another folder")


@_told()
def check(command: str) -> None:
    """Raise `UserError` if an engine runs here or DVC cannot work; meanwhile `command` is named as the holder."""
    check_path(Path())
    with contextlib.ExitStack() as taken:
        _enter(taken, command)
        if DVC.is_dir() and not (_configured() or locks.has_flock(LOCK)):
            raise UserError(
                "this file system has no flock, by which DVC locks; `dvc config --local core.hardlink_lock true` has "
                "it lock by hard links"
            )


@_told()
def check_idle(command: str) -> None:
    """Raise `UserError` if an engine or a training is at work here; for `command`, which deletes."""
    with contextlib.ExitStack() as taken:
        _enter(taken, command)
        _check_trainings()


def _check_trainings() -> None:
    """Raise `UserError` if a training is at work without an engine."""
    for holder in locks.holders(paths.LOCKS):
        if not holder.path.name.startswith(LOCK.name):
            raise UserError(f"a training is at work here: {holder}")


def _enter(taken: contextlib.ExitStack, command: str) -> None:
    """Hold the lock, and a place in DVC's list as the writer of everything here, until `taken` is closed."""
    try:
        taken.enter_context(locks.hold(LOCK, command=command))
    except locks.Held as holder:
        raise UserError(f"another engine is at work here: {holder}") from None
    if not DVC.parent.is_dir():
        return
    from dvc.exceptions import DvcException
    from dvc.fs import localfs
    from dvc.lock import LockError
    from dvc.rwlock import rwlock

    DVC.mkdir(exist_ok=True)
    hardlink = _configured() or not locks.has_flock(LOCK)  # without flock and with no hard links, DVC does not work
    try:
        _mend(hardlink)
        taken.enter_context(rwlock(str(DVC), localfs, command, [], [str(Path.cwd())], hardlink=hardlink))
    except DvcException as error:
        said = dict.fromkeys(line.strip() for line in str(error).splitlines() if line.strip().startswith("(PID"))
        who = "; ".join(said) or ("DVC" if isinstance(error, LockError) else error)
        left = [DVC / name for name in (["rwlock"] if said else LOCKS if hardlink else []) if (DVC / name).exists()]
        ages = " and ".join(f"{path} ({locks.age(path.stat().st_ctime)} old)" for path in left)
        remove = f"; if no engine runs on any machine, remove {ages}" if left else ""
        raise UserError(f"another engine is at work here: {who}{remove}") from None


def _configured() -> bool:
    """Return whether DVC is told to lock by hard links, which it also can where there is no `flock`."""
    from dvc.config import Config, ConfigError

    try:
        return bool(Config(str(DVC.parent))["core"].get("hardlink_lock", False))
    except ConfigError as error:
        raise UserError(f".dvc/config: {error}") from None


def _mend(hardlink: bool) -> None:
    """Drop dead processes from DVC's list, or remove a list that a kill has cut short, with which DVC would not start.

    DVC itself takes a zombie for alive, and also a later process that has been given a dead one's number.
    """
    from dvc.lock import make_lock

    lock, guard = (partial(make_lock, str(DVC / name), tmp_dir=str(DVC), hardlink_lock=hardlink) for name in LOCKS)
    if hardlink:
        _drop_files_of_flock()
    with lock():  # which names nobody; the list below does not have a DVC that is between two stages
        pass
    own = str(Path.cwd())  # written by the holder of `LOCK` alone, now this process
    with guard(), contextlib.suppress(FileNotFoundError):
        try:
            held, _ = _listed()
        except ValueError:
            LIST.unlink()
            return
        held["write"].pop(own, None)
        files.write(LIST, json.dumps(held))


def writers() -> tuple[dict[str, tuple[int, str]], float]:
    """Return who writes each path by DVC's list, by number and command line, and when the list was written.

    Processes that are gone are left out; nobody is named where there is no list, or DVC is just writing it.
    """
    try:
        held, written = _listed()
        return {name: (who["pid"], str(who["cmd"])) for name, who in held["write"].items()}, written
    except (OSError, ValueError, AttributeError, LookupError, TypeError):
        return {}, 0.0


def _listed() -> tuple[dict[str, dict[str, Any]], float]:
    """Read DVC's list without dead processes, and when it was written."""
    held, written = json.loads(LIST.read_bytes()), LIST.stat().st_mtime
    writing = {name: who for name, who in held.get("write", {}).items() if _alive(who, written)}
    reading = {name: [who for who in several if _alive(who, written)] for name, several in held.get("read", {}).items()}
    return {"read": {name: who for name, who in reading.items() if who}, "write": writing}, written


def _drop_files_of_flock() -> None:
    """Remove the files that DVC has locked by `flock`, which lie there for good: a lock by hard links waits for them.

    That one has a second name for as long as it is held.
    """
    for path in map(DVC.joinpath, LOCKS):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_nlink == 1:
                path.unlink()


def _alive(who: dict[str, Any], written: float) -> bool:
    return locks.runs(who["pid"], written) is not False
