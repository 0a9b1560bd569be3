"""Labelled images as a set: their canonical order, the hash of their content, and a validation share.

An image and its label are one record: a byte for the label, or two where there are more than 256 classes, then the
3,072 bytes of the image, channels first. The sorted records identify a set, whatever archive or order they came in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vanishing.config.block import IMAGE_SIZE
from vanishing.errors import UserError

if TYPE_CHECKING:
    from vanishing import config

SHAPE = (3, IMAGE_SIZE, IMAGE_SIZE)
"""Channels (red, green, blue), height and width of an image."""

IMAGE_BYTES = 3 * IMAGE_SIZE * IMAGE_SIZE

PARTS = ("train", "val", "test")
"""The splits of a data set, in the order of its file."""

NEXT = "run `vanishing data`"

Bytes = NDArray[np.uint8]

Labels = NDArray[np.uint8] | NDArray[np.uint16]


class DataError(UserError):
    """The data cannot be used; the text is one line for the user."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images, uint8 of shape (N, 3, 32, 32), and their labels, of shape (N,) and the type of `as_labels`."""

    images: Bytes
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test images; `classes[label]` is the name of a label."""

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]


def as_labels(numbers: Sequence[int], classes: int) -> Labels:
    """Return labels as an array: uint8 for up to 256 classes, uint16 for more."""
    return np.array(numbers, np.uint8) if classes <= 256 else np.array(numbers, np.uint16)


def check(dataset: Dataset, data: config.Data) -> None:
    """Raise `DataError` unless `dataset` has the classes, and the images in each split, that `data` describes."""
    expected = (data.classes, *data.sizes)
    found = (len(dataset.classes), *(len(getattr(dataset, part).labels) for part in PARTS))
    if found != expected:
        names = "classes, training, validation and test images"
        raise DataError(f"{data.path}: {names}: found {found}, and the parameters say {expected}; {NEXT}")


def canonical(split: Split) -> Split:
    """Sort by label, then by the 3,072 bytes of the image."""
    return _split(_sorted(_records(split)))


def content_hash(split: Split) -> str:
    """Return the SHA-256 of the sorted records, in hexadecimal: the same for every order of the images."""
    return hashlib.sha256(_sorted(_records(split)).data).hexdigest()


def digest(train: Split, test: Split, classes: Sequence[str]) -> str:
    """Return the SHA-256 of a whole set, in hexadecimal: of the names of its classes, a line each, and both splits.

    With the validation split it decides every byte of the file that `vanishing data` makes.
    """
    found = hashlib.sha256("".join(f"{name}\n" for name in classes).encode())
    for split in (train, test):
        found.update(_sorted(_records(split)).data)
    return found.hexdigest()


def hold_out(split: Split, per_class: int | Sequence[int], seed: int) -> tuple[Split, Split]:
    """Set `per_class` images of each class aside: return what stays for training, and those for validation.

    `per_class` is a number for all classes, or one for each label.

    Of each class, the images with the smallest SHA-256(seed in 8 bytes, big endian, then the record) are held out, so
    that the choice depends on content and seed alone, not on a generator's version or on the order. Both results are
    in canonical order. Raises `DataError` if a class would have no image left for training.
    """
    records = _sorted(_records(split))
    labels = _split(records).labels
    salt = seed.to_bytes(8, "big")
    draws = np.array([hashlib.sha256(salt + record.tobytes()).digest() for record in records], dtype="V32")
    held = np.zeros(len(records), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        wanted = per_class if isinstance(per_class, int) else per_class[label]
        if len(members) <= wanted:
            raise DataError(
                f"data.validation_per_class = {wanted}: class {label} has only {len(members)} images; "
                "allowed: fewer than that"
            )
        held[members[np.argsort(draws[members], kind="stable")[:wanted]]] = True
    return _split(records[~held]), _split(records[held])


def joined(one: Split, other: Split) -> Split:
    """Concatenate two splits, `one` first."""
    return Split(np.concatenate([one.images, other.images]), np.concatenate([one.labels, other.labels]))


def _records(split: Split) -> Bytes:
    """Lay labels, the higher byte first, and images side by side: (N, 3073) or (N, 3074)."""
    kind = split.labels.dtype
    labels = split.labels.astype(kind.newbyteorder(">")).view(np.uint8).reshape(len(split), kind.itemsize)
    records = np.concatenate([labels, split.images.reshape(len(split), IMAGE_BYTES)], axis=1)
    return np.ascontiguousarray(records)  # images stored by columns would give records stored by columns


def _sorted(records: Bytes) -> Bytes:
    # numpy compares void values as unsigned bytes, from the first to the last
    keys = records.view(f"V{records.shape[1]}")[:, 0]
    return records[np.argsort(keys, kind="stable")]


def _split(records: Bytes) -> Split:
    width = records.shape[1] - IMAGE_BYTES
    images = np.ascontiguousarray(records[:, width:]).reshape(len(records), *SHAPE)
    labels = np.ascontiguousarray(records[:, :width]).view(f">u{width}")[:, 0]
    return Split(images, labels.astype(labels.dtype.newbyteorder("=")))
