"""Runs the kernels of `vanishing.fused_triton` in Triton's interpreter, each case twice; no test in itself.

Called as a program of its own with two paths: Triton chooses between interpreter and compiler when it is imported.
"""

import os
import sys
from pathlib import Path
from typing import Any


def interpret(cases: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return what the kernels make of each case: y, statistics, running statistics and the four gradients."""
    import subprocess

    import torch

    torch.save(cases, folder / "cases.pt")
    command = [sys.executable, __file__, folder / "cases.pt", folder / "results.pt"]
    subprocess.run(command, check=True, env=os.environ | {"TRITON_INTERPRET": "1"})
    results: list[dict[str, Any]] = torch.load(folder / "results.pt")
    return results


def main(source: str, target: str) -> None:
    """Read cases, and write the results of the first time and whether the second gave the same bytes."""
    import torch

    from vanishing.training import fused_reference, fused_triton

    def once(case: dict[str, Any]) -> dict[str, Any]:
        fused_triton.PROGRAMS = case["programs"]
        settings = fused_reference.Settings(*case["settings"])
        running = torch.zeros_like(case["bias"]), torch.ones_like(case["bias"])
        forward = fused_triton.forward(case["x"], case["added"], case["weight"], case["bias"], running, settings)
        known = (case[key] for key in ("gradient", "x", "y", "weight", "statistics"))
        backward = fused_triton.backward(*known, settings)
        return dict(zip(NAMES, (*forward, *running, *backward), strict=True))

    torch.save([once(case) | {"again": once(case)} for case in torch.load(source)], target)


NAMES = ("y", "statistics", "running_mean", "running_var", "by_x", "by_added", "by_weight", "by_bias")
"""Of what the two passes give."""

if __name__ == "__main__":
    main(*sys.argv[1:])
