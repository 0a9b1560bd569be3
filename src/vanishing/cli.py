"""The command line: `vanishing COMMAND`. Imports are lazy, since PyTorch takes seconds."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vanishing.errors import UserError

if TYPE_CHECKING:
    from vanishing.parameters import Parameters

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when a disk or a user's share of it is full."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 for a failure, 2 for a mistake in call or parameters."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except UserError as error:
        print(f"vanishing {options.command}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        where, why = error.filename or "system", error.strerror or str(error)
        room = "; make room, and the same command goes on" if error.errno in FULL else ""
        print(f"vanishing {options.command}: {where}: {why}{room}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"vanishing {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vanishing", description="Why deep plain CNNs do not train, and what cures it: the stages of the study."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("configure", help="check params.yaml, and write what each stage depends on, for DVC")
    data = commands.add_parser("data", help="make data/SET.npz from any source of the images")
    data.add_argument(
        "--source", action="append", metavar="PATH|URL", help="use this instead of params.yaml's; may be repeated"
    )
    for name, text in (("train", "train a run"), ("gradients", "measure the gradient flow of a trained run")):
        command = commands.add_parser(name, help=text)
        command.add_argument("run", metavar="RUN", help="a run of params.yaml")
        command.add_argument("--seed", type=int, required=True, help="a seed of params.yaml")
    commands.add_parser("tables", help="write the tables and the report's numbers from results/")
    figures = commands.add_parser("figures", help="run the figure notebooks of a study")
    figures.add_argument("study", metavar="STUDY", help="a study of params.yaml")
    commands.add_parser("report", help="typeset report/report.pdf")
    commands.add_parser("models", help="list every configured run with layers, parameters and multiply-accumulates")
    commands.add_parser("show", help="print the tables of results/")
    commands.add_parser("sync", help="bring the records of Snakemake and DVC together")
    verify = commands.add_parser("verify", help="compare every file with every record of it; name those that are off")
    verify.add_argument("--all", action="store_true", dest="every", help="test and measure every training again")
    manifest = commands.add_parser("manifest", help="print versions, hardware, numerics and the hashes of all outputs")
    manifest.add_argument("--output", type=Path, metavar="FILE", help="write to this file instead")
    commands.add_parser("checklist", help="write the report's checklist of reproducibility")
    workspace = commands.add_parser("workspace", help="lay out the pipeline in another folder")
    workspace.add_argument("folder", type=Path, help="where")
    workspace.add_argument("--overlay", type=Path, metavar="FILE", help="parameters to lay over params.yaml")
    return parser


def _run(options: argparse.Namespace) -> None:
    from vanishing import parameters, stages

    if options.command == "workspace":
        from vanishing import workspace

        return workspace.lay_out(Path.cwd(), options.folder, options.overlay)
    settings = parameters.load()
    match options.command:
        case "configure":
            stages.configure(settings)
        case "data":
            stages.data(settings, options.source)
        case "train":
            stages.train(settings, options.run, options.seed)
        case "gradients":
            stages.gradients(settings, options.run, options.seed)
        case "tables":
            stages.tables(settings)
        case "figures":
            stages.figures(settings, options.study)
        case "report":
            stages.report()
        case "models":
            _models(settings)
        case "show":
            _show(settings)
        case "sync":
            from vanishing import sync

            sync.bring_together(settings)
        case "verify" | "manifest" | "checklist":
            _prove(settings, options)


def _prove(settings: Parameters, options: argparse.Namespace) -> None:
    from vanishing import checklist, files, manifest, verify

    if options.command == "verify":
        verify.verify(settings, options.every)
    elif options.command == "checklist":
        print(checklist.write(settings))
    elif options.output:
        files.write(options.output, manifest.as_text(manifest.collect(settings)))
    else:
        print(manifest.as_text(manifest.collect(settings)), end="")


def _models(settings: Parameters) -> None:
    from vanishing import models

    rows = [("run", "layers", "parameters", "MACs per image", "studies")]
    for name in settings.runs:
        run = settings.run(name)
        size = models.measure(run.model, run.data.classes)
        studies = ", ".join(key for key, block in settings.studies.items() if name in block.runs) or "none"
        rows.append((name, f"{size.layers}", f"{size.parameters:,}", f"{size.macs:,}", studies))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *counts in rows:
        print(name.ljust(widths[0]), *(count.rjust(width) for count, width in zip(counts, widths[1:], strict=True)))


def _show(settings: Parameters) -> None:
    from vanishing import tables

    found = tables.collect(settings)
    for key, rows in found.items():
        print(tables.plain(settings.studies[key].title, rows))


if __name__ == "__main__":
    sys.exit(main())
