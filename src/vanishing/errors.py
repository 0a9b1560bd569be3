"""Errors that a user can mend: shown as one line, never as a traceback."""

from __future__ import annotations


class UserError(Exception):
    """What is wrong, what was expected, and the next step, in one line; `exit_code` is the command's."""

    exit_code = 1
