"""Seconds of what a user waits for beside training: start-up of every command, dry run, no-op builds, the report.

python benchmarks/pipeline.py [FOLDER]      a folder with a finished pipeline, build/demo by default
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import measure
import torch

COMMANDS = {
    "vanishing models": ["vanishing", "models"],
    "vanishing show": ["vanishing", "show"],
    "vanishing tables": ["vanishing", "tables"],
    "import of train": [sys.executable, "-c", "import vanishing.training.loop"],
    "import of gradients": [sys.executable, "-c", "import vanishing.analysis.gradient_flow"],
    "import of figures": [sys.executable, "-c", "import vanishing.report.notebooks"],
    "import of data": [sys.executable, "-c", "import vanishing.data.dataset"],
    "import of sync": [sys.executable, "-c", "import vanishing.engines.sync"],
    "snakemake, dry run of everything": ["snakemake", "-n", "--forceall", "--quiet", "all"],
    "snakemake, nothing to do": ["snakemake", "--cores", "2"],
    "dvc status, nothing to do": ["dvc", "status"],
    "report from results": ["snakemake", "report", "--cores", "2", "--forceall", "--config", "from_results=true"],
}


SAID = {"snakemake, nothing to do": "Nothing to be done", "dvc status, nothing to do": "up to date"}
"""What a command says that has nothing to do."""


def starts(environment: dict[str, str]) -> dict[str, list[str]]:
    """List what tells how long `vanishing` and each of its commands take to start."""
    text = subprocess.run(["vanishing", "--help"], env=environment, capture_output=True, text=True, check=True).stdout
    calls = [[], *([name] for name in re.findall(r"^    (\w+)", text, re.MULTILINE))]
    return {" ".join(["vanishing", *call, "--help"]): ["vanishing", *call, "--help"] for call in calls}


def main() -> None:
    """Time every command, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=measure.ROOT / "build" / "demo")
    parser.add_argument("--repeats", type=int, default=5, help="measurements whose median is given")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks"), help="folder of the CSV file")
    options = parser.parse_args()
    if not options.folder.is_dir():
        sys.exit(f"{options.folder}: no finished pipeline there; `make demo` makes one")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    # what Snakemake alone has built DVC has no record of
    subprocess.run(["vanishing", "sync"], cwd=options.folder, env=environment, capture_output=True, check=True)
    rows = []
    for name, command in (starts(environment) | COMMANDS).items():
        measured = []
        for _ in range(options.repeats + 1):
            start = time.perf_counter()
            done = subprocess.run(
                command, cwd=options.folder, env=environment, capture_output=True, text=True, check=False
            )
            measured.append(time.perf_counter() - start)
        kept = measured[1:]  # the first is the warm-up
        rows.append(
            {
                "command": name,
                "median (s)": statistics.median(kept),
                "min (s)": min(kept),
                "max (s)": max(kept),
                "as expected": done.returncode == 0 and SAID.get(name, "") in done.stdout + done.stderr,
            }
        )
    measure.report(rows, "pipeline", torch.device("cpu"), options.output)


if __name__ == "__main__":
    main()
