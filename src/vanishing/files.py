"""Files that are either whole or not there, and their hashes."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vanishing import locks
from vanishing.errors import UserError

RESULT_BYTES = 64 << 20
"""A file of results larger than this is refused unread; the largest of the study has 0.2 MB."""

FILE_BYTES = 8 << 30
"""A file larger than this is not hashed; the largest data set that `params.yaml` allows has 6 GB."""

LEFT = 24 * 3600.0
"""Seconds after which a temporary file is a killed writer's, where no lock tells: on a file system without `flock`."""

TEXT = frozenset({
    ".bib", ".css", ".csv", ".html", ".ipynb", ".js", ".json", ".md", ".mplstyle", ".py", ".rst", ".sha256", ".smk",
    ".tex", ".yaml",
})  # fmt: skip
"""Endings of the text that git may convert."""


@contextlib.contextmanager
def replacing(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the name `path` when the block ends well, and goes when it does not.

    The name beside `path` is unique, so that two writers never share one, and the bytes are on the disk
    before the name is: a reader sees the old file or the new one, whatever happens. The umask, or the default ACL
    of the folder, says who may read and write it. What killed writers of `path` have left is removed. A file that is
    not `durable` may be lost with the machine's power, and nobody waits for the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _errors_of(path):
        _sweep(path)
        descriptor, temporary = _temporary(path)
        try:
            with os.fdopen(descriptor, "wb") as handle:
                yield handle
                if durable:
                    handle.flush()
                    os.fsync(handle.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Have errors of the system name the file that is wanted: a full disk is told by the write, which knows none."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _temporary(path: Path) -> tuple[int, Path]:
    """Open a temporary file for `path`, locked for as long as it is open."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        locks.flock(descriptor)
        if os.fstat(descriptor).st_nlink:
            return descriptor, temporary
        os.close(descriptor)  # swept by another writer before it was locked


def _sweep(path: Path) -> None:
    """Remove the temporary files of `path` whose writers are no more: nobody locks them."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'[a-z0-9_]' * 8}"):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            descriptor = os.open(left, os.O_RDWR)  # NFS locks nothing that is open for reading alone
            try:
                free = locks.flock(descriptor)
                if free or (free is None and time.time() - os.fstat(descriptor).st_mtime > LEFT):
                    left.unlink()
            finally:
                os.close(descriptor)


def write(path: Path, content: bytes | str, durable: bool = True) -> None:
    """Write `content` (text as UTF-8) to `path`, whole or not at all; see `replacing`."""
    with replacing(path, durable) as handle:
        handle.write(content.encode() if isinstance(content, str) else content)


def write_if_changed(path: Path, content: bytes | str) -> bool:
    """Write a file unless it has this content already, so that it keeps its time; return whether it was written."""
    wanted = content.encode() if isinstance(content, str) else content
    if path.exists() and path.read_bytes() == wanted:
        return False
    write(path, wanted)
    return True


def check_plain(path: Path, most: int) -> None:
    """Raise `UserError` unless `path` is a regular file, of at most `most` bytes: a pipe or device may have no end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path}: not a regular file; delete it and build it again")
    if status.st_size > most:
        raise UserError(f"{path}: larger than {most:,} bytes; delete it and build it again")


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file's bytes, in hexadecimal; `UserError` if it is not a regular file."""
    return digest(path, "sha256")


def digest(path: Path, algorithm: str) -> str:
    """Return the `sha256` or `md5` of the file's content, in hexadecimal; `UserError` if it is not a regular file.

    Text has the hash that it has with line feeds, however git or an editor has ended its lines.
    """
    check_plain(path, FILE_BYTES)
    if _is_text(path):
        return hashlib.new(algorithm, content(path), usedforsecurity=False).hexdigest()
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def content(path: Path) -> bytes:
    """Return the bytes of a file, those of text with line feeds alone, as it was written."""
    found = path.read_bytes()
    return found.replace(b"\r\n", b"\n") if _is_text(path) else found


def _is_text(path: Path) -> bool:
    return path.suffix in TEXT or path.name in ("Snakefile", ".latexmkrc")
