"""The user's own images: class folders or Parquet files, of any size and mode, as a data set of 32 x 32 RGB images.

Pillow decodes. An image is turned as its EXIF data say, its middle square is cut out and resized to 32 x 32 pixels by
torchvision's `center_crop` and `resize`, bilinear and antialiased; an image of 32 x 32 pixels stays as it is. Both work
on Pillow's images here, in whole numbers and in one thread, so that neither the number of threads nor the kind of
processor changes a byte; another version of Pillow may decode JPEG otherwise, which the recorded hash then tells.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps, UnidentifiedImageError

from vanishing import config
from vanishing.config import IMAGE_SIZE, LATIN
from vanishing.console import Progress
from vanishing.data import layouts
from vanishing.data.archives import SourceError, members, one_line
from vanishing.data.records import Bytes, Split, as_labels, digest, hold_out, joined
from vanishing.data.sources import Report, Source, check_readable, first, place

FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".tif": "TIFF",
}
FORMATS[".tiff"] = "TIFF"
"""Pillow's names of the formats that are read, by the suffixes of files."""

PIXELS = 1 << 26
"""Limit of an image, 8192 x 8192: a file of a few kilobytes can unpack to gigabytes."""

MOST = 1 << 16
"""Classes that a label of two bytes can tell apart."""

TEST_SHARE = 5
"""One image in so many of a class is drawn for the test where the images come without a test set."""

SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of grey images that have values up to 65,535."""

TWELVE_BITS = 1 << 12
"""A grey image of 16 bits without any value from here on may hold one of 12 or of 8 bits, which is then too dark."""

HIDDEN = (".", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information")
"""How the names of what systems leave beside images begin."""

VALIDATION = re.compile(r"(?:^|/)val(?:id|idation)?[/.-]", re.IGNORECASE)
"""Found in the names of a validation set's images and tables."""


@dataclass(frozen=True)
class Own:
    """A user's images as they were read."""

    train: Split
    """Those of validation included."""
    test: Split
    classes: tuple[str, ...]
    drawn: bool
    """Whether the test images were drawn from the others."""
    notes: tuple[str, ...]
    """What the user should know of them, a line each."""

    @property
    def sha256(self) -> str:
        """What they are known by."""
        return digest(self.train, self.test, self.classes)


Label = tuple[int, str]
"""A class: its number, 0 for all where only names are known, and its name. In this order they are numbered."""


@dataclass
class _Found:
    """Images of a split as they are read: the pixels, (3, 32, 32), and the class of each."""

    images: list[Bytes] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)


def recorded(
    folder: config.Folder, sources: Sequence[Source], cache: Path, report: Report
) -> tuple[Split, Split, tuple[str, ...]]:
    """Return training images, test images and class names of the first source that holds the recorded images.

    Raises `DataError` if none does.
    """

    def checked(path: Path) -> Own:
        own = read(path, folder.seed or 0)
        if own.sha256 != folder.sha256:
            found = f"{len(own.train):,} training and {len(own.test):,} test images in {len(own.classes)} classes"
            raise SourceError(
                f"other images than data.folder records: {found} of SHA-256 {own.sha256}, recorded {folder.sha256}"
            )
        return own

    places = [place(source) for source in sources]
    advice = "put the recorded images back, or record other ones by `vanishing images PATH` (docs/own-images.md)"
    own = first(places, checked, f"data.folder ({folder.title})", advice, cache, report)
    for note in own.notes:
        report(note)
    return own.train, own.test, own.classes


def record(path: Path, seed: int, report: Report) -> config.Folder:
    """Read the images at `path` and return what `params.yaml` records of them; raises `SourceError`.

    Args:
        path: a folder or an archive.
        seed: of the test images, where they have to be drawn.
        report: is called with each line for the user.
    """
    own = read(path, seed)
    for note in own.notes:
        report(note)
    mean, std = scaling(own.train.images)
    if min(std) == 0:
        raise SourceError("every training image has one and the same value in a channel, so there is nothing to learn")
    train, test = (np.bincount(split.labels, minlength=len(own.classes)).tolist() for split in (own.train, own.test))
    if min(train) < config.FEWEST:
        few = f"the class {own.classes[train.index(min(train))]!r} has {min(train)}"
        raise SourceError(f"{few} training images; expected at least {config.FEWEST}, validation included")
    title = path.resolve().name.split(".")[0].replace("_", " ").strip()[:60]
    return config.Folder(
        title=title if title and re.match(LATIN, title) else "own images",
        sha256=own.sha256, train=train, test=test, seed=seed if own.drawn else None, mean=list(mean), std=list(std),
    )  # fmt: skip


def overlay_text(overlay: Mapping[str, Any]) -> str:
    """Write what `config.fitted` returns as YAML: the keys of `data` and of runs in a line each, other blocks too."""
    lines = []
    for block, content in overlay.items():
        lines.append(f"{block}:")
        lines += [f"  {key}: {config.inline(value)}" for key, value in content.items()]
    return "\n".join([*lines, ""])


def scaling(images: Bytes) -> config.Scaling:
    """Return means and population standard deviations by channel of values in 0-1, rounded to four decimals.

    They are sums of whole numbers until the last division, so that they depend neither on order nor on threads.
    """
    values = np.arange(256)
    mean, std = [], []
    for channel in range(3):
        counts = np.zeros(256, dtype=np.int64)
        for part in np.array_split(images, 64):  # each in memory as integers of 8 bytes
            counts += np.bincount(part[:, channel].ravel(), minlength=256)
        n, total, squares = (int((counts * power).sum()) for power in (1, values, values**2))
        mean.append(round(total / n / 255, 4))
        std.append(round((n * squares - total**2) ** 0.5 / n / 255, 4))
    return config.Scaling((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def read(path: Path, seed: int) -> Own:
    """Read class folders or Parquet files, in a folder or an archive.

    Args:
        path: of the folder or archive. Class folders are `train/CLASS/` and `test/CLASS/`, or `train/CLASS/` alone, or
            `CLASS/`; Parquet files are `train*` and `test*`, or `train*` alone, or any. Folders around them do not
            matter.
        seed: of the test images, where they have to be drawn.

    Raises:
        SourceError: in one line, with the name of the file or class.
    """
    check_readable(path)
    names = [name for name in _names(path) if not any(part.startswith(HIDDEN) for part in name.split("/"))]
    images, tables = ([name for name in names if _suffix(name) in kinds] for kinds in (FORMATS, (".parquet",)))
    if images and tables:
        raise SourceError(f"both images and Parquet files, such as {images[0]!r} and {tables[0]!r}; expected one kind")
    if not images and not tables:
        raise SourceError(f"no image in it; expected files of {', '.join(FORMATS)} in class folders, or Parquet files")
    notes = Counter[str]()
    if images:
        places = _places(images)
        _refuse_empty(path, places)
        found = _read_folders(path, places, notes)
    else:
        places = {name: (split, "") for name, split in _tables(tables).items()}
        found = _read_tables(path, places, notes)
    validation = {name for name in (*images, *tables) if name not in places and VALIDATION.search(name)}
    if validation:
        note = f"validation files, such as {min(validation)!r}, left out; validation is held out of train"
        notes[note] = len(validation)
    if others := [name for name in names if name not in places and name not in validation]:
        notes[f"other files, such as {others[0]!r}, left out"] = len(others)
    return _data_set(found, seed, notes)


def _names(path: Path) -> list[str]:
    """List the files of a folder or archive, without reading them."""
    names: list[str] = []

    def noted(name: str) -> bool:
        names.append(name)
        return False

    for _ in members(path, noted, own=True):
        pass
    return names


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _places(images: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return split and class of each image by its name, for those that lie in class folders."""
    found, roots = {}, set()
    for name in images:
        parts = PurePosixPath(name).parts
        at = next((place for place, part in enumerate(parts) if part in layouts.SPLITS), len(parts))
        if len(parts) - at > 3:
            raise SourceError(f"{name!r} lies deeper than {parts[at]}/CLASS/")
        if len(parts) - at == 3:
            found[name] = parts[at], _class_name(parts[-2])
            roots.add(parts[:at])
    if not found:
        found = {name: ("train", _class_name(PurePosixPath(name).parts[-2])) for name in images if "/" in name}
        roots = {PurePosixPath(name).parts[:-2] for name in found}
    if not found:
        raise SourceError(f"{images[0]!r} lies in no class folder; expected train/CLASS/ and test/CLASS/, or CLASS/")
    if len(roots) > 1:
        one, other = sorted("/".join(root) or "." for root in roots)[:2]
        raise SourceError(
            f"class folders in {one!r} and in {other!r}; expected train/ and test/ in one folder, or all classes in one"
        )
    return found


def _class_name(folder: str) -> str:
    name = unicodedata.normalize("NFC", folder)
    if not name.isprintable():
        raise SourceError(f"the class {name!r} has a name that cannot be printed; rename its folder")
    return name


def _refuse_empty(path: Path, places: Mapping[str, tuple[str, str]]) -> None:
    """Raise `SourceError` for a class folder without an image; an archive lists files alone."""
    classes = {PurePosixPath(name).parent for name in places}
    for above in {each.parent for each in classes} if path.is_dir() else ():
        for folder in sorted((path / above).iterdir()):
            here = PurePosixPath(folder.relative_to(path))
            if folder.is_dir() and not folder.name.startswith(HIDDEN) and here not in classes:
                raise SourceError(f"the class folder {str(here)!r} has no image; fill it, or remove it")


def _read_folders(path: Path, places: Mapping[str, tuple[str, str]], notes: Counter[str]) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    with Progress(f"images of {path}", len(places), unit="image") as progress:
        for name, content in members(path, places.__contains__, own=True):
            split, label = places[name]
            part = found.setdefault(split, _Found())
            part.images.append(decode(name, content, notes))
            part.labels.append((0, label))
            progress.advance()
    return found


def _tables(names: Sequence[str]) -> dict[str, str]:
    """Return the split of each Parquet file: by its own name, else by a folder's, else of all that are alone."""
    found = {}
    for name in names:
        path = PurePosixPath(name)
        marks = [split for split in layouts.SPLITS if path.name.startswith(split) or split in path.parts[:-1]]
        if marks:
            found[name] = marks[0]
    return found or dict.fromkeys(names, "train")


def _read_tables(path: Path, places: Mapping[str, tuple[str, str]], notes: Counter[str]) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    with Progress(f"tables of {path}", len(places), unit="file") as progress:
        for name, content in members(path, places.__contains__, own=True):
            part = found.setdefault(places[name][0], _Found())
            try:
                for image, label in _Table(limited=not path.is_dir()).named_rows(name, content):
                    part.images.append(decode(f"{name}, row {len(part.images)}", image, notes))
                    part.labels.append(label)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise SourceError(f"{name!r}: no Parquet file of images: {one_line(error)}") from None
            progress.advance()
    return found


class _Table(layouts.Parquet):
    """A Parquet file as Hugging Face writes it: a column of images, and one of labels or of class names."""

    image_columns = ("image", "img", "jpg", "png")
    label_columns = ("label", "labels", "fine_label", "class")

    def check_labels(self, name: str, column: str, kind: pa.DataType) -> None:
        """Admit whole numbers and text."""
        if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise SourceError(f"{name!r}: the column {column!r} is {kind}, expected whole numbers or text")

    def named_rows(self, name: str, content: bytes) -> Iterator[tuple[Any, Label]]:
        """Yield each image with its class."""
        file = pq.ParquetFile(pa.BufferReader(content))
        names = _names_of_labels(file, self.column(name, file, self.label_columns))
        for image, label in self.rows(name, file):
            if label is None or (isinstance(label, int) and not 0 <= label < (len(names) or MOST)):
                raise SourceError(f"{name!r}: the label {label} belongs to no class")
            if isinstance(label, str):
                yield image, (0, _class_name(label))
            else:
                yield image, (label, _class_name(names[label] if names else str(label)))


def _names_of_labels(file: pq.ParquetFile, column: str) -> list[str]:
    """Return the names of the classes that Hugging Face notes in the file, none where there are none."""
    try:
        noted = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        names = noted["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def decode(name: str, content: Any, notes: Counter[str]) -> Bytes:
    """Return the pixels of an image, (3, 32, 32); `SourceError` names the file, and `notes` counts what was changed."""
    if not isinstance(content, bytes):
        raise SourceError(f"{name!r}: no image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here, and of details in metadata
            image = Image.open(io.BytesIO(content), formats=sorted(set(FORMATS.values())))
            if image.width * image.height > PIXELS:
                raise SourceError(
                    f"{name!r}: {image.width:,} x {image.height:,} pixels; the limit is {PIXELS:,} in all"
                )
            if min(image.size) < IMAGE_SIZE:
                notes["images with a side of less than 32 pixels, enlarged"] += 1
            elif image.size != (IMAGE_SIZE, IMAGE_SIZE):
                notes["images of another size, cut to their middle square and resized"] += 1
            if image.mode in SIXTEEN_BITS and np.asarray(image).max() < TWELVE_BITS:
                notes["grey images of 16 bits with values below 4,096 alone, dark unless you save them as 8 bits"] += 1
            return fit(image)
    except UnidentifiedImageError:
        kinds = ", ".join(sorted(set(FORMATS.values())))
        raise SourceError(f"{name!r}: no image that can be read; expected one of {kinds}") from None
    except Image.DecompressionBombError:
        raise SourceError(f"{name!r}: many more pixels than the limit of {PIXELS:,}") from None
    except SourceError:
        raise
    except Exception as error:  # a damaged image makes Pillow raise errors of many types
        raise SourceError(f"{name!r}: no image that can be read: {one_line(error)}") from None


def fit(image: Image.Image) -> Bytes:
    """Turn an image of any mode and size into pixels of red, green and blue, (3, 32, 32)."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    turned = ImageOps.exif_transpose(image)
    side = min(turned.size)
    square = functional.center_crop(turned, [side, side])
    resized = functional.resize(_rgb(square), [IMAGE_SIZE, IMAGE_SIZE], InterpolationMode.BILINEAR, antialias=True)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def _rgb(image: Image.Image) -> Image.Image:
    """Return an image in red, green and blue, over white where it is transparent."""
    if image.mode in SIXTEEN_BITS:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in {"F", "I"}:
        raise ValueError(f"grey values of 32 bits (mode {image.mode}) have no range; save them as 8 or 16 bits")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    return image.convert("RGB")


def _data_set(found: Mapping[str, _Found], seed: int, notes: Counter[str]) -> Own:
    """Number the classes, draw a test set where there is none, and count what should not be."""
    if "train" not in found:
        raise SourceError("test images alone, nothing of train")
    keys = sorted(set(found["train"].labels))
    classes = [name for _, name in keys]
    if not 2 <= len(classes) <= MOST:
        raise SourceError(f"number of classes: found {len(classes):,}, such as {classes[0]!r}, expected 2 to {MOST:,}")
    if len(set(classes)) < len(classes):
        raise SourceError("two labels have the same name; expected a name for each class")
    if "test" in found and (odd := sorted({*found["test"].labels} ^ {*keys})):
        raise SourceError(f"the class {odd[0][1]!r} is not in both train and test")
    numbers = {key: number for number, key in enumerate(keys)}
    parts = {name: _split(part, numbers) for name, part in found.items()}
    train, test = (parts["train"], parts["test"]) if "test" in parts else _draw(parts["train"], classes, seed)
    lines = [f"{note}: {count:,}" for note, count in notes.items()]
    return Own(train, test, tuple(classes), "test" not in parts, (*lines, *_repeated(train, test)))


def _split(found: _Found, numbers: Mapping[Label, int]) -> Split:
    return Split(np.stack(found.images), as_labels([numbers[label] for label in found.labels], len(numbers)))


def _draw(split: Split, classes: Sequence[str], seed: int) -> tuple[Split, Split]:
    """Draw a fifth of each class, at least one image, for the test; see `hold_out`."""
    counts = np.bincount(split.labels, minlength=len(classes)).tolist()
    if min(counts) < 2:
        raise SourceError(
            f"the class {classes[counts.index(min(counts))]!r} has one image, of which no test can be drawn"
        )
    return hold_out(split, [max(1, count // TEST_SHARE) for count in counts], seed)


def _repeated(train: Split, test: Split) -> Iterator[str]:
    """Yield a line if test images are training images too, and one if an image is in several classes."""
    known, tested = ([hashlib.sha256(image.tobytes()).digest() for image in part.images] for part in (train, test))
    seen = set(known)
    if shared := sum(image in seen for image in tested):
        yield (
            f"test images that are training images too, pixel by pixel: {shared:,} of {len(test):,}; the test accuracy "
            "is too high by what networks remember of them"
        )
    labels: dict[bytes, set[int]] = {}
    for image, label in zip([*known, *tested], joined(train, test).labels.tolist(), strict=True):
        labels.setdefault(image, set()).add(label)
    if several := sum(len(each) > 1 for each in labels.values()):
        yield f"images in more than one class: {several:,}"
