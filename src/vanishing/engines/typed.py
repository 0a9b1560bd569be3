"""What the user has typed after `snakemake`, which its workflow object does not say while the Snakefile is read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of this call of Snakemake, or of `arguments`, by its own parser; profiles are left out."""
    from snakemake.cli import get_argument_parser

    parsed: argparse.Namespace = get_argument_parser().parse_args(sys.argv[1:] if arguments is None else arguments)
    return parsed
