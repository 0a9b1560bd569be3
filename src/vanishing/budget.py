"""A budget of time for trainings: what is begun within it, and when all that is under way has to be saved.

For rented machines, notebooks in the cloud and queues with limits. The time of a training alone comes from `plan`;
how much slower it is beside others, from those that are under way.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

from vanishing import plan
from vanishing.parameters import ParameterError
from vanishing.progress import duration, say

RESERVE = 10.0
"""Seconds before the limit in which states are written; an evaluation that is under way is waited for beside that."""

SETTLED = 2.0
"""Seconds of the same company after which the pace of trainings is taken from themselves."""

WORTH = 20.0
"""Seconds that must be left to begin what cannot end in time: below, start-up is most of it."""

UNITS = {"s": 1, "min": 60, "h": 3600}


class Job(Protocol):
    """What a budget has to know of a training."""

    name: str
    """Of its run."""
    entry: plan.Entry

    def remaining(self) -> float:
        """Return the share of it that is left to do."""


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
    limit = datetime.datetime.combine(now, clock)
    if limit <= now:
        limit += datetime.timedelta(days=1)
    return time.monotonic() + (limit - now).total_seconds()


class Budget(Generic[AnyJob]):
    """Chooses what to begin so that it ends in time.

    Args:
        jobs: all that are to be trained.
        limit: time of the monotonic clock by which all states must be saved.
    """

    def __init__(self, jobs: Sequence[AnyJob], limit: float) -> None:
        entries = {job.name: job.entry for job in jobs}
        made = plan.estimate(entries.values())
        for line in made.measurements:
            say(line)
        self.alone = {job: made.seconds[job.name] for job in jobs}
        """Seconds of a whole training by itself."""
        self.left = {job: job.remaining() for job in jobs}
        """Shares of the trainings that had to be done when the budget began."""
        test = max((made.seconds[name] * entry.test_share for name, entry in entries.items()), default=0.0)
        self.until = limit - RESERVE - test
        self._company: dict[AnyJob, tuple[float, float]] = {}
        say(f"time to train: {duration(max(0.0, self.until - time.monotonic()))}")

    def choose(self, waiting: Sequence[AnyJob], active: Sequence[AnyJob]) -> AnyJob | None:
        """Return what to begin now beside `active`: the first that can end in time without making another late.

        What cannot end in time is begun only if nothing is under way; what was begun earlier goes first.
        """
        time_left = self.until - time.monotonic()
        now, then = self._slowdown(active), 1.0
        if active:
            then = max(1.0, now * (len(active) + 1) / len(active))
            needed = [self.alone[job] * job.remaining() for job in active]
            if any(seconds * now <= time_left < seconds * then for seconds in needed):
                return None
        ordered = sorted(waiting, key=lambda job: self.left[job] == 1)
        fitting = (job for job in ordered if self.alone[job] * self.left[job] * then <= time_left)
        nothing_else = ordered[0] if ordered and not active and time_left > WORTH else None
        return next(fitting, nothing_else)

    def _slowdown(self, active: Sequence[AnyJob]) -> float:
        """Return how many times as long as alone trainings take now: as many as there are, until they have settled."""
        now = time.monotonic()
        if self._company.keys() != set(active):
            self._company = {job: (now, job.remaining()) for job in active}
        paces = [
            (now - since) / (self.alone[job] * (before - job.remaining()))
            for job, (since, before) in self._company.items()
            if now - since >= SETTLED and job.remaining() < before
        ]
        return sum(paces) / len(paces) if paces and len(paces) == len(active) else float(max(1, len(active)))
