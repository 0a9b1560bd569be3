"""Programs and packages of which a test needs the real one, and which a user's machine may lack."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest


def found(name):
    """Return the full name of a program, None if there is none.

    Packages have theirs beside this Python, and daemons are in /usr/sbin, which few users have in `PATH`.
    """
    places = [Path(sys.executable).parent, os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    return shutil.which(name, path=":".join(map(str, places)))


def needs(*names):
    """Skip the test, naming what is missing, where neither a program nor a Python package has one of these names.

    Where `VANISHING_EVERY_TEST` is set, as in CI, the test fails instead: there a skip would hide that it never runs.
    """
    missing = [name for name in names if not (found(name) or importlib.util.find_spec(name))]
    if missing:
        lacks(f"not installed: {', '.join(missing)}")


def lacks(what):
    """Skip the test for what this machine lacks; in CI it fails, see `needs`."""
    stop = pytest.fail if os.environ.get("VANISHING_EVERY_TEST") else pytest.skip
    stop(what)
