"""What equal bytes cost: our step with deterministic algorithms against without; on CUDA, captured against eager too.

python benchmarks/determinism.py [--device cpu|cuda] [--models vgg08 ...] [--precisions fp32 bf16]
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import measure
import torch

from vanishing import devices, parameters
from vanishing.data import Split


def free(train: parameters.Train) -> None:
    """Set PyTorch up as a run does, but for the choice of algorithms, which is left to speed."""
    devices.configure(train)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True


def rates(run: parameters.Run, train: Split, device: torch.device, repeats: int, inner: int) -> dict[str, list[float]]:
    """Measure iterations per second of the step under both settings, in turn."""
    settings = {"deterministic": partial(devices.configure, run.train), "free": partial(free, run.train)}
    variants = {name: (setting, True) for name, setting in settings.items()}
    if device.type == "cuda":
        variants["eager"] = (settings["deterministic"], False)
    loops: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {}
    for name, (prepare, captured) in variants.items():
        prepare()  # a capture keeps the kernels of the settings that it was made under
        loops[name] = (prepare, measure.step_of(run, train, device, captured))
    return measure.in_turn(loops, device, repeats, inner)


def main() -> None:
    """Measure, print and write the table."""
    parser = measure.arguments(__doc__ or "")
    parser.add_argument("--models", nargs="+", default=["vgg08", "vgg38_bn_rc"])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "tf32", "bf16"])
    parser.add_argument("--inner", type=int, help="iterations of one measurement")
    options = parser.parse_args()
    device, train = torch.device(options.device), measure.images()
    inner = options.inner or (200 if device.type == "cuda" else 10)
    rows = []
    for precision in options.precisions:
        for name in options.models:
            run = measure.configured(name, options.device, options.threads, precision=precision)
            found = rates(run, train, device, options.repeats, inner)
            row = {"model": name, "precision": precision}
            row |= {f"{loop} (it/s)": statistics.median(values) for loop, values in found.items()}
            others = [loop for loop in found if loop != "deterministic"]
            rows.append(row | {k: v for loop in others for k, v in measure.ratio(found, "deterministic", loop).items()})
    measure.report(rows, f"determinism-{device.type}", device, options.output)


if __name__ == "__main__":
    main()
