"""Training iterations per second, against a textbook PyTorch loop in the same run, and against the machine's limits.

python benchmarks/training.py [--device cpu|cuda] [--models vgg08 ...] [--precisions fp32 bf16] [--kernels fused]
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import measure
import torch
from PIL import Image
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from vanishing import config
from vanishing.data.records import Split
from vanishing.training import devices, models

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


class Pictures(Dataset[tuple[Any, int]]):
    """The training images as a textbook has them: PIL images, transformed one by one."""

    def __init__(self, train: Split) -> None:
        self.images = [Image.fromarray(image.transpose(1, 2, 0)) for image in train.images]
        self.labels = train.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(*config.CIFAR10),
            ]
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def __getitem__(self, at: int) -> tuple[Any, int]:
        """Return an image (3, 32, 32) and its label."""
        return self.transform(self.images[at]), self.labels[at]


def textbook(run: config.Run, train: Split, device: torch.device, bf16: bool) -> Iterator[None]:
    """Train as a textbook does, a step for each `next`: a loader with 4 workers, plain Adam, `.item()` each step."""
    loader = DataLoader(
        Pictures(train), batch_size=run.train.batch_size, shuffle=True, num_workers=4, drop_last=True,
        persistent_workers=True,
    )  # fmt: skip
    model = models.build(run.model, run.data.classes, seed=0).to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=run.train.learning_rate)
    loss_sum = correct = 0.0
    while True:
        for pixels, target in loader:
            images, labels = pixels.to(device), target.to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = model(images)
                loss = torch.nn.functional.cross_entropy(logits, labels)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            loss_sum += loss.item()
            correct += (logits.argmax(dim=1) == labels).float().mean().item()
            yield


def as_it_comes() -> None:
    """Set PyTorch as a textbook leaves it: any algorithm, and convolutions in TF32 on CUDA."""
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cuda.matmul.allow_tf32 = False


def launches(step: Callable[[], None], device: torch.device) -> float:
    """Count the kernels of a step on CUDA; NaN on a CPU."""
    if device.type == "cpu":
        return math.nan
    step()
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        step()
        measure.synchronise(device)
    events = (event for event in seen.key_averages() if event.self_device_time_total > 0)
    return sum(event.count for event in events if not event.key.startswith(("Memcpy", "Memset")))


def rates(run: config.Run, train: Split, device: torch.device, repeats: int, window: float) -> dict[str, list[float]]:
    """Measure iterations per second of our loop and the textbook's, in turn."""
    books = {"textbook": textbook(run, train, device, bf16=False)}
    if run.train.precision == "bf16":
        books["textbook bf16"] = textbook(run, train, device, bf16=True)
    ours = partial(devices.configure, run.train)
    ours()  # a capture keeps the kernels of the settings that it was made under
    loops = {"ours": (ours, measure.step_of(run, train, device))}
    loops |= {name: (as_it_comes, partial(next, book)) for name, book in books.items()}
    if device.type == "cuda":
        loops["eager"] = (ours, measure.step_of(run, train, device, captured=False))
    found = measure.in_turn(loops, device, repeats, window)
    for book in books.values():
        book.close()
    return found


def main() -> None:
    """Measure, print and write the table."""
    options = measure.step_options(__doc__ or "", ["vgg08", "vgg38", "vgg38_bn_rc", "vgg68_resnet"])
    device, train = torch.device(options.device), measure.images()
    rows = []
    for precision in options.precisions:
        # before anything is computed: CUDA reads some of it once, and the limits hold for this precision
        devices.configure(measure.configured("vgg08", options.device, options.threads, precision=precision).train)
        copy = measure.copy_rate(device, options.repeats)
        product = measure.product_rate(device, DTYPES[precision], options.repeats)
        for name, kernels in itertools.product(options.models, options.kernels):
            settings = {"precision": precision, "kernels": kernels}
            run = measure.configured(name, options.device, options.threads, **settings)
            macs, traffic = measure.arithmetic(run, train)
            found = rates(run, train, device, options.repeats, options.window)
            medians = {loop: statistics.median(values) for loop, values in found.items()}
            rows.append(
                {
                    "model": name,
                    **settings,
                    **{f"{loop} (it/s)": rate for loop, rate in medians.items()},
                    **measure.ratio(found, "ours", "textbook"),
                    **(measure.ratio(found, "ours", "eager") if "eager" in found else {}),
                    "kernels a step": launches(measure.step_of(run, train, device), device),
                    "GMAC": macs / 1e9,
                    "share of product": medians["ours"] * macs / product,
                    "GB moved": traffic / 1e9,
                    "share of copy": medians["ours"] * traffic / copy,
                    "copy (GB/s)": copy / 1e9,
                    "limit (it/s)": min(product / macs, copy / traffic),
                    "share of limit": medians["ours"] / min(product / macs, copy / traffic),
                }
            )
    measure.report(rows, f"training-{device.type}", device, options.output)


if __name__ == "__main__":
    main()
