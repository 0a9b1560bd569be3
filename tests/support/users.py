"""Two members of a group, for tests that root runs: each with a home and a primary group of his own."""

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import engines
import pytest

import examples

GROUP = NOBODY = 54321
"""A number without an entry, neither of a group nor of a user."""

NAMES = ("daemon", "bin")

NAMELESS = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
NAMELESS += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
"""Begins a command of a user without an entry, who may read this Python wherever it is."""

SCRIPT = """
set -e
user=$1; own=$2; group=$3; closed=$4; python=$5; shift 5
if [ -n "$closed" ]; then
    spot=$(mktemp -d)
    mount --bind "$python" "$spot"
    mount -t tmpfs -o mode=755 none "$closed"
    mkdir -p "$python"
    mount --bind "$spot" "$python"
fi
umask 002
exec setpriv --reuid "$user" --regid "$own" --groups "$group" --inh-caps=-all "$@"
"""
"""Become a user; in a mount namespace, where the interpreter in a home that is closed to others lies open."""


def closed(path):
    """Return the first folder on the way to a path that other users may not enter."""
    ways = [*reversed(path.resolve().parents), path.resolve()]
    return next((folder for folder in ways if folder.is_dir() and not folder.stat().st_mode & 0o001), None)


def nameless(*before):
    """Return what begins a command of a user without an entry, after `before`; skip the test where that cannot be."""
    begin = [*before, *NAMELESS]
    if os.geteuid() or not all(map(shutil.which, [*before[:1], NAMELESS[0]])):
        pytest.skip("only root, with setpriv, can run commands as a user without an entry")
    if subprocess.run([*begin, "true"], capture_output=True, check=False).returncode:
        pytest.skip(f"not allowed here: {' '.join(begin)}")
    return begin


@contextlib.contextmanager
def shared_folder():
    """Make a folder that belongs to the group, for a while; where that cannot be, skip the test."""
    if os.geteuid():
        pytest.skip("only root may become other users")
    if not (shutil.which("setpriv") and shutil.which("unshare")):
        pytest.skip("no setpriv or no unshare")
    if shut := closed(examples.ROOT):
        pytest.skip(f"no other user may enter {shut}")
    folder = Path(tempfile.mkdtemp(prefix="group-", dir="/tmp"))
    os.chown(folder, -1, GROUP)
    folder.chmod(0o2775)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def command(name, folder, *words):
    """Return a command as `name` types it, with a home in `folder`."""
    who, python = pwd.getpwnam(name), Path(sys.base_prefix)
    home = folder / f"home-{name}"
    home.mkdir(exist_ok=True)
    os.chown(home, who.pw_uid, who.pw_gid)
    numbers = map(str, (who.pw_uid, who.pw_gid, GROUP))
    script = ["unshare", "--mount", "sh", "-c", SCRIPT, "sh"]
    # DVC names its caches in /var/tmp by the user as getpass has it: LOGNAME before anything else
    own = [f"HOME={home}", *(f"{variable}={name}" for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"))]
    return [*script, *numbers, f"{closed(python) or ''}", f"{python}", "env", *own, *words]


def lay_out(folder, **differences):
    """Lay out the tiny study as the first member has it."""
    before = os.umask(0o002)
    try:
        engines.lay_out(folder, {}, **differences)
    finally:
        os.umask(before)
    first = pwd.getpwnam(NAMES[0]).pw_uid
    for path in (folder, *folder.rglob("*")):
        os.chown(path, first, GROUP, follow_symlinks=False)
