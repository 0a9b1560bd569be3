"""The project's folder: where it is, and whether the code that runs is its own."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from vanishing import files
from vanishing.errors import UserError

PARAMETERS = Path("params.yaml")
SOURCE = Path("src") / "vanishing"

CODE = (".py", ".csv", ".mplstyle", ".html", ".css", ".js")
"""Endings of the files of a package."""

RUNNING = Path(__file__).resolve().parent
"""The package whose code runs."""


def enter() -> Path:
    """Change to the project's folder if this is a folder below it, and return it.

    Raises:
        UserError: the folder has code of its own, and that is not what runs.
    """
    here = Path.cwd()
    above = (folder for folder in here.parents if all((folder / name).is_file() for name in (PARAMETERS, "Snakefile")))
    top = here if os.path.lexists(PARAMETERS) else next(above, here)
    if top != here:
        os.chdir(top)
    check_code()
    return top


def check_code() -> None:
    """Raise `UserError` if the code of this folder, where it has any, is not what runs.

    Results would be recorded as made by code that has not made them.
    """
    if SOURCE.is_dir() and SOURCE.resolve() != RUNNING and code_hash(SOURCE) != code_hash():
        raise UserError(
            f"{SOURCE}: differs from the code that runs, {RUNNING}: another checkout's environment is in use; "
            "type `make setup` and `. .venv/bin/activate` here"
        )


def code_hash(package: Path = RUNNING) -> str:
    """Return the SHA-256 of a package's files, by their names and content."""
    found = sorted(path.relative_to(package) for path in package.rglob("*") if path.suffix in CODE)
    hashes = (f"{files.sha256(package / path)}  {path.as_posix()}\n" for path in found)
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
