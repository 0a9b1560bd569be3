"""Outputs that DVC has hard-linked to its cache, made files of their own for Snakemake.

DVC makes what it links read-only (`cache.type hardlink`), and Snakemake refuses to replace a read-only file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path

from vanishing import files
from vanishing.engines import catalogue


def release() -> None:
    """Replace each output that is a read-only hard link by a copy with its time; the cache stays as it is.

    Folders need none of this: Snakemake may remove them, whatever is in them.
    """
    made = (output for stage in catalogue.STAGES for output in stage.outputs if not output.endswith("/"))
    for output in made:
        for path in Path().glob(output.format(**dict.fromkeys(catalogue.FIELDS, "*"))):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_nlink > 1 and not status.st_mode & stat.S_IWUSR:
                with contextlib.suppress(PermissionError):  # another user's; Snakemake says so if it is to be replaced
                    _copy(path, (status.st_atime_ns, status.st_mtime_ns))


def _copy(path: Path, times: tuple[int, int]) -> None:
    with path.open("rb") as source, files.replacing(path) as target:
        shutil.copyfileobj(source, target)
    os.utime(path, ns=times)
