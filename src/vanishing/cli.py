"""The command line: `vanishing COMMAND`. Imports are lazy, since PyTorch takes seconds."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vanishing import complete, environment, look, project
from vanishing.engines import catalogue
from vanishing.errors import UserError, line
from vanishing.look import Command, load

if TYPE_CHECKING:
    from vanishing.config import Parameters

Missing = Callable[["Parameters", Sequence[str]], list[tuple[str, int]]]

ANYWHERE = ("diagnose",)
"""Commands that need no project."""

UNSET = ("configure", "sync", "verify", "share", "restore", "readme", "weights", "workspace", *ANYWHERE)
"""Commands without `--set`: they compare with records of `params.yaml`, or have parameters of their own."""

SETTING = "replace a setting of params.yaml, such as train.epochs=50; may be repeated"
MISSING = "only what has no results yet: of STUDY, of the runs named before it, or of all"
UNTIL = "stop in time, with all state saved: after 540s, 9min or 1.5h, or at 17:30"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 for a failure, 2 for a mistake in call or parameters.

    And 75 where others train what is left, 124 where the time is up, 128 and its number after a signal.
    """
    parser = _parser()
    if arguments is None:
        complete.answer(parser)
        environment.settle()
        _print_whatever_there_is()
    typed = sys.argv[1:] if arguments is None else list(arguments)
    options = parser.parse_args(typed)
    options.typed, options.settings = typed, options.settings + options.more
    try:
        if options.command not in ANYWHERE:
            project.enter()
        if options.settings and options.command in UNSET:
            from vanishing.config import ParameterError

            raise ParameterError("--set: not for this command, which goes by params.yaml alone")
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; what is left to flush goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (UserError, OSError) as error:
        print(f"vanishing {options.command}: {line(error)}", file=sys.stderr)
        return error.exit_code if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print(f"vanishing {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _print_whatever_there_is() -> None:
    """Print what the terminal's encoding does not have as an escape, and into nothing where an output is closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open to the end
        stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, stream)


def _path(text: str) -> Path:
    """Return a path that the user has typed, good after `project.enter` too."""
    return Path(text) if project.PARAMETERS.exists() else Path(text).absolute()


def _source(text: str) -> str:
    return text if re.match("https?://", text) else str(_path(text))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vanishing", description="Why deep plain CNNs do not train, and what cures it: the stages of the study."
    )
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE", help=SETTING)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        # of its own name, since argparse would have it replace those that stand before the command
        added.add_argument("--set", action="append", default=[], dest="more", help=argparse.SUPPRESS)
        return added

    configure = command(
        "configure", _configure, "check params.yaml, and write the configuration that each stage depends on, for DVC"
    )
    configure.add_argument(
        "--same-jobs", action="store_true", help="fail, after writing, if the list of jobs has changed"
    )
    for stage in catalogue.STAGES:
        _OPTIONS[stage.each](command(stage.name, _COMMANDS.get(stage.name, _run(stage)), stage.does))
    commands.choices["data"].add_argument(
        "--source",
        action="append",
        type=_source,
        metavar="PATH|URL",
        help="read the images from here, not from the sources in params.yaml; may be repeated",
    )
    commands.choices["train"].add_argument("--at-once", type=int, default=1, metavar="N", help=look.AT_ONCE)
    commands.choices["train"].add_argument("--until", metavar="TIME", help=UNTIL)
    look.add(command)
    images = command("images", _images, "read your own images, and print what params.yaml says of them")
    images.add_argument(
        "path", type=_path, metavar="PATH", help="class folders or Parquet files, in a folder or archive"
    )
    images.add_argument("--output", type=_path, metavar="FILE", help="write to this file instead")
    images.add_argument(
        "--seed", type=int, default=0, help="seed of the draw of a test set, if the images have none (default: 0)"
    )
    command("readme", _readme, "write the results into README.md and docs/, from results/: no engine makes them")
    _records(command)
    diagnose = command("diagnose", _diagnose, "say where signal or gradient die in any network, and what helps")
    diagnose.add_argument("model", metavar="MODULE:CALLABLE", help="returns a torch.nn.Module, or (model, batches)")
    diagnose.add_argument(
        "--batches", metavar="MODULE:CALLABLE", help="returns minibatches, such as [(inputs, targets)]"
    )
    diagnose.add_argument("--output", type=_path, metavar="FIGURE", help="save the figure: a .pdf, .png or .svg")
    workspace = command("workspace", _workspace, "set up the pipeline in another folder, with other parameters")
    workspace.add_argument("folder", type=_path, help="where")
    workspace.add_argument("--overlay", type=_path, metavar="FILE", help="parameters that replace those in params.yaml")
    workspace.add_argument("--study", action="append", metavar="STUDY", help="keep only this study; may be repeated")
    return parser


def _records(command: Callable[[str, Command, str], argparse.ArgumentParser]) -> None:
    """Add the commands that read and write records of the files, for two engines and for others."""
    command("sync", _sync, "tell Snakemake and DVC what the other has built")
    verify = command("verify", _verify, "compare every file with its records, and name each mismatch")
    verify.add_argument(
        "--all", action="store_true", dest="every", help="evaluate and measure every training again, not a sample"
    )
    share = command(
        "share", _share, "check the results, push data and checkpoints to DVC's remote, and commit the record"
    )
    share.add_argument(
        "--all", action="store_true", dest="every", help="read every object on the remote, and replace damaged ones"
    )
    command("restore", _restore, "bring data and checkpoints from DVC's remote, so that no engine has anything to do")
    manifest = command("manifest", _manifest, "print versions, hardware, numerics and the hashes of all outputs")
    manifest.add_argument("--output", type=_path, metavar="FILE", help="write to this file instead")
    weights = command("weights", _weights, "pack the best weights of trainings, for an archive such as Zenodo")
    weights.add_argument(
        "runs",
        metavar="RUN[:SEED]",
        nargs="*",
        help="runs, with all their seeds unless one is given (default: all finished trainings)",
    )
    weights.add_argument(
        "--output", type=_path, metavar="FILE", help="the file (default: build/weights/vanishing-weights-VERSION.zip)"
    )


def _select_jobs(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose runs and seeds."""
    parser.add_argument(
        "runs",
        metavar="RUN[:SEED]",
        nargs="*",
        help="runs in params.yaml, with all their seeds unless one is given; finished ones are repeated",
    )
    parser.add_argument("--seed", type=int, help="seed of the runs that are named without one")
    parser.add_argument("--missing", metavar="STUDY", nargs="?", const="", help=MISSING)


def _select_studies(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "studies", metavar="STUDY", nargs="*", help="studies in params.yaml (default: all that have results)"
    )


_OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "": lambda _: None, "job": _select_jobs, "study": _select_studies
}  # fmt: skip
"""Adds a stage's arguments, by `Stage.each`."""


def _run(stage: catalogue.Stage) -> Command:
    """Return the command of a stage: its function, on the runs and seeds or the studies that are chosen."""

    def run(options: argparse.Namespace) -> None:
        from vanishing import stages

        function, settings = getattr(stages, stage.name), load(options)
        if stage.each == "job":
            for job in _chosen(options, settings, partial(_unmeasured, stage)):
                function(settings, *job)
        else:
            function(settings, *([options.studies] if stage.each == "study" else []))

    return run


def _unmeasured(stage: catalogue.Stage, settings: Parameters, studies: Sequence[str]) -> list[tuple[str, int]]:
    """List the trainings of `studies`, of all where none is named, that have no output of this stage yet."""
    from vanishing.engines import graph
    from vanishing.results import store

    runs = settings.runs_of(studies)
    return [
        (run, seed)
        for run, seed in graph.stage_jobs(settings, stage, store.trained(settings))
        if run in runs and not all(path.exists() for path in stage.output_paths(run=run, seed=seed))
    ]


def _configure(options: argparse.Namespace) -> None:
    from vanishing.engines import graph

    graph.configure(load(options), options.same_jobs)


def _data(options: argparse.Namespace) -> None:
    from vanishing import stages

    stages.data(load(options), options.source)


def _train(options: argparse.Namespace) -> None:
    from vanishing.engines import remaining, time_limit

    # before PyTorch, whose import takes seconds of it
    until = None if options.until is None else time_limit.parse(options.until)
    settings = load(options)
    if chosen := _chosen(options, settings, remaining.to_train):
        from vanishing import stages

        missing = options.missing is not None
        again = f"`vanishing {shlex.join(options.typed)}`" if missing or options.settings else ""
        stages.train(settings, chosen, options.at_once, until, again, missing)


def _chosen(options: argparse.Namespace, settings: Parameters, missing: Missing) -> list[tuple[str, int]]:
    """Return the runs and seeds that are named, are missing, or both, in the order of the call."""
    from vanishing.config import ParameterError
    from vanishing.console import say

    if not options.runs and options.missing is None:
        raise ParameterError("no run is named; allowed: RUN or RUN:SEED, --missing [STUDY], or both")
    chosen = _named(settings, options.runs, options.seed)
    if options.missing and (":" in options.missing or options.missing in settings.runs):
        raise ParameterError(f"--missing {options.missing!r}: not a study; runs stand before --missing")
    if options.missing is not None:
        left = missing(settings, [options.missing] if options.missing else [])
        chosen = [job for job in chosen if job in left] if options.runs else left
        if not chosen:
            say("nothing is missing")
    return chosen


def _named(settings: Parameters, texts: Sequence[str], seed: int | None = None) -> list[tuple[str, int]]:
    """Return the runs and seeds that `RUN` and `RUN:SEED` name; `ParameterError` if one is named twice."""
    from vanishing.config import ParameterError

    chosen = [job for text in texts for job in settings.named(text, seed)]
    twice = next((job for at, job in enumerate(chosen) if job in chosen[:at]), None)
    if twice:
        raise ParameterError(f"'{twice[0]}:{twice[1]}' is named twice")
    return chosen


def _sync(options: argparse.Namespace) -> None:
    from vanishing.engines import sync

    sync.bring_together(load(options))


def _verify(options: argparse.Namespace) -> None:
    from vanishing.verify import run

    run.verify(load(options), options.every)


def _share(options: argparse.Namespace) -> None:
    from vanishing import sharing

    sharing.share(load(options), options.every)


def _restore(options: argparse.Namespace) -> None:
    from vanishing import sharing

    sharing.restore(load(options))


def _manifest(options: argparse.Namespace) -> None:
    from vanishing import files
    from vanishing.verify import manifest

    text = manifest.as_text(manifest.collect(load(options)))
    if options.output:
        files.write(options.output, text)
    else:
        print(text, end="")


def _weights(options: argparse.Namespace) -> None:
    from vanishing import weights

    settings = load(options)
    weights.pack(settings, _named(settings, options.runs), options.output)


def _workspace(options: argparse.Namespace) -> None:
    from vanishing.engines import workspace

    workspace.lay_out(Path.cwd(), options.folder, options.overlay, options.study)


def _diagnose(options: argparse.Namespace) -> None:
    from vanishing.analysis import user_code
    from vanishing.report import diagnosis

    model, batches = user_code.model_and_batches(options.model, options.batches)
    with user_code.errors_in(options.model):
        found = diagnosis.diagnose(model, batches)
    print(found)
    if options.output:
        found.save(options.output)


def _images(options: argparse.Namespace) -> None:
    from vanishing import config, files
    from vanishing.console import say
    from vanishing.data import own_images
    from vanishing.data.archives import SourceError

    if not 0 <= options.seed < 2**31:
        raise config.ParameterError(f"--seed {options.seed}: allowed: 0 to {2**31 - 1}")
    content = config.read(project.PARAMETERS)
    config.check(config.of_many_images(content), project.PARAMETERS)  # before minutes of reading images
    try:
        folder = own_images.record(options.path, options.seed, say)
    except SourceError as error:
        raise UserError(f"{options.path}: {error}") from None
    overlay = config.fitted(content, folder, [str(options.path)])
    if options.output:
        files.write(options.output, own_images.overlay_text(overlay))
    else:
        print(own_images.overlay_text(overlay), end="", flush=True)
    config.check(config.merge(content, overlay), project.PARAMETERS)


def _readme(options: argparse.Namespace) -> None:
    from vanishing.report import readme

    readme.write_readme(load(options))


_COMMANDS: dict[str, Command] = {"data": _data, "train": _train}
"""Commands of stages with options of their own."""


if __name__ == "__main__":
    sys.exit(main())
