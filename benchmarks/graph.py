"""What a graph of many runs costs, a dry run and `dvc status`: seconds, memory, and the exponents that fit them.

python benchmarks/graph.py [--repeats N] [--runs N ...]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
import yaml

from vanishing import config
from vanishing.engines import workspace

RUNS = [100, 1_000, 3_000, 10_000]
STUDY = 20
"""Runs in a study."""

COMMANDS = {
    "snakemake": ["snakemake", "-n", "--quiet", "all"],
    "configure": ["vanishing", "configure"],  # which has nothing to write; `dvc repro` begins with it
    "dvc": ["dvc", "status", "--quiet"],
}
ENDS = {"snakemake": (0,), "configure": (0,), "dvc": (0, 1)}
"""Exit codes; `dvc status --quiet` ends with 1 where something is to be done, as everything is here."""

COLUMNS = {"seconds": "median (s)", "processor": "processor (s)", "peak": "peak (MB)"}


def many(count: int) -> dict[str, Any]:
    """Return the project's parameters with `count` runs of one seed in studies of twenty, one of which is analysed."""
    content = config.read(measure.ROOT / "params.yaml")
    names = [f"run{at}" for at in range(count)]
    content["runs"] = {name: {"model": {"blocks": at % 10}} for at, name in enumerate(names)}
    content["studies"] = {
        f"study{at}": {"title": "Many", "runs": names[at : at + STUDY]} for at in range(0, count, STUDY)
    }
    for block in content["analyses"].values():
        block |= {"runs": names[::STUDY], "seeds": [0]}
    content["seeds"] = [0]
    return content


CALL = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
used, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
print(json.dumps([code, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6]))
"""
"""Runs a command from a small process: a child's peak of memory begins with that of the process that starts it."""


def call(name: str, folder: Path) -> dict[str, float]:
    """Run a command once: seconds by the clock and of the processor, and the peak of its memory in MB."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-S", "-c", CALL, *COMMANDS[name]]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True)
    code, *found = json.loads(done.stdout)
    if code not in ENDS[name]:
        sys.exit(f"{' '.join(COMMANDS[name])}: exit code {code}")
    return dict(zip(COLUMNS, found, strict=True))


def costs(graph: str, content: dict[str, Any], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return the medians of each command under these parameters; where there are several, the first does not count."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workspace.lay_out(measure.ROOT, folder, None)
        (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        if options.commands != ["snakemake"]:  # the files of 10,000 runs are not written in a moment
            subprocess.run([sys.executable, "-m", "vanishing", "configure"], cwd=folder, check=True)
        found = {}
        for command in options.commands:
            measured = [call(command, folder) for _ in range(options.repeats + 1 if options.repeats > 1 else 1)]
            kept = measured[1:] or measured
            found[command] = {key: statistics.median(each[key] for each in kept) for key in COLUMNS}
            print(f"{graph}: {command}: {', '.join(f'{key} {value:.1f}' for key, value in found[command].items())}")
            sys.stdout.flush()
        return found


def exponent(sizes: list[int], values: list[float]) -> float:
    """Fit value = c * size^p on logarithms and return p."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def main() -> None:
    """Measure every graph, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="measurements whose median is given")
    parser.add_argument("--runs", type=int, nargs="+", default=RUNS, help="sizes of the graph")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks"), help="folder of the CSV files")
    options = parser.parse_args()
    catalogue = config.read(measure.ROOT / "params.yaml")
    for study in catalogue["studies"].values():
        study["seeds"] = [0, 1, 2]
    jobs = len(list(config.check(catalogue).jobs()))
    graphs = {f"catalogue, 3 seeds ({jobs} trainings)": catalogue} | {f"{n} runs": many(n) for n in options.runs}
    found = {graph: costs(graph, content, options) for graph, content in graphs.items()}
    rows = [
        {"graph": graph, "command": " ".join(COMMANDS[command])} | {COLUMNS[key]: value for key, value in cost.items()}
        for graph, each in found.items()
        for command, cost in each.items()
    ]
    measure.report(rows, "graph", torch.device("cpu"), options.output)
    many_runs = list(found.values())[1:]
    fits = [
        {
            "command": command,
            "of": COLUMNS[key],
            "exponent": exponent(options.runs, [each[command][key] for each in many_runs]),
        }
        for command in options.commands
        for key in COLUMNS
    ]
    measure.report(fits, "graph-exponents", torch.device("cpu"), options.output)


if __name__ == "__main__":
    main()
