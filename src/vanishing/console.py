"""Progress of a long job: a bar on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

LINE_EVERY = 10.0
"""Seconds between two plain lines."""


def say(text: str) -> None:
    """Print a line for the user, above a bar where there is one."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


class Progress:
    """Count a job's steps with their rate and the time left.

    Args:
        title: what is under way.
        total: steps in all.
        done: steps that an earlier start has done.
        unit: what a step is, in a few letters.
    """

    def __init__(self, title: str, total: int, done: int = 0, unit: str = "it") -> None:
        self.title, self.total, self.unit = title, total, unit
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            desc=title, total=total, initial=done, unit=unit, disable=not self._terminal, dynamic_ncols=True
        )
        self._done = self._done_at_start = done
        self._started = self._told = time.monotonic()
        self._figures = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more."""
        self._done += steps
        self._bar.update(steps)
        if not self._terminal and time.monotonic() - self._told >= LINE_EVERY:
            self._tell()

    def figures(self, text: str) -> None:
        """Show `text`, the latest results, beside the count from now on; a line of its own off a terminal."""
        self._figures = text
        self._bar.set_postfix_str(text, refresh=False)
        if not self._terminal:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        rate = (self._done - self._done_at_start) / max(self._told - self._started, 1e-9)
        left = (self.total - self._done) / rate if rate else float("inf")
        parts = [f"{self.title}: {self._done:,}/{self.total:,}", f"{rate:.1f} {self.unit}/s", f"{duration(left)} left"]
        say(", ".join(parts + ([self._figures] if self._figures else [])))


def duration(seconds: float) -> str:
    """Write a duration as people read it: 45 s, 3 min 20 s, 2 h 5 min."""
    if seconds == float("inf"):
        return "unknown time"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{minutes} min {rest} s" if hours < 1 else f"{hours} h {minutes_left} min"
