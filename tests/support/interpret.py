"""Runs the kernels of `vanishing.training.fused_triton` in Triton's interpreter, each case twice; no test in itself.

Called as a program of its own with two paths: Triton chooses between interpreter and compiler when it is imported.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch


def drawn(shape, seed=0, dtype=torch.float64):
    """Draw x, added, the gradient by y, and scales and shifts of channels; the last two never in bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    x, added, gradient = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    weight, bias = (torch.randn(shape[1], generator=generator, dtype=torch.float64) for _ in range(2))
    of_channels = torch.promote_types(dtype, torch.float32)
    values = [each.to(dtype).contiguous(memory_format=torch.channels_last) for each in (3 * x + 2, added, gradient)]
    return *values, weight.to(of_channels), bias.to(of_channels)


def interpret(cases: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return what the kernels make of each case: y, statistics, running statistics and the four gradients."""
    torch.save(cases, folder / "cases.pt")
    command = [sys.executable, __file__, folder / "cases.pt", folder / "results.pt"]
    subprocess.run(command, check=True, env=os.environ | {"TRITON_INTERPRET": "1"})
    results: list[dict[str, Any]] = torch.load(folder / "results.pt")
    return results


def main(source: str, target: str) -> None:
    """Read cases, and write the results of the first time and whether the second gave the same bytes."""
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
