"""The data set: one file of arrays in canonical order, the same bytes from every source.

`prepare` is the stage `vanishing data`; later stages `load` the file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vanishing import config, files
from vanishing.data import own_images, synthetic
from vanishing.data.archives import one_line
from vanishing.data.cifar100 import CIFAR100, CLASSES, Expected
from vanishing.data.records import (
    NEXT,
    PARTS,
    SHAPE,
    DataError,
    Dataset,
    Split,
    as_labels,
    canonical,
    hold_out,
    joined,
)  # fmt: skip
from vanishing.data.sources import CACHE, Source, read_first


def save(path: Path, dataset: Dataset) -> None:
    """Write `dataset` to `path`: equal data sets give equal bytes.

    The archive is not compressed (photographs hardly shrink) and holds no time, so its bytes depend neither on the
    version of zlib nor on the clock. Raises `OSError` if the file cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    for part in PARTS:
        split: Split = getattr(dataset, part)
        arrays |= {f"{part}_images": split.images, f"{part}_labels": split.labels}
    arrays["classes"] = np.array(dataset.classes, dtype=np.str_)
    with files.replacing(path) as handle:
        np.savez(handle, allow_pickle=False, **arrays)


def load(path: Path) -> Dataset:
    """Read a file that `save` wrote; `DataError` names the file and what is wrong with it."""
    if not path.exists():
        raise DataError(f"{path}: not there; {NEXT}")
    try:
        arrays = _read(path)
    except (OSError, EOFError, ValueError, KeyError, MemoryError, zipfile.BadZipFile, NotImplementedError) as error:
        raise DataError(f"{path}: cannot be read as an archive of arrays ({one_line(error)}); {NEXT}") from None
    _check_keys(path, arrays)
    classes = arrays["classes"]
    if classes.dtype.kind != "U" or classes.ndim != 1:
        raise DataError(f"{path}: classes: found {_kind(classes)}, expected text of shape (C,); {NEXT}")
    train, val, test = (_checked(path, arrays, part, len(classes)) for part in PARTS)
    return Dataset(train, val, test, tuple(map(str, classes)))


def load_split(data: config.Data, seed: int) -> Dataset:
    """Read the images of a run with the run's own validation split.

    Args:
        data: the run's block. If its seed is not `seed`, validation images are drawn again from training and
            validation images, exactly as `prepare` would draw them with that seed.
        seed: the seed that the file was made with, `data.seed` of the parameters.
    """
    dataset = load(data.path)
    if data.seed == seed:
        return dataset
    train, val = hold_out(joined(dataset.train, dataset.val), data.validation_per_class, data.seed)
    return replace(dataset, train=train, val=val)


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise ValueError("no zip archive, or an incomplete one")
    with zipfile.ZipFile(path) as packed:
        if any(member.compress_type != zipfile.ZIP_STORED for member in packed.infolist()):
            raise ValueError("compressed, which `save` never does, so it could unpack to any size")
    with np.load(path, allow_pickle=False) as archive:
        return {key: archive[key] for key in archive.files}


def _check_keys(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    expected = [f"{part}_{kind}" for part in PARTS for kind in ("images", "labels")] + ["classes"]
    if sorted(arrays) != sorted(expected):
        found = ", ".join(sorted(map(repr, arrays))) or "nothing"
        raise DataError(f"{path}: found the arrays {found}, expected {', '.join(expected)}; {NEXT}")


def _checked(path: Path, arrays: Mapping[str, np.ndarray], part: str, classes: int) -> Split:
    images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != SHAPE:
        raise DataError(f"{path}: {part}_images: found {_kind(images)}, expected uint8 of shape (N, 3, 32, 32); {NEXT}")
    kind = as_labels([], classes).dtype
    if labels.dtype != kind or labels.shape != images.shape[:1]:
        expected = f"{kind} of shape ({len(images)},)"
        raise DataError(f"{path}: {part}_labels: found {_kind(labels)}, expected {expected}; {NEXT}")
    if not len(labels):
        raise DataError(f"{path}: {part}_images: found no image, expected at least one; {NEXT}")
    if labels.max() >= classes:
        raise DataError(f"{path}: {part}_labels: found label {labels.max()}, expected 0 to {classes - 1}; {NEXT}")
    return Split(images, labels)


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {array.shape}"


def prepare(
    data: config.Data,
    target: Path,
    sources: Sequence[Source] | None = None,
    report: Callable[[str], None] = print,
    *,
    expected: Expected = CIFAR100,
    cache: Path = CACHE,
) -> None:
    """Make the file `target` as `data` says: read or generate the images, hold validation out, save.

    `sources`, where given, replace `data.sources`; `report` is called with each line for the user. Raises `DataError`
    and leaves `target` as it was if no source holds images of the `expected` content, or of that which `data` records.
    """
    chosen = data.sources if sources is None else sources
    if data.own:
        train, test, classes = own_images.recorded(data.own, chosen, cache, report)
    elif data.set == "generated":
        size = data.generated
        train, test, classes = synthetic.generate(size.classes, size.train_per_class, size.test_per_class, data.seed)
    else:
        train, test = read_first(chosen, expected, cache, report)
        classes = CLASSES
    kept, held = hold_out(train, data.validation_per_class, data.seed)
    save(target, Dataset(kept, held, canonical(test), classes))
    report(f"{target}: {len(kept):,} training, {len(held):,} validation and {len(test):,} test images")
