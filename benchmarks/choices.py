"""What the step's choices do to its speed, each undone in turn: equal bytes, memory format, fused Adam, capture.

    python benchmarks/choices.py [--device cpu|cuda] [--models vgg08 ...] [--precisions fp32 bf16]

`free`: any algorithm, not only deterministic ones. `other format`: channels first for last, or last for first.
`plain Adam`: PyTorch's default, not fused. `eager`, on CUDA: the same step without a graph.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import measure
import torch

from vanishing import config
from vanishing.data.records import Split
from vanishing.training import devices

Loop = tuple[Callable[[], object], Callable[[], object]]


def free(train: config.Train) -> None:
    """Set PyTorch up as a run does, but for the choice of algorithms, which is left to speed."""
    devices.configure(train)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True


def rates(run: config.Run, train: Split, device: torch.device, repeats: int, window: float) -> dict[str, list[float]]:
    """Measure iterations per second of the step as it is, and with each choice undone, in turn."""
    ours = partial(devices.configure, run.train)
    ours()  # a capture keeps the kernels of the settings that it was made under
    loops: dict[str, Loop] = {"ours": (ours, measure.step_of(run, train, device))}
    for name, undone in (("other format", measure.other_format), ("plain Adam", measure.plain_adam)):
        with undone():
            loops[name] = (ours, measure.step_of(run, train, device))
    if device.type == "cuda":
        loops["eager"] = (ours, measure.step_of(run, train, device, captured=False))
    any_algorithm = partial(free, run.train)
    any_algorithm()
    loops["free"] = (any_algorithm, measure.step_of(run, train, device))
    return measure.in_turn(loops, device, repeats, window)


def main() -> None:
    """Measure, print and write the table."""
    options = measure.step_options(__doc__ or "", ["vgg08", "vgg38", "vgg38_bn_rc"])
    device, train = torch.device(options.device), measure.images()
    rows = []
    for precision in options.precisions:
        for name in options.models:
            run = measure.configured(name, options.device, options.threads, precision=precision)
            found = rates(run, train, device, options.repeats, options.window)
            row = {"model": name, "precision": precision}
            row |= {f"{loop} (it/s)": statistics.median(values) for loop, values in found.items()}
            others = [loop for loop in found if loop != "ours"]
            rows.append(row | {k: v for loop in others for k, v in measure.ratio(found, "ours", loop).items()})
    measure.report(rows, f"choices-{device.type}", device, options.output)


if __name__ == "__main__":
    main()
