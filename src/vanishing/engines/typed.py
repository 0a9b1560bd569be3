"""What the user has typed after `snakemake`, which its workflow object does not say while the Snakefile is read."""

from __future__ import annotations

import argparse
import sys


def options() -> argparse.Namespace:
    """Return the options of this call of Snakemake, by its own parser; profiles are left out."""
    from snakemake.cli import get_argument_parser

    parsed: argparse.Namespace = get_argument_parser().parse_args(sys.argv[1:])
    return parsed
