"""CIFAR-100 from wherever it can be had: the first source that gives the right images.

A source is an address, a local archive, or a directory. Its content decides: the images are compared by
hash with those of the published data set, so that a mirror needs no trust.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vanishing import archives, downloads, files, layouts
from vanishing.archives import SourceError
from vanishing.parameters import Address
from vanishing.splits import DataError, Split, content_hash

CACHE = Path(".vanishing") / "downloads"
"""Where downloads are kept, finished or not."""

OFFICIAL_ARCHIVE = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
"""SHA-256 of cifar-100-python.tar.gz (169,001,437 bytes) as https://www.cs.toronto.edu/~kriz/cifar.html has it."""

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")

Source = str | Path | Address
Report = Callable[[str], None]


@dataclass(frozen=True)
class Expected:
    """Content hashes (`vanishing.splits.content_hash`) of the training and test images."""

    train: str
    test: str


CIFAR100 = Expected(
    train="37a2b72bd30f9438ff20798c661450f58f138c034f556846cd744a56bbb09967",
    test="b9ad4d741ee82873becf8846c246715e789a57766586a9677a8bbe26c8b30279",
)
"""The published data set: 50,000 and 10,000 images (Krizhevsky, Learning multiple layers of features, 2009)."""

# Fixed here and not read from the source: the label of each image is proven by the content hash, its name is
# not, and a much-used Parquet mirror spells label 26 'cra'.
CLASSES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
    """.split()  # noqa: SIM905 - a hundred quoted names read worse
)
"""Names of the labels 0 to 99, in the order of the official `meta` file, which is the alphabet's."""


def read_first(sources: Sequence[Source], expected: Expected, cache: Path, report: Report) -> tuple[Split, Split]:
    """Return the training and test images of the first source whose content is `expected`.

    `report` is given a line for each source that fails. Raises `DataError`, in one line that has them all,
    if none is left.
    """
    reasons = []
    for source in _expanded(sources):
        name = _printable(source.url if isinstance(source, Address) else str(source))
        try:
            splits = _read(source, expected, cache, report)
        except SourceError as error:
            reasons.append(f"{name}: {error}")
            report(reasons[-1])
        else:
            report(f"{name}: the images of CIFAR-100, by their content")
            return splits
    tried = "; ".join(reasons) or "data.sources is empty"
    raise DataError(
        f"no source gives CIFAR-100 ({tried}); next: put a copy, in any layout that the README lists, at one of "
        "these paths, or add a path or address to data.sources in params.yaml, and run `vanishing data`"
    )


def read(path: Path, report: Report) -> tuple[Split, Split]:
    """Return the training and test images of a local archive or directory, whatever they are.

    Raises `SourceError`.
    """
    try:
        path.stat()
        if not (path.is_file() or path.is_dir()):
            raise SourceError("neither a file nor a directory")
        official = path.is_file() and files.sha256(path) == OFFICIAL_ARCHIVE
    except FileNotFoundError:
        raise SourceError("not there") from None
    except ValueError:
        raise SourceError("no name of a file") from None
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}") from None
    if official:
        report(f"{path}: the official archive, byte for byte")
    return layouts.read(archives.members(path, layouts.claimed))


def _expanded(sources: Sequence[Source]) -> Iterator[Path | Address]:
    """Yield the sources with text read as path or address, and archives that lie in a directory before it."""
    for source in sources:
        if isinstance(source, Address):
            yield source
        elif isinstance(source, str) and source.startswith(("http://", "https://")):
            yield Address(url=source)
        else:
            yield from _archives_in(Path(source))
            yield Path(source)


def _printable(name: str) -> str:
    """Write a name in one line, whatever the user has called it."""
    return name if name.isprintable() and len(name) <= 200 else f"{name[:200]!r}"


def _archives_in(path: Path) -> list[Path]:
    try:
        return sorted(each for each in path.iterdir() if each.name.endswith(ARCHIVE_SUFFIXES))
    except (OSError, ValueError):  # no directory; whatever else is wrong with it shows when it is read
        return []


def _read(source: Path | Address, expected: Expected, cache: Path, report: Report) -> tuple[Split, Split]:
    if isinstance(source, Path):
        return _checked(read(source, report), expected)
    path = downloads.fetch(source.url, source.sha256, cache, report)
    try:
        return _checked(read(path, report), expected)
    except SourceError:
        # kept, it would be found again by every later run
        path.unlink(missing_ok=True)
        raise


def _checked(splits: tuple[Split, Split], expected: Expected) -> tuple[Split, Split]:
    for title, split, wanted in zip(("training", "test"), splits, (expected.train, expected.test), strict=True):
        found = content_hash(split)
        if found != wanted:
            raise SourceError(f"other images: {len(split):,} {title} images of hash {found}, expected {wanted}")
    return splits
