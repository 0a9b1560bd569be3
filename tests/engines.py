"""A tiny study in a folder of its own, and what the tests of the engines ask of it."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from vanishing import parameters, workflow, workspace

ROOT = Path(__file__).parents[1]

TINY = {
    "data": {
        "set": "generated",
        "validation_per_class": 10,
        # more than 1 MB, below which Snakemake compares content and a changed time would go unnoticed
        "generated": {"classes": 4, "train_per_class": 30, "test_per_class": 80},
    },
    "model": {"filters": 4},
    "train": {"epochs": 2, "batch_size": 20, "device": "cpu", "threads": 1},
    "gradients": {"batches": 2, "batch_size": 20},
}
RUNS = {"vgg08": {"model": {"blocks": 0}}, "vgg14_bn": {"model": {"blocks": 1, "norm": "batch"}}}
STUDIES = {"core": {"title": "Depth & norm", "runs": list(RUNS), "draw": ["training", "gradient_flow"]}}

BYTES_OF = ["data", "checkpoints", "results", "report"]


def lay_out(folder, differences, data=None, train=None):
    """Lay out the tiny study, with `differences` laid over its runs, and others over its defaults."""
    content = parameters.merge(parameters.read(ROOT / "params.yaml"), TINY)
    content |= {"runs": parameters.merge(RUNS, differences), "studies": STUDIES}
    content["data"] |= data or {}
    content["train"] |= train or {}
    workspace.lay_out(ROOT, folder, None)
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    jobs = workflow.job_list(parameters.check(content | {"runs": RUNS}))  # which no difference changes
    (folder / "workflow" / "jobs.json").write_text(jobs)


def run(folder, *command):
    """Run a command that must succeed; return what it printed."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def environment():
    """Return an environment in which the commands of this Python are found."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def content(folder):
    """Return the bytes of every file that the pipeline makes, by name; LaTeX's scratch and marks left out."""
    found = (path for part in BYTES_OF for path in sorted((folder / part).rglob("*")))
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in found
        if path.is_file() and path.name != ".snakemake_timestamp" and "report/build" not in path.as_posix()
    }
