"""A study under git, and clones of it."""

import os
import shutil

from engines import run

import examples

BESIDE = [".gitattributes", ".gitignore", ".dvc/.gitignore", ".dvc/config", "README.md"]
"""Of the project, what a tiny study is laid out without; git belongs to it from here on."""


def git(folder, *arguments):
    """Run git as a user without settings of their own."""
    variables = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    return run(folder, "git", "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments, **variables)


def under_git(folder):
    """Make a tiny study a repository of its own, without a commit."""
    for name in BESIDE:
        shutil.copy(examples.ROOT / name, folder / name)
    git(folder, "init", "--quiet")


def nothing_to_do(folder, **variables):
    """Assert that neither engine would run anything, nor does, nor changes what git knows."""
    assert "Nothing to be done" in run(folder, "snakemake", "-n", **variables)
    printed = run(folder, "dvc", "repro", **variables)
    assert "Data and pipelines are up to date." in printed
    assert "Running stage" not in printed
    assert git(folder, "status", "--porcelain") == ""
