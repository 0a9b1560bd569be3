"""Seconds and memory against depth, minibatch and data size, with the exponents that fit them.

    python benchmarks/scaling.py [--device cpu|cuda]

Every point is a process of its own, so that its peak memory is its own too.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import time
from typing import Any

import measure
import numpy as np
import torch

from vanishing import config
from vanishing.data import synthetic
from vanishing.training import devices, models

DEPTHS = [5, 10, 15, 20, 24]
"""Processing blocks in each of three stages: 38, 68, 98, 128 and 152 layers."""

BATCHES = [50, 100, 200, 400, 800]
SIZES = [1_000, 2_000, 4_000, 8_000]
"""Training images of an epoch."""

MODEL = {"norm": "batch", "shortcut": "identity"}


def point(device: str, threads: int, repeats: int, model: dict[str, Any], batch: int, size: int) -> dict[str, float]:
    """Measure one configuration: seconds of a step and of an epoch over `size` images, and peak memory."""
    content = config.read(measure.ROOT / "params.yaml")
    content["runs"] = {"point": {"model": MODEL | model}}
    content["studies"] = {"scaling": {"title": "Scaling", "runs": ["point"]}}
    content["train"] |= {"device": device, "threads": threads, "batch_size": batch}
    run = config.check(content).run("point")
    where = devices.configure(run.train)
    train = synthetic.generate(100, max(size // 100, batch // 100 + 1), 1, seed=0)[0]
    step = measure.step_of(run, train, where)
    inner = max(1, size // batch) if where.type == "cuda" else 2
    seconds = statistics.median(measure.seconds(step, where, repeats, inner))
    start = time.perf_counter()
    for _ in range(max(1, size // batch)):
        step()
    measure.synchronise(where)
    epoch = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if where.type == "cuda" else 1024 * _resident()
    return {
        "layers": models.measure(run.model, 100).layers,
        "batch": batch,
        "images": size,
        "step (s)": seconds,
        "epoch (s)": epoch,
        "peak (MB)": peak / 1e6,
    }


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def exponent(rows: list[dict[str, float]], x: str, y: str) -> float:
    """Fit y = c * x^p on logarithms and return p."""
    return float(np.polyfit(np.log([row[x] for row in rows]), np.log([row[y] for row in rows]), 1)[0])


def main() -> None:
    """Measure every point, print and write the tables, and the exponents."""
    options = measure.arguments(__doc__ or "").parse_args()
    common = (options.device, options.threads, options.repeats)
    series = {
        "depth": [({"blocks": blocks}, 100, 1_000) for blocks in DEPTHS],
        "batch": [({}, batch, 1_000) for batch in BATCHES],
        "data": [({"blocks": 0}, 100, size) for size in SIZES],
    }
    fits = {"depth": ("layers", "step (s)"), "batch": ("batch", "step (s)"), "data": ("images", "epoch (s)")}
    device = torch.device(options.device)
    exponents = []
    for name, points in series.items():
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            rows = [pool.apply(point, (*common, *each)) for each in points]
        measure.report(rows, f"scaling-{name}-{device.type}", device, options.output)
        x, y = fits[name]
        for of in (y, "peak (MB)"):
            exponents.append({"against": x, "of": of, "exponent": exponent(rows, x, of)})
    measure.report(exponents, f"exponents-{device.type}", device, options.output)


if __name__ == "__main__":
    main()
