"""The layouts in which copies of CIFAR-100 come, each read from the names and bytes of its files.

A layout claims files by their names, reads them one at a time, and returns training and test images at the end.
Neither order nor names nor packing enters the result: the content hash decides later whether the images are the
right ones.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from vanishing.config.block import IMAGE_SIZE
from vanishing.data import pickles
from vanishing.data.archives import MEMBERS, TOTAL_BYTES, SourceError, one_line
from vanishing.data.records import IMAGE_BYTES, SHAPE, Bytes, Split

CLASS_COUNT = 100
SPLITS = ("train", "test")

ROWS_AT_ONCE = 64
"""Rows of a Parquet file that are unpacked at a time."""

KNOWN = "the python layout, the binary layout, class folders of PNG images, or Parquet files"


class Layout:
    """What the layouts share: the images and labels read so far of each split."""

    title: str

    def __init__(self) -> None:
        self.parts: dict[str, list[tuple[Bytes, list[Any]]]] = {split: [] for split in SPLITS}

    @staticmethod
    def split_of(name: str) -> str | None:
        """Return the split that the file belongs to, None if the file is not of this layout."""
        raise NotImplementedError

    def read(self, name: str, content: bytes) -> tuple[Bytes, list[Any]]:
        """Return the file's images, (N, 3, 32, 32), and their labels; `SourceError` names the file."""
        raise NotImplementedError

    def index(self) -> Callable[[list[Any]], Bytes]:
        """Return the function from the layout's labels to their numbers, uint8."""
        return lambda labels: np.array(labels, dtype=np.uint8)

    def splits(self) -> tuple[Split, Split]:
        """Return training and test images; `SourceError` if a split is missing."""
        for split in SPLITS:
            if not self.parts[split]:
                raise SourceError(f"{self.title}, but nothing of the {split} split")
        index = self.index()
        train, test = (self._joined(split, index) for split in SPLITS)
        return train, test

    def _joined(self, split: str, index: Callable[[list[Any]], Bytes]) -> Split:
        images = np.concatenate([part for part, _ in self.parts[split]])
        return Split(images, index([label for _, labels in self.parts[split] for label in labels]))


class Python(Layout):
    """The official pickles `train` and `test`: rows of 3,072 bytes under `data`, numbers under `fine_labels`."""

    title = "the python layout"

    @staticmethod
    def split_of(name: str) -> str | None:
        """Claim files named `train` and `test`, in any folder."""
        base = PurePosixPath(name).name
        return base if base in SPLITS else None

    def read(self, name: str, content: bytes) -> tuple[Bytes, list[Any]]:
        """Read one pickle, without executing it."""
        images, labels = pickles.read(name, content)
        return images, _numbers(name, labels)


class Binary(Layout):
    """The official `train.bin` and `test.bin`: records of a coarse label, a fine label and 3,072 bytes."""

    title = "the binary layout"

    @staticmethod
    def split_of(name: str) -> str | None:
        """Claim files named `train.bin` and `test.bin`, in any folder."""
        path = PurePosixPath(name)
        return path.stem if path.suffix == ".bin" and path.stem in SPLITS else None

    def read(self, name: str, content: bytes) -> tuple[Bytes, list[Any]]:
        """Read one file of records."""
        size = 2 + IMAGE_BYTES
        if not content or len(content) % size:
            raise SourceError(f"{name!r}: found {len(content):,} bytes, expected records of {size:,} bytes each")
        records = np.frombuffer(content, np.uint8).reshape(-1, size)
        return records[:, 2:].reshape(-1, *SHAPE), _numbers(name, records[:, 1].tolist())


class Folders(Layout):
    """PNG images in `train/CLASS/` and `test/CLASS/`, or in `train/SUPERCLASS/CLASS/` and `test/SUPERCLASS/CLASS/`.

    Classes are numbered in alphabetical order, as in the official files.
    """

    title = "class folders"

    @staticmethod
    def split_of(name: str) -> str | None:
        """Claim PNG images two or three levels below the first folder `train` or `test`: a class is named train."""
        path = PurePosixPath(name)
        if path.suffix.lower() != ".png" or path.name.startswith("."):
            return None
        depth = next((place for place, part in enumerate(path.parts) if part in SPLITS), None)
        return None if depth is None or len(path.parts) - depth not in (3, 4) else path.parts[depth]

    def read(self, name: str, content: bytes) -> tuple[Bytes, list[Any]]:
        """Read one image."""
        return decode(name, content)[None], [PurePosixPath(name).parent.name]

    def index(self) -> Callable[[list[Any]], Bytes]:
        """Number the folders; training and test images must have the same hundred."""
        names = {split: sorted({labels[0] for _, labels in self.parts[split]}) for split in SPLITS}
        for split in SPLITS:
            if len(names[split]) != CLASS_COUNT:
                raise SourceError(f"{self.title}: found {len(names[split])} in {split}, expected {CLASS_COUNT}")
        odd = sorted(set(names["train"]) ^ set(names["test"]))
        if odd:
            raise SourceError(f"{self.title}: {odd[0]!r} is not in both train and test")
        numbers = {name: number for number, name in enumerate(names["train"])}
        return lambda labels: np.array([numbers[label] for label in labels], dtype=np.uint8)


class Parquet(Layout):
    """Files `train*.parquet` and `test*.parquet`: a column of PNG images and one of fine labels."""

    title = "Parquet files"
    image_columns: tuple[str, ...] = ("img", "image")
    label_columns: tuple[str, ...] = ("fine_label", "label")

    def __init__(self, limited: bool = True) -> None:
        super().__init__()
        self._limited = limited

    @staticmethod
    def split_of(name: str) -> str | None:
        """Claim Parquet files whose names begin with `train` or `test`."""
        path = PurePosixPath(name)
        found = (split for split in SPLITS if path.name.startswith(split))
        return next(found, None) if path.suffix.lower() == ".parquet" else None

    def read(self, name: str, content: bytes) -> tuple[Bytes, list[Any]]:
        """Read one file."""
        decoded: list[Bytes] = []
        labels: list[Any] = []
        try:
            for image, label in self.rows(name, pq.ParquetFile(pa.BufferReader(content))):
                decoded.append(decode(f"{name}, row {len(decoded)}", image))
                labels.append(label)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise SourceError(f"{name!r}: no Parquet file of images: {one_line(error)}") from None
        return np.stack(decoded) if decoded else np.empty((0, *SHAPE), np.uint8), _numbers(name, labels)

    def rows(self, name: str, file: pq.ParquetFile) -> Iterator[tuple[Any, Any]]:
        """Yield images and labels, a few rows at a time: one stored value can stand for a million rows."""
        if self._limited:
            _check_rows(name, file.metadata)
        image, label = (self.column(name, file, names) for names in (self.image_columns, self.label_columns))
        kind = file.schema_arrow.field(image).type
        packed = pa.types.is_struct(kind)
        if packed and kind.get_field_index("bytes") < 0:
            raise SourceError(f"{name!r}: the column {image!r} has no field 'bytes'")
        kind = kind.field("bytes").type if packed else kind
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise SourceError(f"{name!r}: the column {image!r} is {kind}, expected bytes of images")
        self.check_labels(name, label, file.schema_arrow.field(label).type)
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=[image, label]):
            images = batch.column(image)
            values = (images.field("bytes") if packed else images).to_pylist()
            yield from zip(values, batch.column(label).to_pylist(), strict=True)

    def check_labels(self, name: str, column: str, kind: pa.DataType) -> None:
        """Raise `SourceError` if the column of labels is of a type that cannot be read."""
        if not pa.types.is_integer(kind):
            raise SourceError(f"{name!r}: the column {column!r} is {kind}, expected integers")

    @staticmethod
    def column(name: str, file: pq.ParquetFile, allowed: tuple[str, ...]) -> str:
        """Return the column among `allowed` that the file has."""
        found = file.schema_arrow.names
        column = next((each for each in allowed if each in found), None)
        if column is None:
            raise SourceError(f"{name!r}: found the columns {found}, expected {' or '.join(allowed)} among them")
        return column


LAYOUTS = (Python, Binary, Folders, Parquet)


def _check_rows(name: str, metadata: pq.FileMetaData) -> None:
    unpacked = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    if unpacked > TOTAL_BYTES:
        raise SourceError(f"refused: {name!r} unpacks to {unpacked:,} bytes; the limit is {TOTAL_BYTES:,}")
    if metadata.num_rows > MEMBERS:
        raise SourceError(f"refused: {name!r} has {metadata.num_rows:,} rows; the limit is {MEMBERS:,}")


def claimed(name: str) -> bool:
    """Whether a file of that name belongs to a known layout."""
    return any(layout.split_of(name) for layout in LAYOUTS)


def read(files: Iterable[tuple[str, bytes]]) -> tuple[Split, Split]:
    """Return training and test images, in no particular order, of the first layout that is complete in `files`.

    Raises `SourceError` where a file is not what its name says, or no layout is complete.
    """
    found = [layout() for layout in LAYOUTS]
    for name, content in files:
        for layout in found:
            split = layout.split_of(name)
            if split:
                layout.parts[split].append(layout.read(name, content))
                break
    started = [layout for layout in found if any(layout.parts.values())]
    if not started:
        raise SourceError(f"nothing of CIFAR-100 in it; expected {KNOWN}")
    whole = (layout for layout in started if all(layout.parts.values()))
    return next(whole, started[0]).splits()


def decode(name: str, content: Any) -> Bytes:
    """Return the pixels of a PNG image, (3, 32, 32); `SourceError` if it is not 32 x 32 RGB.

    Pillow decodes: torchvision's decoder, deprecated since 0.29, ends the process on damaged pixels.
    """
    if not isinstance(content, bytes):
        raise SourceError(f"{name!r}: no image")
    try:
        with warnings.catch_warnings():
            # size and mode are refused below before any pixel is decoded, so Pillow need not warn of a large size
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=["PNG"])
        if (*image.size, image.mode) == (IMAGE_SIZE, IMAGE_SIZE, "RGB"):
            return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    except UnidentifiedImageError:  # its text is an address in memory
        raise SourceError(f"{name!r}: no PNG image") from None
    except Exception as error:  # a damaged image makes Pillow raise errors of many types
        raise SourceError(f"{name!r}: no PNG image: {one_line(error)}") from None
    found = f"{image.width} x {image.height} pixels of mode {image.mode}"
    raise SourceError(f"{name!r}: found {found}, expected {IMAGE_SIZE} x {IMAGE_SIZE} of mode RGB")


def _numbers(name: str, labels: list[Any]) -> list[Any]:
    for label in labels:
        if label is None or not 0 <= label < CLASS_COUNT:
            raise SourceError(f"{name!r}: found the label {str(label)[:20]}, expected 0 to {CLASS_COUNT - 1}")
    return labels
