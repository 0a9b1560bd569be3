"""Programs and packages of which a test needs the real one, and which a user's machine may lack."""

import importlib.util
import os
import shutil

import pytest


def needs(*names):
    """Skip the test, naming what is missing, where neither a program nor a Python package has one of these names.

    Where `VANISHING_EVERY_TEST` is set, as in CI, the test fails instead: there a skip would hide that it never runs.
    """
    # daemons are in /usr/sbin, which few users have in PATH
    places = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    missing = [name for name in names if not (shutil.which(name, path=places) or importlib.util.find_spec(name))]
    if missing:
        stop = pytest.fail if os.environ.get("VANISHING_EVERY_TEST") else pytest.skip
        stop(f"not installed: {', '.join(missing)}")
