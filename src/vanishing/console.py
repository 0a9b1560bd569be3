"""What users read on the terminal: lines, tables, durations, and the progress of a long job."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Self

from tqdm import tqdm

LINE_EVERY = 10.0
"""Seconds between two plain lines of progress."""


def say(text: str) -> None:
    """Print a line for the user, above a progress bar where there is one."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def aligned(rows: Sequence[Sequence[str]], gap: int = 1) -> str:
    """Lay out rows in columns `gap` spaces apart, the first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join((" " * gap).join(cells) for cells in lines)


def counted(number: int, noun: str) -> str:
    """Write a number of things: 1 training, 3 trainings."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Write an estimated duration with two digits: 45 s, 3.3 min, 1.2 h, 110 h."""
    if seconds == float("inf"):
        return "unknown time"
    divisor, unit = (1, "s") if seconds < 90 else (60, "min") if seconds < 5400 else (3600, "h")
    return f"{float(f'{seconds / divisor:.2g}'):g} {unit}"


class Progress:
    """Progress of a job, with its rate and the time left: a bar on a terminal, plain lines everywhere else.

    Args:
        title: of the job.
        total: steps in all.
        done: steps that an earlier start has done.
        unit: of the steps, in a few letters.
    """

    def __init__(self, title: str, total: int, done: int = 0, unit: str = "it") -> None:
        self.title, self.total, self.unit = title, total, unit
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            desc=title, total=total, initial=done, unit=unit, disable=not self._terminal, dynamic_ncols=True
        )
        self._done = self._done_at_start = done
        self._started = self._told = time.monotonic()
        self._latest = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._bar.close()

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more."""
        self._done += steps
        self._bar.update(steps)
        if not self._terminal and time.monotonic() - self._told >= LINE_EVERY:
            self._tell()

    def show(self, text: str) -> None:
        """Show `text`, the latest results, beside the count from now on; without a terminal, print a line at once."""
        self._latest = text
        self._bar.set_postfix_str(text, refresh=False)
        if not self._terminal:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        rate = (self._done - self._done_at_start) / max(self._told - self._started, 1e-9)
        left = (self.total - self._done) / rate if rate else float("inf")
        parts = [f"{self.title}: {self._done:,}/{self.total:,}", f"{rate:.1f} {self.unit}/s", f"{duration(left)} left"]
        say(", ".join([*parts, self._latest] if self._latest else parts))
