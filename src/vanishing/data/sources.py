"""A data set from the first source that holds it: an address, a local archive or a directory.

The hash of the images is compared with that of CIFAR-100, or with the one recorded of the user's own, so a mirror needs
no trust.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from vanishing import files
from vanishing.config import Address
from vanishing.data import archives, cifar100, downloads, layouts
from vanishing.data.archives import SourceError
from vanishing.data.cifar100 import Expected
from vanishing.data.records import DataError, Split, content_hash

CACHE = Path(".vanishing") / "downloads"
"""Folder of downloads, finished and unfinished."""


ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")

T = TypeVar("T")

Source = str | Path | Address
Report = Callable[[str], None]


def read_first(sources: Sequence[Source], expected: Expected, cache: Path, report: Report) -> tuple[Split, Split]:
    """Return the training and test images of the first source whose content is `expected`.

    `report` is called with a line for each source that fails. If all do, `DataError` names them in one line.
    """
    advice = (
        "put a copy, in any layout that the README lists, at one of these paths, or add a path or address to "
        "data.sources in params.yaml"
    )
    return first(
        _expanded(sources), lambda path: _checked(read(path, report), expected), "CIFAR-100", advice, cache, report
    )


def first(
    places: Iterable[Path | Address], read: Callable[[Path], T], title: str, advice: str, cache: Path, report: Report
) -> T:
    """Return what `read` gives of the first place that it can read.

    Args:
        places: paths, and addresses of what is downloaded into `cache` first.
        read: raises `SourceError` where a place does not hold the images.
        title: of what is looked for.
        advice: what the user can do where no place has it.
        cache: folder of downloads.
        report: is called with a line for each place that fails.

    Raises:
        DataError: if all fail, with the reason for each.
    """
    reasons = []
    for source in places:
        name = _printable(source.url if isinstance(source, Address) else str(source))
        try:
            found = _read(source, read, cache, report)
        except SourceError as error:
            reasons.append(f"{name}: {error}")
            report(reasons[-1])
        else:
            report(f"{name}: the images of {title}, by their content")
            return found
    tried = "; ".join(reasons) or "data.sources is empty"
    raise DataError(f"no source gives {title} ({tried}); next: {advice}, and run `vanishing data`")


def read(path: Path, report: Report) -> tuple[Split, Split]:
    """Return the training and test images of a local archive or directory, unchecked; raises `SourceError`."""
    check_readable(path)
    if path.is_file() and files.sha256(path) == cifar100.OFFICIAL_ARCHIVE:
        report(f"{path}: the official archive, byte for byte")
    return layouts.read(archives.members(path, layouts.claimed))


def check_readable(path: Path) -> None:
    """Raise `SourceError` unless `path` is a file or directory that can be opened."""
    try:
        path.stat()
        if not (path.is_file() or path.is_dir()):
            raise SourceError("neither a file nor a directory")
        if path.is_file():
            path.open("rb").close()
    except FileNotFoundError:
        raise SourceError("not there") from None
    except ValueError:
        raise SourceError("not a valid file name") from None
    except OSError as error:
        raise SourceError(f"cannot be read: {error.strerror}") from None


def place(source: Source) -> Path | Address:
    """Return a source as a path or address."""
    if isinstance(source, Address):
        return source
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return Address(url=source)
    return Path(source)


def _expanded(sources: Sequence[Source]) -> Iterator[Path | Address]:
    """Yield each source as a path or address, with the archives in a directory before the directory."""
    for each in map(place, sources):
        if isinstance(each, Path):
            yield from _archives_in(each)
        yield each


def _printable(name: str) -> str:
    """Return a user's name of a file in one printable line."""
    return name if name.isprintable() and len(name) <= 200 else f"{name[:200]!r}"


def _archives_in(path: Path) -> list[Path]:
    try:
        return sorted(each for each in path.iterdir() if each.name.endswith(ARCHIVE_SUFFIXES))
    except (OSError, ValueError):  # no directory; `read` says what else is wrong with it
        return []


def _read(source: Path | Address, read: Callable[[Path], T], cache: Path, report: Report) -> T:
    if isinstance(source, Path):
        return read(source)
    path = downloads.fetch(source.url, source.sha256, cache, report)
    try:
        return read(path)
    except SourceError:
        # later runs would read it again
        path.unlink(missing_ok=True)
        raise


def _checked(splits: tuple[Split, Split], expected: Expected) -> tuple[Split, Split]:
    for title, split, wanted in zip(("training", "test"), splits, (expected.train, expected.test), strict=True):
        found = content_hash(split)
        if found != wanted:
            raise SourceError(f"other images: {len(split):,} {title} images of hash {found}, expected {wanted}")
    return splits
