"""The command line: `vanishing COMMAND`. Imports are lazy, since PyTorch takes seconds."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vanishing.errors import UserError, line

if TYPE_CHECKING:
    from vanishing.config import Parameters

Command = Callable[[argparse.Namespace], None]
Missing = Callable[["Parameters", Sequence[str]], list[tuple[str, int]]]

AT_ONCE = "trainings that share the device (1)"
MISSING = "only what has no results yet: of a study, of the runs that are named before, or of all"
UNTIL = "save everything before 540s, 9min or 1.5h have passed, or before 17:30"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 for a failure, 2 for a mistake in call or parameters.

    And 124 where the time is up, 128 and its number after a signal.
    """
    typed = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(typed)
    options.typed = typed
    try:
        options.run(options)
    except (UserError, OSError) as error:
        print(f"vanishing {options.command}: {line(error)}", file=sys.stderr)
        return error.exit_code if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print(f"vanishing {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vanishing", description="Why deep plain CNNs do not train, and what cures it: the stages of the study."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    configure = command(
        "configure",
        _stage("configure", "same_jobs"),
        "check params.yaml, and write what each stage depends on, for DVC",
    )
    configure.add_argument("--same-jobs", action="store_true", help="fail, once written, if the list of jobs changed")
    data = command("data", _stage("data", "source"), "make data/SET.npz from any source of the images")
    data.add_argument(
        "--source", action="append", metavar="PATH|URL", help="use this instead of params.yaml's; may be repeated"
    )
    train = _select(command("train", _train, "train a run, or several at once on one device"))
    train.add_argument("--at-once", type=int, default=1, metavar="N", help=AT_ONCE)
    train.add_argument("--until", metavar="TIME", help=UNTIL)
    _select(command("gradients", _gradients, "measure the gradient flow of trained runs"))
    tables = command("tables", _stage("tables", "studies"), "write the tables of studies from results/")
    tables.add_argument("studies", metavar="STUDY", nargs="*", help="studies of params.yaml; all with results if none")
    figures = command("figures", _stage("figures", "study"), "run the figure notebooks of a study")
    figures.add_argument("study", metavar="STUDY", help="a study of params.yaml")
    command("compare", _stage("compare"), "hold the published numbers against results/")
    command("numbers", _stage("numbers"), "write the numbers of the report's prose, its layout and its checklist")
    command("check", _stage("check"), "test the results, and recompute the tables; what does not hold fails by name")
    command("report", _report, "typeset report/report.pdf")
    command("models", _models, "list every configured run with layers, parameters and multiply-accumulates")
    for name, run, text in (
        ("plan", _plan, "say what is left to run, and what it asks for: arithmetic, disk, time on this machine"),
        ("rates", _rates, "list the iterations per second of the trainings, beside published ones"),
    ):
        costs = command(name, run, text)
        costs.add_argument("studies", nargs="*", metavar="STUDY", help="only the runs of these studies")
        if name == "plan":
            costs.add_argument("--at-once", type=int, default=1, metavar="N", help=AT_ONCE)
    command("readme", _readme, "write the results into README.md, from results/: no engine makes README.md")
    command("show", _show, "print the tables of results/")
    command("sync", _sync, "bring the records of Snakemake and DVC together")
    verify = command("verify", _verify, "compare every file with every record of it; name those that are off")
    verify.add_argument("--all", action="store_true", dest="every", help="test and measure every training again")
    manifest = command("manifest", _manifest, "print versions, hardware, numerics and the hashes of all outputs")
    manifest.add_argument("--output", type=Path, metavar="FILE", help="write to this file instead")
    workspace = command("workspace", _workspace, "lay out the pipeline in another folder")
    workspace.add_argument("folder", type=Path, help="where")
    workspace.add_argument("--overlay", type=Path, metavar="FILE", help="parameters to lay over params.yaml")
    workspace.add_argument("--study", action="append", metavar="STUDY", help="keep this study alone; may be repeated")
    return parser


def _select(stage: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options by which a stage of runs and seeds is told which."""
    stage.add_argument(
        "runs", metavar="RUN[:SEED]", nargs="*", help="runs of params.yaml, all seeds if none is said, anew if done"
    )
    stage.add_argument("--seed", type=int, help="a seed of a run that is named without one")
    stage.add_argument("--missing", metavar="STUDY", nargs="?", const="", help=MISSING)
    return stage


def _load() -> Parameters:
    from vanishing import config

    return config.load()


def _stage(name: str, *arguments: str) -> Command:
    """Return the command of a stage, which takes the parameters and some of the options."""

    def run(options: argparse.Namespace) -> None:
        from vanishing import stages

        getattr(stages, name)(_load(), *(getattr(options, argument) for argument in arguments))

    return run


def _train(options: argparse.Namespace) -> None:
    from vanishing.engines import remaining, time_limit

    until = (
        time_limit.parse(options.until) if options.until is not None else None
    )  # before PyTorch, whose import takes seconds
    settings = _load()
    if chosen := _chosen(options, settings, remaining.to_train):
        from vanishing import stages

        again = "" if options.missing is None else f"`vanishing {shlex.join(options.typed)}`"
        stages.train(settings, chosen, options.at_once, until, again)


def _gradients(options: argparse.Namespace) -> None:
    from vanishing import stages
    from vanishing.engines import remaining

    settings = _load()
    for name, seed in _chosen(options, settings, remaining.to_measure):
        stages.gradients(settings, name, seed)


def _chosen(options: argparse.Namespace, settings: Parameters, missing: Missing) -> list[tuple[str, int]]:
    """Return the runs and seeds that are named, are missing, or both, in the order of the call."""
    from vanishing.config import ParameterError
    from vanishing.console import say

    if not options.runs and options.missing is None:
        raise ParameterError("no run is named; allowed: RUN or RUN:SEED, --missing [STUDY], or both")
    chosen = [job for text in options.runs for job in settings.named(text, options.seed)]
    twice = next((job for at, job in enumerate(chosen) if job in chosen[:at]), None)
    if twice:
        raise ParameterError(f"'{twice[0]}:{twice[1]}' is named twice")
    if options.missing and (":" in options.missing or options.missing in settings.runs):
        raise ParameterError(f"--missing {options.missing!r}: not a study; runs stand before --missing")
    if options.missing is not None:
        left = missing(settings, [options.missing] if options.missing else [])
        chosen = [job for job in chosen if job in left] if options.runs else left
        if not chosen:
            say("nothing is missing")
    return chosen


def _report(_: argparse.Namespace) -> None:
    from vanishing import stages

    _load()
    stages.report()


def _sync(_: argparse.Namespace) -> None:
    from vanishing.engines import sync

    sync.bring_together(_load())


def _verify(options: argparse.Namespace) -> None:
    from vanishing.verify import run

    run.verify(_load(), options.every)


def _manifest(options: argparse.Namespace) -> None:
    from vanishing import files
    from vanishing.verify import manifest

    text = manifest.as_text(manifest.collect(_load()))
    if options.output:
        files.write(options.output, text)
    else:
        print(text, end="")


def _workspace(options: argparse.Namespace) -> None:
    from vanishing.engines import workspace

    workspace.lay_out(Path.cwd(), options.folder, options.overlay, options.study)


def _models(_: argparse.Namespace) -> None:
    from vanishing.training import models

    settings = _load()
    rows = [("run", "layers", "parameters", "MACs per image", "studies")]
    for name in settings.runs:
        run = settings.run(name)
        size = models.measure(run.model, run.data.classes)
        studies = ", ".join(key for key, block in settings.studies.items() if name in block.runs) or "none"
        rows.append((name, f"{size.layers}", f"{size.parameters:,}", f"{size.macs:,}", studies))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *counts in rows:
        print(name.ljust(widths[0]), *(count.rjust(width) for count, width in zip(counts, widths[1:], strict=True)))


def _plan(options: argparse.Namespace) -> None:
    from vanishing.engines import remaining
    from vanishing.training import cost

    listed = remaining.entries(_load(), options.studies)
    print(remaining.text(listed, cost.estimate(listed, at_once=options.at_once)))


def _rates(options: argparse.Namespace) -> None:
    from vanishing.results import throughput

    throughput.make(_load(), options.studies)


def _readme(_: argparse.Namespace) -> None:
    from vanishing.report import readme

    readme.make(_load())


def _show(_: argparse.Namespace) -> None:
    from vanishing.report import tables
    from vanishing.results import aggregate

    settings = _load()
    found = aggregate.collect(settings)
    for key, rows in found.items():
        print(tables.plain(settings.studies[key].title, rows))


if __name__ == "__main__":
    sys.exit(main())
