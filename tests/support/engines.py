"""A tiny study, PDF included, in folders of its own, and how the two engines are run there."""

import copy
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

import examples
from vanishing import config, paths
from vanishing.engines import graph, workspace

TINY = {
    "data": {
        "set": "generated",
        "validation_per_class": 10,
        # more than 1 MB, below which Snakemake compares content and a changed time would go unnoticed
        "generated": {"classes": 4, "train_per_class": 30, "test_per_class": 80},
    },
    "model": {"filters": 4},
    "train": {"epochs": 2, "batch_size": 20, "precision": "fp32", "device": "cpu", "threads": 1},
    "gradients": {"batches": 2, "batch_size": 20},
}
RUNS = {"vgg08": {"model": {"blocks": 0}}, "vgg14_bn": {"model": {"blocks": 1, "norm": "batch"}}}
STUDIES = {"core": {"title": "Depth & norm", "runs": list(RUNS), "draw": ["training", "gradient_flow"]}}
ANALYSED = ["vgg14_bn"]
WINDOWS = ["-c", "core.autocrlf=true", "-c", "core.symlinks=false", "-c", "core.eol=crlf"]
"""Options of `git clone`: settings that Git for Windows has, or its users choose."""

HUNG = 1800
"""Seconds after which a command counts as hung: far more than any of them takes, on busy cores too."""

COMMANDS = {"snakemake": ["snakemake", "--cores", "1"], "dvc": ["dvc", "repro"]}
BYTES_OF = ["data", "checkpoints", "results", "report"]


def lay_out(folder, differences, data=None, train=None):
    """Lay out the tiny study, with `differences` laid over its runs, and others over its defaults."""
    content = config.merge(copy.deepcopy(examples.PROJECT), TINY)
    content |= {"runs": config.merge(RUNS, differences), "studies": STUDIES}
    content["trainable_depth"] |= examples.SMALL["trainable_depth"]
    tiny = config.read(examples.ROOT / "workflow" / "every_run.yaml")
    for name, block in content["analyses"].items():
        content["analyses"][name] = block | tiny["analyses"][name] | {"runs": list(ANALYSED), "batch_size": 20}
    content["data"] |= data or {}
    content["train"] |= train or {}
    workspace.lay_out(examples.ROOT, folder, None)
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    settings = config.check(content | {"runs": RUNS})  # whose jobs no difference changes
    (folder / paths.JOBS).write_text(graph.job_list(settings))
    (folder / paths.PLOTS).write_text(graph.plots(settings))


EAGER = """#!{python}
import sys
from vanishing import cli

if sys.argv[1] == "train":
    from vanishing.training import loop
    loop.SAVE_EVERY = 0.0
sys.exit(cli.main())
"""
"""A `vanishing` that saves the state of a training at every step, so that a kill finds one and it gets on."""


@dataclass(frozen=True)
class Build:
    """How a clean build is made, and among what surroundings; none of it may change a byte."""

    command: list[str]
    folder: str
    days: int
    """By which the calendar is behind; were it ahead, latexmk would take what it has just made for an old file."""
    umask: int
    variables: Mapping[str, str]


BUILDS = {
    "snakemake": Build(
        COMMANDS["snakemake"], "study", 0, 0o022,
        {"TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"},
    ),
    "snakemake_on_four_cores": Build(
        ["snakemake", "--cores", "4"], "a:b x p;q/$1 é # % ~/with-a-much-longer-name", 800, 0o077,
        {"TZ": "Pacific/Kiritimati", "LC_ALL": "POSIX", "PYTHONHASHSEED": "random", "OMP_NUM_THREADS": "4"},
    ),
    "dvc": Build(
        COMMANDS["dvc"], "a:b p;q $1 é # % ~", 400, 0o002,
        {"TZ": "America/Lima", "LC_ALL": "C", "PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "2"},
    ),
}  # fmt: skip
"""By name; `calendar` in conftest.py moves the date."""


def start(command, folder, variables=None, umask=-1):
    """Start a command among surroundings of its own; its two outputs are one."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment() | (variables or {}),
        umask=umask,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder, *command, **variables):
    """Run a command that must succeed; return what it printed."""
    done = subprocess.run(
        command, cwd=folder, env=environment() | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def environment():
    """Return an environment in which the commands of this Python are found."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def hostile(folder: Path) -> dict[str, str]:
    """Return variables of which each has ended or changed a build, and make the files that they name."""
    long = folder / ("t" * 100)
    long.mkdir(mode=0o777, parents=True)
    long.chmod(0o777)
    (folder / "matplotlibrc").write_text(
        "savefig.dpi: 300\nfigure.facecolor: red\nmathtext.fontset: cm\ntext.hinting: none\n"
    )
    (folder / "tex").mkdir()
    (folder / "tex" / "booktabs.sty").write_text(r"\errmessage{another booktabs}")
    kernel = folder / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "Other", "language": "python"}')
    (folder / "modules").mkdir()
    (folder / "modules" / "seaborn.py").write_text("raise SystemExit('another seaborn')")
    return {
        "TMPDIR": str(long),
        "MATPLOTLIBRC": str(folder / "matplotlibrc"),
        "TEXINPUTS": f"{folder / 'tex'}:",
        "JUPYTER_PATH": str(folder / "jupyter"),
        "JUPYTER_DATA_DIR": str(folder / "jupyter"),
        "PYTHONPATH": str(folder / "modules"),
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OMP_DYNAMIC": "true",
    }


def eager(folder):
    """Write the eager `vanishing`, and return the environment in which it is the one that is found.

    The Snakefile puts the programs of its Python first in `PATH`; the shells of its jobs read `BASH_ENV` after that.
    """
    script, first = folder / "bin" / "vanishing", folder / "bin" / "first"
    script.parent.mkdir()
    script.write_text(EAGER.format(python=sys.executable))
    script.chmod(0o755)
    first.write_text(f"PATH={shlex.quote(str(script.parent))}:$PATH\n")
    return {"PATH": f"{script.parent}:{environment()['PATH']}", "BASH_ENV": str(first)}


def planned(folder):
    """Return what Snakemake would run: rules, with the run they are of."""
    output = run(folder, "snakemake", "-n", "--printshellcmds")
    found = re.findall(r"vanishing (\w+)(?: (vgg\w+) --seed)?", output)
    return {(rule, name) for rule, name in found}


def content(folder):
    """Return the bytes of every file that the pipeline makes, by name; LaTeX's scratch and marks left out."""
    found = (path for part in BYTES_OF for path in sorted((folder / part).rglob("*")))
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in found
        if path.is_file() and path.name != ".snakemake_timestamp" and "report/build" not in path.as_posix()
    }
