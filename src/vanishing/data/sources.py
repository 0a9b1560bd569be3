"""CIFAR-100 from the first source that holds it: an address, a local archive or a directory.

The hash of the images is compared with that of the published data set, so a mirror needs no trust.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vanishing import files
from vanishing.config import Address
from vanishing.data import archives, cifar100, downloads, layouts
from vanishing.data.archives import SourceError
from vanishing.data.cifar100 import Expected
from vanishing.data.records import DataError, Split, content_hash

CACHE = Path(".vanishing") / "downloads"
"""Folder of downloads, finished and unfinished."""


ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")

Source = str | Path | Address
Report = Callable[[str], None]


def read_first(sources: Sequence[Source], expected: Expected, cache: Path, report: Report) -> tuple[Split, Split]:
    """Return the training and test images of the first source whose content is `expected`.

    `report` is called with a line for each source that fails. If all do, `DataError` names them in one line.
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
    """Return the training and test images of a local archive or directory, unchecked; raises `SourceError`."""
    try:
        path.stat()
        if not (path.is_file() or path.is_dir()):
            raise SourceError("neither a file nor a directory")
        official = path.is_file() and files.sha256(path) == cifar100.OFFICIAL_ARCHIVE
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
    """Yield each source as a path or address, with the archives in a directory before the directory."""
    for source in sources:
        if isinstance(source, Address):
            yield source
        elif isinstance(source, str) and source.startswith(("http://", "https://")):
            yield Address(url=source)
        else:
            yield from _archives_in(Path(source))
            yield Path(source)


def _printable(name: str) -> str:
    """Return a user's name of a file in one printable line."""
    return name if name.isprintable() and len(name) <= 200 else f"{name[:200]!r}"


def _archives_in(path: Path) -> list[Path]:
    try:
        return sorted(each for each in path.iterdir() if each.name.endswith(ARCHIVE_SUFFIXES))
    except (OSError, ValueError):  # no directory; `read` says what else is wrong with it
        return []


def _read(source: Path | Address, expected: Expected, cache: Path, report: Report) -> tuple[Split, Split]:
    if isinstance(source, Path):
        return _checked(read(source, report), expected)
    path = downloads.fetch(source.url, source.sha256, cache, report)
    try:
        return _checked(read(path, report), expected)
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
