"""What faster arithmetic does to accuracy: the same seeds in each, compared pair by pair with the first.

    python benchmarks/accuracy.py [--device cpu|cuda] [--model vgg08] [--ways fp32 bf16 fused] [--seeds 5] [--epochs 20]

Lower precisions, and fused kernels; and in fp32 two of the choices that `choices.py` undoes, the memory format and
fused Adam, which add in another order. A training shorter than the study's, on real images where `data/cifar100.npz` is
there: the differences say how far the ways part, not what accuracy they reach in the end.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import measure
import numpy as np
import pandas as pd
import torch

from vanishing import config
from vanishing.data import dataset, records, synthetic
from vanishing.data.records import Dataset, Split
from vanishing.training import loop

CLASSES, HELD_OUT, TEST = 100, 25, 10
METRICS = ["training loss", "training accuracy (%)", "validation loss", "validation accuracy (%)"]
"""At the last epoch."""


def images_of(images: int) -> Dataset:
    """Return `images` training images, real ones where there are any, equally many of each class."""
    path = measure.ROOT / "data" / "cifar100.npz"
    if path.exists():
        real = dataset.load(path)
        parts = [
            _first(part, count) for part, count in zip(_parts(real), (images // CLASSES, HELD_OUT, TEST), strict=True)
        ]
        return Dataset(*parts, real.classes)
    train, test, classes = synthetic.generate(CLASSES, images // CLASSES + HELD_OUT, TEST, seed=0)
    return Dataset(*records.hold_out(train, HELD_OUT, 0), test, classes)


def _parts(whole: Dataset) -> tuple[Split, Split, Split]:
    return whole.train, whole.val, whole.test


def _first(part: Split, count: int) -> Split:
    """Keep the first `count` images of each class."""
    kept = np.concatenate([np.flatnonzero(part.labels == label)[:count] for label in range(CLASSES)])
    return Split(part.images[kept], part.labels[kept])


def ways(device: str) -> dict[str, tuple[dict[str, str], Callable[[], AbstractContextManager[object]]]]:
    """Name the ways to compute: training settings, and what is undone around the training."""
    undone = {"fp32": nullcontext, "fp32, other format": measure.other_format, "fp32, plain Adam": measure.plain_adam}
    found = {name: ({"precision": "fp32"}, undo) for name, undo in undone.items()}
    for precision in ["bf16"] + (["tf32"] if device == "cuda" else []):
        found[precision] = {"precision": precision}, nullcontext
    found["fused"] = {"precision": "bf16", "kernels": "fused"}, nullcontext
    return found


def configured(options: Any, settings: dict[str, str]) -> config.Run:
    """Return the run with some training settings, on a data set of the size chosen."""
    content = config.read(measure.ROOT / "params.yaml")
    size = {"classes": CLASSES, "train_per_class": options.images // CLASSES + HELD_OUT, "test_per_class": TEST}
    # a set called generated may have any size; what is trained on is handed in
    content["data"] |= {"set": "generated", "generated": size, "validation_per_class": HELD_OUT}
    content["train"] |= {"device": options.device, "threads": options.threads, "epochs": options.epochs} | settings
    return config.check(content).run(options.model)


def main() -> None:
    """Train every seed in every way, print and write the table."""
    parser = measure.arguments(__doc__ or "")
    parser.add_argument("--model", default="vgg08")
    parser.add_argument("--ways", nargs="+", help="of those that the table has; the others are compared with the first")
    parser.add_argument("--seeds", type=int, default=5, help="trainings in each way")
    parser.add_argument("--images", type=int, default=10_000, help="training images, a multiple of 100")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    compared = ways(options.device)
    compared = {way: compared[way] for way in options.ways or compared}
    chosen, found = images_of(options.images), []
    for seed in range(options.seeds):
        for way, (settings, undone) in compared.items():
            with tempfile.TemporaryDirectory() as folder, undone():
                run = configured(options, settings)
                last = loop.train(run, seed, chosen, Path(folder), f"{way}, seed {seed}").history[-1]
            found.append(
                (way, seed, last.train_loss, 100 * last.train_accuracy, last.val_loss, 100 * last.val_accuracy)
            )
    table = pd.DataFrame(found, columns=["way", "seed", *METRICS]).set_index(["way", "seed"])
    print(table.to_string(float_format="%.4f"), file=sys.stderr)
    first = next(iter(compared))
    rows = []
    for way in compared:
        values, apart = table.loc[way], table.loc[way] - table.loc[first]
        row = {"model": options.model, "way": way, "n": options.seeds, "images": options.images}
        row |= {"epochs": options.epochs, "against": first}
        for metric in METRICS:
            row |= {metric: values[metric].mean(), f"{metric}: std": values[metric].std()}
            row |= {f"{metric}: difference": apart[metric].mean(), f"{metric}: std of that": apart[metric].std()}
        rows.append(row)
    device = torch.device(options.device)
    measure.report(rows, f"accuracy-{device.type}", device, options.output)


if __name__ == "__main__":
    main()
