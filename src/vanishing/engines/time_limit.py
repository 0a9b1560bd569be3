"""A time limit for trainings: which of them to begin within it, and when to save what is under way.

For rented machines, notebooks in the cloud and queues with limits. The time of a training, alone and beside as many
others as may share the device, is estimated by `training.cost` before the first begins.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from vanishing.config import ParameterError
from vanishing.console import duration, say
from vanishing.training import cost

RESERVE = 10.0
"""Seconds before the limit for writing the states; the evaluation at the end of a training comes on top."""

WORTH = 20.0
"""Seconds that must be left to begin a training that cannot end in time: start-up would take most of fewer."""

LEAST = RESERVE + WORTH
"""Seconds of a limit below which nothing is begun, nor measured."""

UNITS = {"s": 1, "min": 60, "h": 3600}


class Job(Protocol):
    """What a budget has to know of a training."""

    name: str
    """Of its run."""
    entry: cost.Entry

    def remaining(self) -> float:
        """Return the share of its iterations that is left to do."""


AnyJob = TypeVar("AnyJob", bound=Job)


def parse(text: str) -> float:
    """Return the time of the monotonic clock that a user means: 540s, 9min or 1.5h from now on, or 17:30 o'clock.

    Raises:
        ParameterError: for anything else.
    """
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h)", text):
        return time.monotonic() + float(match[1]) * UNITS[match[2]]
    try:
        clock = datetime.time.fromisoformat(text)
    except ValueError:
        allowed = "a duration such as 540s, 9min or 1.5h, or a time of day such as 17:30"
        raise ParameterError(f"--until {text!r}: allowed: {allowed}") from None
    now = datetime.datetime.now()
    wait = datetime.datetime.combine(now, clock) - now
    return (
        time.monotonic() + (wait if wait > datetime.timedelta() else wait + datetime.timedelta(days=1)).total_seconds()
    )


class Budget(Generic[AnyJob]):
    """Chooses which training to begin so that it ends in time.

    Args:
        jobs: all that are to be trained.
        limit: time of the monotonic clock by which all states must be saved.
        at_once: trainings that may share the device.
    """

    def __init__(self, jobs: Sequence[AnyJob], limit: float, at_once: int) -> None:
        entries = {job.name: job.entry for job in jobs}
        self.most = max(1, min(at_once, len(jobs)))
        self.alone = cost.estimate(entries.values())
        self.beside = cost.estimate(entries.values(), at_once=self.most) if self.most > 1 else self.alone
        for line in dict.fromkeys(self.alone.measurements + self.beside.measurements):
            say(line)
        self.left = {job: job.remaining() for job in jobs}
        """Share of each training that was left before any began."""
        last = max((self.beside.seconds[name] * entry.last_share for name, entry in entries.items()), default=0.0)
        self.until = limit - RESERVE - last
        say(f"time to train: {duration(max(0.0, self.until - time.monotonic()))}")

    def seconds(self, job: AnyJob, share: float, active: int) -> float:
        """Return the seconds of a share of a training while `active` of them run, interpolated from alone to most."""
        alone, beside = self.alone.seconds[job.name], self.beside.seconds[job.name]
        return share * (alone + (beside - alone) * (active - 1) / max(1, self.most - 1))

    def choose(self, waiting: Sequence[AnyJob], active: Sequence[AnyJob]) -> AnyJob | None:
        """Return the training to begin beside `active`: the first that can end in time and makes none of them late.

        One that cannot end in time begins only if nothing under way can either. Those begun earlier go first.
        """
        time_left, count = self.until - time.monotonic(), len(active)
        in_time = [job for job in active if self.seconds(job, job.remaining(), count) <= time_left]
        if any(self.seconds(job, job.remaining(), count + 1) > time_left for job in in_time):
            return None
        ordered = sorted(waiting, key=lambda job: self.left[job] == 1)
        fitting = (job for job in ordered if self.seconds(job, self.left[job], count + 1) <= time_left)
        return next(fitting, ordered[0] if ordered and not in_time and time_left > WORTH else None)
