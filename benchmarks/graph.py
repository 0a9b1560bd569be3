"""Seconds of a dry run against the number of runs, and the exponent that fits them.

python benchmarks/graph.py [--repeats N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
import yaml

from vanishing import config
from vanishing.engines import workspace

RUNS = [125, 250, 500, 1000]
STUDY = 20
"""Runs in a study."""


def many(count: int) -> dict[str, Any]:
    """Return the project's parameters with `count` runs, a study for every twenty of them."""
    content = config.read(measure.ROOT / "params.yaml")
    names = [f"run{at}" for at in range(count)]
    content["runs"] = {name: {"model": {"blocks": at % 10}} for at, name in enumerate(names)}
    content["studies"] = {
        f"study{at}": {"title": "Many", "runs": names[at : at + STUDY]} for at in range(0, count, STUDY)
    }
    return content


def seconds(content: dict[str, Any], repeats: int) -> float:
    """Return the median time of a dry run under these parameters, after one that does not count."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as folder:
        workspace.lay_out(measure.ROOT, Path(folder), None)
        (Path(folder) / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        measured = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            subprocess.run(
                ["snakemake", "-n", "--quiet", "all"], cwd=folder, env=environment, check=True, capture_output=True
            )
            measured.append(time.perf_counter() - start)
    return statistics.median(measured[1:])


def main() -> None:
    """Time dry runs, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="measurements whose median is given")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks"), help="folder of the CSV file")
    options = parser.parse_args()
    catalogue = config.read(measure.ROOT / "params.yaml")
    for study in catalogue["studies"].values():
        study["seeds"] = [0, 1, 2]
    jobs = len(list(config.check(catalogue).jobs()))
    rows = [{"graph": f"catalogue, 3 seeds ({jobs} trainings)", "median (s)": seconds(catalogue, options.repeats)}]
    rows += [{"graph": f"{count} runs", "median (s)": seconds(many(count), options.repeats)} for count in RUNS]
    times = [float(row["median (s)"]) for row in rows[1:]]
    exponent = np.polyfit(np.log(RUNS), np.log(times), 1)[0]
    measure.report(rows, "graph", torch.device("cpu"), options.output)
    print(f"seconds grow as runs^{exponent:.2f}")


if __name__ == "__main__":
    main()
