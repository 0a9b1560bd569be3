"""One engine at a time in a checkout.

Snakemake's lock and DVC's know nothing of each other, and Snakemake's outlives a process that was killed.
Snakemake therefore takes two more for as long as it runs jobs: a file lock, which the system releases with the
process, and an entry in the list in which DVC notes who writes what, by which `dvc repro` is refused and names
the holder. The other way round, that list shows Snakemake a DVC at work.
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
"""Who has it: a command and a process, for the message to others."""

STALE = Path(".snakemake") / "locks"
"""Snakemake's own locks: plain files, which stay where the process was killed."""

DVC = Path(".dvc") / "tmp"

DYING = 1.0
"""Seconds in which a process that was killed lets go of the lock: its threads end one after another."""

_held = contextlib.ExitStack()


def clear() -> None:
    """Remove the locks of a Snakemake that was killed; leave those of one at work, and name it."""
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
    """Take the checkout for this process until it ends.

    Args:
        arguments: the command line, for the message to others.

    Raises:
        UserError: another engine is at work here; names it.
    """
    command = shlex.join([Path(arguments[0]).name, *arguments[1:]])
    with contextlib.ExitStack() as taken:
        _enter(taken, command)
        files.write(HOLDER, f"{command} (process {os.getpid()} on {socket.gethostname()})\n")
        taken.callback(HOLDER.resolve().unlink, missing_ok=True)
        _held.push(taken.pop_all())


atexit.register(_held.close)


def check(command: str) -> None:
    """Raise `UserError` if an engine is at work here; `command` is what DVC would name meanwhile."""
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
    """Hold, until `taken` is closed, the lock and a place in DVC's list as the writer of everything here."""
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
    """Take processes that are no more out of DVC's list, or remove it where a kill cut it short.

    DVC itself would start no more in the second case. It takes a process for alive that nobody has waited for, or
    that has the number of one that is gone: a younger one than the list.
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
