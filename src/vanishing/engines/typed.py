"""What the user has typed after `snakemake`, which its workflow object does not say while the Snakefile is read."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Sequence
from pathlib import Path


def options(command: Sequence[str]) -> argparse.Namespace:
    """Return the options of a call of Snakemake, those of its profiles included, by its own parser.

    Args:
        command: program and arguments, as in `sys.argv`. The arguments of another program, which calls Snakemake as a
            library, are its own: all options are then as without arguments.
    """
    from snakemake.cli import parse_args

    program = Path(command[0])
    called = "snakemake" in (program.name, program.parent.name if program.name == "__main__.py" else "")
    with contextlib.redirect_stderr(io.StringIO()):  # names the profile, as the call itself has done
        parsed: argparse.Namespace = parse_args(list(command[1:]) if called else ["--workflow-profile", "none"])[1]
    return parsed
