"""Errors that a user can mend: shown as one line, never as a traceback."""

from __future__ import annotations

import errno
import os
from pathlib import Path


class UserError(Exception):
    """What is wrong, what was expected, and the next step, in one line; `exit_code` is the command's."""

    exit_code = 1


AGAIN = "run the same command to resume"
FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when a disk or a user's share of it is full."""


def line(error: Exception) -> str:
    """Say in one line what went wrong; for a full disk, or a file that its server no longer knows, the next step."""
    if not isinstance(error, OSError):
        return str(error)
    step = f"; make room{_of_what(error)}, then {AGAIN}" if error.errno in FULL else ""
    step = f"; {AGAIN}" if error.errno == errno.ESTALE else step  # NFS, after the server's file was replaced
    return f"{error.filename or 'system'}: {error.strerror or error}{step}"


def _of_what(error: OSError) -> str:
    """Say so where a disk has room for bytes, but has as many files as it can."""
    folder = next((path for path in Path(error.filename or ".").absolute().parents if path.is_dir()), Path())
    try:
        free = os.statvfs(folder)
    except OSError:  # which would hide the error that is being told
        return ""
    return " by deleting files, of which it takes no more" if free.f_files and not free.f_favail else ""
