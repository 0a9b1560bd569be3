"""Seconds that an engine adds to each of many tiny jobs, and whether one is lost or done twice.

python benchmarks/many_jobs.py [--count N] [--at-once N]                  by Snakemake on this machine
python benchmarks/many_jobs.py --profile workflow/profiles/slurm --at-once 20     through SLURM, on a shared disk
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import measure
import pandas as pd
import torch
import yaml

from vanishing import config, paths
from vanishing.engines import workspace

TINY: dict[str, Any] = {
    "data": {"validation_per_class": 4, "generated": {"classes": 3, "train_per_class": 14, "test_per_class": 5}},
    "model": {"stages": 2, "blocks": 0, "filters": 4, "groups": 2},
    "train": {"epochs": 1, "batch_size": 8},
    "gradients": {"batches": 2, "batch_size": 8},
    "trainable_depth": {"images": 2, "held_out": 1, "epochs": 1, "batch_size": 6},
}
"""Laid over the parameters of `make every-run`: the smallest network on the smallest set, for one epoch of 4 steps."""

RUN = "tiny"
ALONE = 5
"""Trainings without an engine, whose processor time is given too: it depends little on what else the machine does."""


def lay_out(folder: Path, count: int) -> None:
    """Make a workspace with one run of `count` seeds, and its images."""
    content = config.read(measure.ROOT / "params.yaml")
    content = config.merge(content, config.read(measure.ROOT / "workflow" / "every_run.yaml"))
    content = config.merge(content, TINY)
    for block in content["analyses"].values():
        block |= {"runs": [RUN], "seeds": [0], "batches": 2, "batch_size": 8}
    content |= {"runs": {RUN: {}}, "studies": {"many": {"title": "Many", "runs": [RUN]}}, "seeds": list(range(count))}
    workspace.lay_out(measure.ROOT, folder, None)
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    call(folder, "vanishing", "data")


def call(folder: Path, *command: str) -> tuple[float, float, str]:
    """Run a command that must succeed; return its seconds by the clock and of the processor, and what it printed."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{command[0]}: exit code {done.returncode}\n{done.stdout[-3000:]}")
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def trainings(folder: Path, count: int) -> list[float]:
    """Return the seconds of each training, start-up included, by what Snakemake has noted beside it."""
    notes = [folder / "logs" / "benchmarks" / "train" / f"{RUN}-seed{seed}.tsv" for seed in range(count)]
    return [float(pd.read_csv(path, sep="\t")["s"].sum()) for path in notes if path.exists()]


def main() -> None:
    """Run the jobs, count them, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="number of jobs")
    parser.add_argument("--at-once", type=int, default=2, help="cores of this machine, or jobs of the profile")
    parser.add_argument("--profile", type=Path, help="of Snakemake, for a cluster (default: none, this machine)")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks"), help="folder of the CSV file")
    options = parser.parse_args()
    targets = [str(paths.results(RUN, seed) / "summary.json") for seed in range(options.count)]
    where = ["--cores", f"{options.at_once}"]
    if options.profile:
        where = ["--profile", str(options.profile.resolve()), "--jobs", f"{options.at_once}"]
    (measure.ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=measure.ROOT / "build", prefix="many-jobs-") as name:
        folder = Path(name)
        lay_out(folder, options.count)
        wall, processor, said = call(folder, "snakemake", *where, *targets)
        seconds = trainings(folder, options.count)
        begun = Counter(re.findall(rf"vanishing train {RUN} --seed (\d+) 2>", said))
        done = sum((folder / target).exists() for target in targets)
        alone = [call(folder, "vanishing", "train", RUN, "--seed", f"{seed}")[1] for seed in range(ALONE)]
    a_job, training = wall * options.at_once / options.count, statistics.fmean(seconds)
    row = {
        "jobs": options.count,
        "by": options.profile.name if options.profile else "this machine",
        "at once": options.at_once,
        "done": done,
        "begun twice": sum(times > 1 for times in begun.values()),
        "never begun": options.count - len(begun),
        "all (s)": wall,
        "a job (s)": a_job,
        "its training, mean (s)": training,
        "beside it (s)": a_job - training,
    }
    if not options.profile:  # whose jobs are no children of Snakemake
        row |= {
            "processor a job (s)": processor / options.count,
            "its training alone, median (s)": statistics.median(alone),
        }
    measure.report([row], "many_jobs", torch.device("cpu"), options.output)
    if done < options.count or len(begun) < options.count or max(begun.values()) > 1:
        sys.exit("a job was lost, or done twice")


if __name__ == "__main__":
    main()
