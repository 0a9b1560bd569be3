"""What the benchmarks share: repeated timing, the machine's limits, a step's arithmetic and traffic, CSV files."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from vanishing import config
from vanishing.data import dataset, synthetic
from vanishing.data.records import Split
from vanishing.training import augmentation, devices, step
from vanishing.training.streams import Slot, Stream

# as `devices.configure` does, but before anything here asks for a GPU, at which CUDA reads it
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")

ROOT = Path(__file__).parents[1]
WARM_UP = 3


def arguments(description: str) -> argparse.ArgumentParser:
    """Make a parser with the options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5, help="measurements whose median is given")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks"), help="folder of the CSV files")
    return parser


def step_options(description: str, models: Sequence[str]) -> argparse.Namespace:
    """Read the options of a benchmark of training steps; precisions and kernels are the device's, if not said."""
    parser = arguments(description)
    parser.add_argument("--models", nargs="+", default=models)
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "tf32", "bf16"])
    parser.add_argument("--kernels", nargs="+", choices=["pytorch", "fused"])
    parser.add_argument("--window", type=float, help="seconds of one measurement")
    options = parser.parse_args()
    cuda = options.device == "cuda"
    options.precisions = options.precisions or (["fp32", "tf32", "bf16"] if cuda else ["fp32", "bf16"])
    options.kernels = options.kernels or (["pytorch", "fused"] if cuda else ["pytorch"])
    options.window = options.window or (0.5 if cuda else 2.0)
    return options


def configured(name: str, device: str, threads: int, **train: Any) -> config.Run:
    """Return a run of the study's models, `vgg68_resnet` included, with some of its training settings changed."""
    content = config.read(ROOT / "params.yaml")
    content["runs"]["vgg68_resnet"] = {
        "model": {"blocks": 10, "norm": "batch", "shortcut": "identity", "reduction_shortcut": "pool"}
    }
    content["train"] |= {"device": device, "threads": threads, **train}
    return config.check(content).run(name)


def images(count: int = 5000) -> Split:
    """Return training images: CIFAR-100's where the pipeline has made them, otherwise generated ones."""
    path = ROOT / "data" / "cifar100.npz"
    if path.exists():
        train = dataset.load(path).train
        return Split(
            train.images[:: len(train.images) // count][:count], train.labels[:: len(train.labels) // count][:count]
        )
    return synthetic.generate(100, max(1, count // 100), 1, seed=0)[0]


def synchronise(device: torch.device) -> None:
    """Wait until the device has done everything that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device, repeats: int, inner: int = 1) -> list[float]:
    """Time `inner` calls of `work` together, `repeats` times after a warm-up; seconds for one call."""
    for _ in range(WARM_UP):
        work()
    measured = []
    for _ in range(repeats):
        synchronise(device)
        start = time.perf_counter()
        for _ in range(inner):
            work()
        synchronise(device)
        measured.append((time.perf_counter() - start) / inner)
    return measured


def other_format() -> AbstractContextManager[object]:
    """Have learners made within the block use the memory format that is not the project's choice."""
    chosen = devices.memory_format

    def other(train: config.Train, device: torch.device) -> torch.memory_format:
        return ({torch.channels_last, torch.contiguous_format} - {chosen(train, device)}).pop()

    return mock.patch.object(devices, "memory_format", other)


def plain_adam() -> AbstractContextManager[object]:
    """Have learners made within the block use the Adam that PyTorch takes by default, which is not fused."""
    adam = torch.optim.Adam

    def plain(*arguments: Any, **options: Any) -> torch.optim.Adam:
        return adam(*arguments, **options | {"fused": None})

    return mock.patch.object(torch.optim, "Adam", plain)


def in_turn(
    loops: Mapping[str, tuple[Callable[[], object], Callable[[], object]]],
    device: torch.device,
    repeats: int,
    window: float,
) -> dict[str, list[float]]:
    """Measure iterations per second of loops in turn, so that the machine's moods fall on all alike.

    Args:
        loops: what puts a loop's settings in force, and its iteration, by name.
        device: that they compute on.
        repeats: measurements of each, after one that warms up and tells how many iterations fill a window.
        window: seconds of one measurement.
    """
    found: dict[str, list[float]] = {name: [] for name in loops}
    inner = dict.fromkeys(loops, WARM_UP)
    for repeat in range(repeats + 1):
        for name, (prepare, iterate) in loops.items():
            prepare()
            if not repeat:
                iterate()  # kernels are loaded in the first
            synchronise(device)
            start = time.perf_counter()
            for _ in range(inner[name]):
                iterate()
            synchronise(device)
            rate = inner[name] / (time.perf_counter() - start)
            if repeat:
                found[name].append(rate)
            else:
                inner[name] = max(1, round(rate * window))
    return found


def ratio(found: Mapping[str, list[float]], one: str, other: str) -> dict[str, float]:
    """Return median, least and largest of the ratios of two loops that were measured in turn."""
    ratios = [a / b for a, b in zip(found[one], found[other], strict=True)]
    name = f"{one}/{other}"
    return {name: statistics.median(ratios), f"{name} min": min(ratios), f"{name} max": max(ratios)}


def step_of(
    run: config.Run, train: Split, device: torch.device, captured: bool = True, stream: Stream | None = None
) -> Callable[[], None]:
    """Return the project's own training step on successive minibatches, captured where there are CUDA graphs.

    It is taken on `stream`, one of its own if none is given; an eager one on the default stream.
    """
    stream = (stream or Slot().on(device)) if captured else Stream()
    draws, size, place = augmentation.draw(len(train.images), 0, 1).to(device), run.train.batch_size, 0
    pixels, labels = step.upload(train, device)
    synchronise(device)
    with stream:
        trained = step.Learner(run, 0, device)
        one = step.Step(trained, pixels, labels, [size], stream, stream.pool())

    def take_step() -> None:
        nonlocal place
        with stream:
            one(draws.batch(place, size))
        place = (place + size) % (len(pixels) - size + 1)

    return take_step


def arithmetic(run: config.Run, train: Split) -> tuple[float, float]:
    """Count multiply-accumulates of a step, and the bytes that its operations read and write, one by one."""
    step = step_of(run, train, torch.device("cpu"))
    step()
    with FlopCounterMode(display=False) as flops:
        step()
    with Traffic() as traffic:
        step()
    return flops.get_total_flops() / 2, traffic.bytes


class Traffic(TorchDispatchMode):
    """Add up the bytes of every operation's operands and results: what a step moves if nothing is fused."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0.0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and count it, unless it only looks at memory in another way."""
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            self.bytes += sum(tensor.nbytes for tensor in _tensors([*args, *(kwargs or {}).values(), result]))
        return result


def _tensors(values: Any) -> list[Tensor]:
    """List the tensors in nested lists and tuples."""
    if isinstance(values, Tensor):
        return [values]
    return [tensor for value in values for tensor in _tensors(value)] if isinstance(values, list | tuple) else []


def product_rate(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    """Measure multiply-accumulates per second of a large matrix product of random numbers."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return size**3 / statistics.median(seconds(lambda: a @ b, device, repeats))


def copy_rate(device: torch.device, repeats: int) -> float:
    """Measure bytes per second, read and written, of a large copy."""
    source = torch.randn((1 << 30) // 4 if device.type == "cuda" else (1 << 28) // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / statistics.median(seconds(lambda: target.copy_(source), device, repeats))


def machine(device: torch.device) -> dict[str, str]:
    """Name the hardware and the versions."""
    return {"device": devices.hardware(device), "versions": devices.describe(device)}


def report(rows: list[dict[str, Any]], name: str, device: torch.device, folder: Path) -> None:
    """Print the rows as a table and write them as CSV, with the machine beside each."""
    table = pd.DataFrame(rows)
    surroundings = machine(device)
    print(", ".join(surroundings.values()))
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    table.assign(**surroundings).to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
