"""CIFAR-100 from wherever it can be had: the first source that gives the right images.

A source is an address, a local archive, or a directory. Its content decides: the images are compared by
hash with those of the published data set, so that a mirror needs no trust.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vanishing import files
from vanishing.config import Address
from vanishing.data import archives, downloads, layouts
from vanishing.data.archives import SourceError
from vanishing.data.cifar100 import Expected
from vanishing.data.records import DataError, Split, content_hash

CACHE = Path(".vanishing") / "downloads"
"""Where downloads are kept, finished or not."""

OFFICIAL_ARCHIVE = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
"""SHA-256 of cifar-100-python.tar.gz (169,001,437 bytes) as https://www.cs.toronto.edu/~kriz/cifar.html has it."""

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")

Source = str | Path | Address
Report = Callable[[str], None]


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
