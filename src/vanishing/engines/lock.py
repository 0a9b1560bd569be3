"""One engine at a time in a checkout.

Snakemake and DVC do not see each other's locks, and Snakemake's own lock outlives a killed process. While it runs jobs,
Snakemake therefore holds two more: a file lock, which the operating system releases with the process, and an entry in
DVC's list of writers, so that `dvc repro` refuses to start and names the holder. The same list tells Snakemake when
DVC is running.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shlex
import socket
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from vanishing import files, paths
from vanishing.console import say
from vanishing.errors import UserError

LOCK = paths.SCRATCH / "locks" / "snakemake.lock"
HOLDER = LOCK.with_suffix(".holder")
"""Names the command and process that hold the lock, for the message to others."""

STALE = Path(".snakemake") / "locks"
"""Snakemake's own locks: plain files, which a killed process leaves behind."""

DVC = Path(".dvc") / "tmp"

DYING = 1.0
"""Seconds that a killed process may take to release the lock, while its threads end."""

_held = contextlib.ExitStack()


def clear() -> None:
    """Remove the locks that a killed Snakemake has left; keep those of a running one, and name it."""
    left = list(STALE.glob("*.lock"))
    if not left:
        return
    try:
        with _lock():
            for path in left:
                path.unlink(missing_ok=True)
    except Timeout:
        say(f"at work here: {_holder()}")


def take(arguments: list[str]) -> None:
    """Reserve the checkout for this process until it ends.

    Args:
        arguments: the command line, for the message to others.

    Raises:
        UserError: another engine is running here; the message names it.
    """
    command = shlex.join([Path(arguments[0]).name, *arguments[1:]])
    with contextlib.ExitStack() as taken:
        _enter(taken, command)
        files.write(HOLDER, f"{command} (process {os.getpid()} on {socket.gethostname()})\n")
        taken.callback(HOLDER.resolve().unlink, missing_ok=True)
        _held.push(taken.pop_all())


atexit.register(_held.close)


def check(command: str) -> None:
    """Raise `UserError` if an engine is running here; meanwhile DVC names `command` as the holder."""
    with contextlib.ExitStack() as taken:
        _enter(taken, command)


def _lock() -> FileLock:
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(LOCK, timeout=DYING)


def _holder() -> str:
    with contextlib.suppress(OSError):
        return HOLDER.read_text(encoding="utf-8").strip()
    return f"lock {LOCK}"


def _enter(taken: contextlib.ExitStack, command: str) -> None:
    """Hold the lock, and a place in DVC's list as the writer of everything here, until `taken` is closed."""
    try:
        taken.enter_context(_lock())
    except Timeout:
        raise UserError(f"another engine is at work here: {_holder()}") from None
    if not DVC.parent.is_dir():
        return
    from dvc.exceptions import DvcException
    from dvc.fs import localfs
    from dvc.rwlock import rwlock

    DVC.mkdir(exist_ok=True)
    try:
        _mend()
        taken.enter_context(rwlock(str(DVC), localfs, command, [], [str(Path.cwd())], hardlink=False))
    except DvcException as error:
        said = dict.fromkeys(line.strip() for line in str(error).splitlines() if line.strip().startswith("(PID"))
        raise UserError(
            f"another engine is at work here: {'; '.join(said) or error}; if that is none, remove {DVC / 'rwlock'}"
        ) from None


def _mend() -> None:
    """Drop dead processes from DVC's list, or remove a list that a kill has cut short, with which DVC would not start.

    DVC itself takes a zombie for alive, and also a later process that has been given a dead one's number.
    """
    from dvc.lock import make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK

    path = DVC / RWLOCK_FILE
    with make_lock(str(DVC / RWLOCK_LOCK), tmp_dir=str(DVC)), contextlib.suppress(FileNotFoundError):
        try:
            held, written = json.loads(path.read_bytes()), path.stat().st_mtime
        except ValueError:
            path.unlink()
            return
        writers = {name: who for name, who in held.get("write", {}).items() if _alive(who, written)}
        readers = {
            name: [who for who in several if _alive(who, written)] for name, several in held.get("read", {}).items()
        }
        files.write(path, json.dumps({"read": {name: who for name, who in readers.items() if who}, "write": writers}))


def _alive(who: dict[str, Any], written: float) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(who["pid"])
        return bool(process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= written)
    return False
