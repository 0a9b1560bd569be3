"""Errors that a user can mend: shown as one line, never as a traceback."""

from __future__ import annotations

import errno


class UserError(Exception):
    """What is wrong, what was expected, and the next step, in one line; `exit_code` is the command's."""

    exit_code = 1


FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when a disk or a user's share of it is full."""


def line(error: Exception) -> str:
    """Say in one line what went wrong, and for a full disk the next step."""
    if not isinstance(error, OSError):
        return str(error)
    room = "; make room, then run the same command to resume" if error.errno in FULL else ""
    return f"{error.filename or 'system'}: {error.strerror or error}{room}"
