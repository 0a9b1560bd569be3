"""Files of a directory, tar or zip archive, as names and bytes; nothing is unpacked to the disk.

An archive may come from anywhere. It is refused, with the name of the member, where a member is not a regular file, has
a name that leads out of the archive, or is larger than `MEMBER_BYTES`.
"""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from vanishing.data.records import DataError

MEMBER_BYTES = 256 << 20
"""Limit of one file; the largest of CIFAR-100 in any layout takes 155 MB. A folder of own images has none."""

TOTAL_BYTES = 1 << 30
"""Limit of an unpacked archive, headers included; CIFAR-100 takes about 0.2 GB."""

MEMBERS = 200_000
"""Limit of the number of files; CIFAR-100 as single images takes 60,000. A folder of own images has none."""

DEPTH = 6
"""Levels of a directory that are searched: folders around the data set, then split, superclass, class, file."""

GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
"""The second begins an archive without members."""

ZIP_ENTRY = b"PK\x01\x02"
"""Begins the entry of each member in a zip archive's list of them."""

ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Of the others, a few bytes can unpack to gigabytes at once, before any limit is seen."""

BROKEN = (
    EOFError, ValueError, NotImplementedError, zlib.error, tarfile.TarError, gzip.BadGzipFile, zipfile.BadZipFile,
)  # fmt: skip
"""What reading a damaged archive raises."""

Wanted = Callable[[str], bool]


class SourceError(DataError):
    """A source does not hold the images that are looked for, or cannot be read; the text says why in one line."""


def members(path: Path, wanted: Wanted, own: bool = False) -> Iterator[tuple[str, bytes]]:
    """Yield (name relative to `path`, bytes) of each file in the directory or archive whose name is `wanted`.

    Names are in POSIX form. A directory of the user's `own` images may have any number of files, of any size. Raises
    `SourceError` where a file cannot be read or is refused.
    """
    kind = "tar"
    try:
        if path.is_dir():
            yield from _directory(path, wanted, own)
            return
        with path.open("rb") as raw:
            magic = raw.read(4)
            raw.seek(0)
            if magic in ZIP_MAGIC:
                kind = "zip"
                yield from _zip(raw, wanted)
            else:
                yield from _tar(gzip.GzipFile(fileobj=raw) if magic[:2] == GZIP_MAGIC else raw, wanted)
    except BROKEN as error:
        raise SourceError(f"no whole {kind} archive: {one_line(error)}") from None
    except OSError as error:
        where = f"{Path(error.filename).name!r} " if error.filename else ""
        raise SourceError(f"{where}cannot be read: {error.strerror or one_line(error)}") from None


def one_line(error: object) -> str:
    """Return the text of an error in one line of at most 200 characters, or its type where it has no text."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def _directory(root: Path, wanted: Wanted, own: bool) -> Iterator[tuple[str, bytes]]:
    for count, path in enumerate(_walk(root, DEPTH)):
        if count >= MEMBERS and not own:
            raise SourceError(f"more than {MEMBERS:,} files; name the folder of the data set itself")
        name = path.relative_to(root).as_posix()
        if not wanted(name):
            continue
        if not path.is_file():
            raise SourceError(f"{name!r} is not a regular file")
        if not own:
            _check_size(name, path.stat().st_size)
        yield name, path.read_bytes()


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Yield what is no folder, ordered by name; links are followed, since the directory is the user's own."""
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if not entry.is_dir():
            yield Path(entry.path)
        elif depth > 1 and not entry.name.startswith("."):
            yield from _walk(Path(entry.path), depth - 1)


def _tar(unpacked: IO[bytes] | gzip.GzipFile, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    stream = _Limited(unpacked)
    # "r|" reads forward only, so that headers count towards the limit too, whatever size they declare
    with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
        for count, member in enumerate(archive):
            if count >= MEMBERS:
                raise SourceError(f"refused: more than {MEMBERS:,} members")
            _check_member(member.name, member.size, (member.isdir() or member.isreg()) and not member.issparse())
            content = archive.extractfile(member) if member.isreg() and wanted(_plain(member.name)) else None
            if content is not None:
                yield _plain(member.name), content.read()
    stream.drain()


def _zip(raw: IO[bytes], wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    # counted before the list is read, which takes a hundred times its size in memory
    if sum(part.count(ZIP_ENTRY) for part in iter(partial(raw.read, 1 << 20), b"")) > MEMBERS:
        raise SourceError(f"refused: more than {MEMBERS:,} members")
    with zipfile.ZipFile(raw) as archive:
        members = archive.infolist()
        for member in members:
            _check_member(member.orig_filename, member.file_size, _is_regular(member))
        if sum(member.file_size for member in members) > TOTAL_BYTES:
            raise SourceError(f"refused: unpacks to more than the limit of {TOTAL_BYTES:,} bytes")
        for member in members:
            if not member.is_dir() and wanted(_plain(member.filename)):
                yield _plain(member.filename), _unpacked(archive, member)


def _is_regular(member: zipfile.ZipInfo) -> bool:
    """Whether a zip member is a file or folder: Unix keeps the kind above the attributes of DOS, others write 0."""
    return stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """Return a member's bytes, at most as many as it declares; a wrong size or checksum is no whole archive."""
    if member.flag_bits & 1:
        raise SourceError(f"refused: the member {member.filename!r} is encrypted")
    if member.compress_type not in ZIP_METHODS:
        method = f"method {member.compress_type}"
        raise SourceError(f"refused: the member {member.filename!r} is packed by {method}; pack it by deflate")
    return archive.read(member)


def _check_member(name: str, size: int, regular: bool) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise SourceError(f"refused: the member {name!r} leads out of the archive")
    if not regular:
        raise SourceError(f"refused: the member {name!r} is not a regular file")
    _check_size(name, size)


def _check_size(name: str, size: int) -> None:
    if not 0 <= size <= MEMBER_BYTES:
        raise SourceError(f"refused: {name!r} says it has {size:,} bytes; the limit is {MEMBER_BYTES:,}")


def _plain(name: str) -> str:
    """Drop the leading `./` that many programs write."""
    return PurePosixPath(name).as_posix()


class _Limited:
    """A stream of at most `TOTAL_BYTES`: a small archive can unpack to a thousand times its size."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile) -> None:
        self._stream = stream
        self._given = 0

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        self._given += len(content)
        if self._given > TOTAL_BYTES:
            raise SourceError(f"refused: unpacks to more than the limit of {TOTAL_BYTES:,} bytes")
        return content

    def drain(self) -> None:
        """Read to the end, so that gzip's checksum is compared."""
        while self.read(1 << 20):
            pass
