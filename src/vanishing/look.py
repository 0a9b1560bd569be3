"""The commands of `vanishing` that only look: at runs, costs, results, and how the study stands."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from vanishing.errors import UserError

if TYPE_CHECKING:
    from vanishing.config import Parameters

Command = Callable[[argparse.Namespace], None]

AT_ONCE = "number of trainings that share the device (default: 1)"
OF_STUDIES = "only the runs of these studies"
FORMATS = ("text", "markdown", "csv", "latex")

EVERY = 5.0
"""Seconds between two looks of `--watch`, where no others are given."""

CLEAR = "\x1b[H\x1b[J"
"""Has a terminal clear its screen."""


def add(command: Callable[[str, Command, str], argparse.ArgumentParser]) -> None:
    """Add the commands, by a function that adds one."""
    command("models", _models, "list every configured run with layers, parameters and multiply-accumulates")
    plan = command("plan", _plan, "estimate what is left to run: arithmetic, disk space, and time on this machine")
    rates = command("rates", _rates, "list the throughput of the trainings beside published values")
    status = command("status", _status, "say what is done, running, failed, interrupted, stale and missing")
    for each in (plan, rates, status):
        each.add_argument("studies", nargs="*", metavar="STUDY", help=OF_STUDIES)
    plan.add_argument("--at-once", type=int, default=1, metavar="N", help=AT_ONCE)
    how = status.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="refresh until Ctrl-C")
    how.add_argument("--json", action="store_true", help="print everything as JSON, for scripts")
    status.add_argument("--every", type=_seconds, metavar="SECONDS", help=f"refresh every SECONDS (default: {EVERY:g})")
    show = command("show", _show, "print the tables of results/")
    show.add_argument("studies", nargs="*", metavar="STUDY", help="only the tables of these studies")
    show.add_argument("--format", choices=FORMATS, default="text", help="format of the tables (default: text)")
    compare = command("compare", _compare, "compare two runs: configuration and metrics")
    compare.add_argument("first", metavar="RUN[:SEED]", help="a run, with all its seeds unless one is given")
    compare.add_argument("second", metavar="RUN[:SEED]", help="another, whose metrics are subtracted")


def load(options: argparse.Namespace) -> Parameters:
    """Load the parameters, with the settings that are laid over them."""
    from vanishing import config
    from vanishing.engines import graph

    return graph.load(config.read_settings(options.settings))


def _seconds(text: str) -> float:
    """Return the seconds between two looks."""
    with contextlib.suppress(ValueError):
        if 0.2 <= (seconds := float(text)) <= 3600:
            return seconds
    raise argparse.ArgumentTypeError(f"{text!r}; allowed: 0.2 to 3600 seconds")


def _models(options: argparse.Namespace) -> None:
    from vanishing.console import aligned
    from vanishing.training import models

    settings = load(options)
    rows = [("run", "layers", "parameters", "MACs per image", "studies")]
    for name in settings.runs:
        run = settings.run(name)
        size = models.measure(run.model, run.data.classes)
        studies = ", ".join(key for key, block in settings.studies.items() if name in block.runs) or "none"
        rows.append((name, f"{size.layers}", f"{size.parameters:,}", f"{size.macs:,}", studies))
    print(aligned(rows))


def _plan(options: argparse.Namespace) -> None:
    from vanishing.engines import remaining
    from vanishing.training import cost

    settings = load(options)
    listed = remaining.entries(settings, options.studies)
    print(remaining.text(listed, cost.estimate(listed, at_once=options.at_once)))
    if swept := [] if options.studies else remaining.sweep(settings):  # which belongs to no study
        print(remaining.sweep_text(swept, cost.estimate(swept)))


def _rates(options: argparse.Namespace) -> None:
    from vanishing.results import throughput

    throughput.report_throughput(load(options), options.studies)


def _status(options: argparse.Namespace) -> None:
    from vanishing import config
    from vanishing.engines import graph, screen, status

    settings, program = load(options), graph.program(config.read_settings(options.settings))

    def look() -> status.Status:
        return status.read(settings, options.studies, program)

    if options.json:
        print(look().as_json())
    elif options.watch or options.every:
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                _refresh(screen.text(look()))
                time.sleep(options.every or EVERY)
    else:
        print(screen.text(look()))


def _refresh(text: str) -> None:
    """Print in place of what a terminal shows, as much as it has room for; below it where there is no terminal."""
    lines = [*text.splitlines(), ""]
    if sys.stdout.isatty():
        size = shutil.get_terminal_size()
        room = size.lines - 2
        cut = [f"... {len(lines) - room} more lines: `vanishing status`"] if len(lines) > room else []
        lines = [line[: size.columns] for line in lines[:room]] + cut
        lines[0] = f"{CLEAR}{lines[0]}"
    print("\n".join(lines), flush=True)


def _show(options: argparse.Namespace) -> None:
    from vanishing.report import terminal
    from vanishing.results import aggregate

    settings = load(options)
    found = aggregate.collect(settings, options.studies or None)
    if lacking := [key for key in options.studies if key not in found]:
        raise UserError(f"study {lacking[0]!r} has no results yet; `snakemake {lacking[0]}` makes them")
    print(terminal.studies(settings, found, options.format), end="")


def _compare(options: argparse.Namespace) -> None:
    from vanishing.report import terminal

    settings = load(options)
    print(terminal.comparison(settings, settings.named(options.first), settings.named(options.second)))
