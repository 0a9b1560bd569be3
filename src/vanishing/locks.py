"""Locks between processes, on every file system; each names its holder.

A lock is a file under `flock`, which the operating system releases with the process, and beside it a small file that
names the holder. The second decides where the first cannot: Lustre by default has no `flock`, nor has NFS without its
lock daemon, and mounted with `localflock` or `local_lock` they have one for each machine. A process first writes its
own holder file and then looks for others, so that of two at least one sees the other and withdraws.

A holder on this machine is as alive as its process. One on another touches its file every `BEAT` seconds; if it has not
done so for `PATIENCE`, by the clock of whoever waits, it is dead. So no holder blocks others for ever. One that was
only suspended finds its file gone and ends at once: others work on what it has not saved.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import glob
import json
import os
import secrets
import shlex
import socket
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from vanishing.console import duration, say
from vanishing.errors import UserError

DYING = 1.0
"""Seconds that a killed process may take to release a lock, while its threads end."""

BEAT = 5.0
"""Seconds after which a holder touches its file again."""

PATIENCE = 12 * BEAT
"""Seconds without a touch after which a holder on another machine is taken for dead."""

POLL = 0.05
NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF)
"""What a file system without `flock` answers; EBADF: NFS, for a file that this user may only read."""

_mine: set[str] = set()
"""Names of the holder files of this process, which another thread of it must not take for left over."""


class Held(UserError):
    """The lock is held by another process, which the text names."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, by a file beside it; a file that cannot be read, or is being written, names nobody."""

    path: Path
    touched: int
    """Time of the file's last touch in ns, by the clock of the disk's machine."""
    machine: str = ""
    host: str = "?"
    pid: int = 0
    since: float = 0.0
    command: str = ""

    def __str__(self) -> str:
        who = f"process {self.pid or '?'} on {self.host}, for {age(self.since or self.touched / 1e9)}"
        away = "" if self.machine == _machine() else f"; if that machine is dead, remove {self.path}"
        return f"{self.command} ({who}){away}" if self.command else f"{who}{away}"


@contextlib.contextmanager
def hold(path: Path, wait: float = DYING, command: str = "") -> Iterator[None]:
    """Hold the lock `path`.

    Args:
        path: a file, which is made and stays; its folder too.
        wait: seconds to wait for another holder; infinite if need be, since a dead one is noticed.
        command: what the holder is doing, for the message to others; by default its command line.

    Raises:
        Held: another process holds it, or another thread.
        OSError: the file cannot be made.
    """
    steps = acquire(path, wait, command)
    try:
        while True:
            time.sleep(next(steps))
    except StopIteration as end:
        held: contextlib.ExitStack = end.value
    with held:
        yield


def acquire(path: Path, wait: float = DYING, command: str = "") -> Generator[float, None, contextlib.ExitStack]:
    """Take a lock as `hold` does, for a caller who has other work while it waits.

    Yields:
        Seconds until it is worth looking again.

    Returns:
        What releases the lock when it is closed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        descriptor, stop = _open(path), threading.Event()
        held.callback(os.close, descriptor)
        mine = yield from _acquire(descriptor, path, wait, command or command_line(sys.argv))
        held.callback(_withdraw, mine)
        held.callback(stop.set)
        threading.Thread(target=_beat, args=(mine, stop), daemon=True).start()
        return held.pop_all()


def holders(folder: Path) -> list[Holder]:
    """Return the living holders of all locks in `folder`, after waiting for a sign of those on other machines."""
    watch = _Watch()
    while True:
        found = {holder: watch.lives(holder) for holder in _beside(folder, "*.lock")}
        if None not in found.values():
            return [holder for holder, lives in found.items() if lives]
        time.sleep(POLL)


def taken(folder: Path) -> set[str]:
    """Name the locks in `folder` that others hold, or have died with: what their files say, at a glance."""
    return {path.name.rpartition(".")[0] for path in folder.glob("*.lock.*-*") if path.name not in _mine}


def glance(folder: Path) -> dict[str, tuple[Holder, bool]]:
    """Return the holder of each lock in `folder`, by the lock's name, and whether it seems alive, without waiting.

    One whose process is not seen, such as on another machine, does if it was touched in the last `PATIENCE` by the
    clock of this machine.
    """
    found = {}
    for holder in _beside(folder, "*.lock"):
        known = runs(holder.pid, holder.since) if holder.machine == _machine() else None
        lives = time.time() - holder.touched / 1e9 < PATIENCE if known is None else known
        name = holder.path.name.rpartition(".")[0]
        if lives or name not in found:
            found[name] = holder, lives
    return found


def age(since: float) -> str:
    """Write how long ago something was; 0 s for what the clock of another machine puts into the future."""
    return duration(float(max(0, round(time.time() - since))))


def command_line(arguments: Sequence[str]) -> str:
    """Return a command as one types it, without the folder of its program."""
    return shlex.join([Path(arguments[0]).name, *arguments[1:]])


def flock(descriptor: int) -> bool | None:
    """Lock an open file without waiting; False where it is locked, None where its file system has no such locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        return None
    return True


def has_flock(path: Path) -> bool:
    """Return whether the file system of a lock knows `flock`."""
    descriptor = _open(path)
    try:
        return flock(descriptor) is not None
    finally:
        os.close(descriptor)


def runs(pid: int, since: float) -> bool | None:
    """Return whether a process of this machine that was there at the time `since` still runs.

    A zombie does not run, nor does a later process with the number of one that is gone. None: it is hidden, as
    `hidepid` hides processes from other users.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return bool(process.create_time() <= since + 1)  # which is known to a second, as the time of the last boot is
    except psutil.NoSuchProcess:
        return None if psutil.pid_exists(pid) else False


def _acquire(descriptor: int, path: Path, wait: float, command: str) -> Generator[float, None, Path]:
    """Wait for the lock and write the holder file, whose path is returned; see `acquire`."""
    watch, until = _Watch(), time.monotonic() + wait
    while True:
        free = flock(descriptor) is not False
        others = watch.others(path)
        if free and not others:
            mine = _enter(path, command)
            if not (others := watch.others(path, mine)):
                return mine
            _withdraw(mine)
        if time.monotonic() > until and (not others or any(others.values())):
            who = next((f"{other}" for other, lives in others.items() if lives), f"another process (lock {path})")
            raise Held(who)
        away = bool(others) and all(other.machine != _machine() for other in others)  # whose signs come every `BEAT`
        yield (max(POLL, BEAT / 10) if away else POLL) * (1 + secrets.randbelow(100) / 100)  # of two, one comes first


def _open(path: Path) -> int:
    """Open the file of a lock, which another user may have made: for writing where possible, as NFS asks for it."""
    try:
        return os.open(path, os.O_RDWR)  # without O_CREAT, with which a sticky folder forbids the files of others
    except FileNotFoundError:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY)


def _enter(path: Path, command: str) -> Path:
    mine = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    who = {"machine": _machine(), "host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
    _mine.add(mine.name)
    descriptor = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        os.write(descriptor, json.dumps(who | {"command": command}).encode())
    finally:
        os.close(descriptor)
    return mine


def _withdraw(mine: Path) -> None:
    mine.unlink(missing_ok=True)
    _mine.discard(mine.name)


def _beat(mine: Path, stop: threading.Event) -> None:
    """Touch a holder file until `stop`; if it is gone, the lock is another's, so end the process.

    No signal and no exception does that: a training would save its state, and Snakemake delete the outputs of its jobs,
    over what the other has made.
    """
    while not stop.wait(BEAT):
        try:
            os.utime(mine)
        except FileNotFoundError:
            if not stop.is_set():
                lock = mine.with_name(mine.name.rpartition(".")[0])
                try:
                    say(f"{lock}: another process has taken this lock over; ended without saving")
                finally:
                    os._exit(1)
        except OSError:  # of a moment
            continue


@functools.cache
def _machine() -> str:
    """Name what a process number is of: on Linux a start of the system and, for containers, a namespace in it.

    Names of hosts are not unique. After a crash of the machine, its holders count as those of another.
    """
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    return socket.gethostname()


def _beside(folder: Path, name: str) -> Iterator[Holder]:
    """Read the holder files of the locks `name`, a pattern."""
    for path in sorted(folder.glob(f"{name}.*-{'[0-9a-f]' * 8}")):
        with contextlib.suppress(FileNotFoundError):  # released meanwhile
            try:
                with path.open("rb") as handle:  # opened, so that NFS asks its server for the time
                    touched, content = os.fstat(handle.fileno()).st_mtime_ns, json.loads(handle.read(4096))
                yield Holder(path, touched, **content)
            except (PermissionError, ValueError, TypeError):
                yield Holder(path, path.stat().st_mtime_ns)


class _Watch:
    """Tells the living from the dead among holders, by looking at their files again and again."""

    def __init__(self) -> None:
        self._first: dict[Path, tuple[int, float]] = {}

    def others(self, path: Path, mine: Path | None = None) -> dict[Holder, bool | None]:
        """Return the holders of a lock who may be alive, and whether they are; None: not known yet."""
        found = {
            holder: self.lives(holder) for holder in _beside(path.parent, glob.escape(path.name)) if holder.path != mine
        }
        for holder in (holder for holder, lives in found.items() if lives is False):
            with contextlib.suppress(OSError):  # of another user in a sticky folder; it is dead all the same
                holder.path.unlink()
        return {holder: lives for holder, lives in found.items() if lives is not False}

    def lives(self, holder: Holder) -> bool | None:
        if holder.machine == _machine():
            if holder.pid == os.getpid():
                return holder.path.name in _mine
            if (known := runs(holder.pid, holder.since)) is not None:
                return known
        if holder.path not in self._first and holder.pid:
            say(f"waiting up to {PATIENCE:.0f} s for a sign of {holder}")
        touched, seen = self._first.setdefault(holder.path, (holder.touched, time.monotonic()))
        if holder.touched != touched:
            return True
        return False if time.monotonic() - seen > PATIENCE else None
