"""Several trainings in one thread: each hands work to the device and then gives way to the others.

A task is a generator that yields a mark whenever it has handed over enough work, and runs again once the device has
reached the mark. While no task can run, the thread sleeps until the device reaches the mark that is expected first.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from vanishing.errors import UserError
from vanishing.training import streams
from vanishing.training.streams import Mark, Slot


class Interrupted(UserError):
    """The process was told to stop; what was under way is saved."""

    def __init__(self, signal_number: int, state: str, again: str = "the same command") -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}, {state}; run {again} to resume")
        self.exit_code = 128 + signal_number


class Task(Protocol):
    """What takes turns with others."""

    def proceed(self, slot: Slot) -> Generator[Mark, None, object]:
        """Do all of the work in the streams of `slot`; yield marks to wait for."""

    def save(self) -> None:
        """Save what has been done so far; called between two turns, and perhaps before the first."""


@dataclass(frozen=True)
class End:
    """Why `run` ended."""

    saved: Sequence[Task]
    """Tasks that had begun and are not done."""
    signal: int | None = None
    """SIGINT or SIGTERM, if one of them ended it."""


class _Running:
    """A task under way."""

    def __init__(self, task: Task, slot: Slot) -> None:
        self.task, self.slot = task, slot
        self.turns = task.proceed(slot)
        self.mark = Mark()
        self.began = time.monotonic()
        self.interval = 0.0

    @property
    def expected(self) -> float:
        """When the device will reach the mark, if this turn takes as long as the one before."""
        return self.began + self.interval

    def take_turn(self) -> bool:
        """Let the task run until its next mark; return whether there is one."""
        now = time.monotonic()
        self.interval, self.began = now - self.began, now
        try:
            self.mark = next(self.turns)
        except StopIteration:
            return False
        return True


def run(choose: Callable[[Sequence[Task]], Task | None], at_once: int, until: float = float("inf")) -> End:
    """Let tasks take turns until all are done, a signal arrives or the time is up; save those that are not done.

    Args:
        choose: called with the tasks under way whenever a slot is free; returns the task to begin, or None for none
            now. `run` ends when it returns None while nothing is under way.
        at_once: number of slots.
        until: time of the monotonic clock at which to stop.
    """
    slots, active = streams.slots(at_once), list[_Running]()
    with _signals() as caught, contextlib.ExitStack() as ending:
        while True:
            while slots and not caught and (task := choose([each.task for each in active])):
                active.append(_Running(task, slots.pop()))
                ending.callback(active[-1].turns.close)
            if not active or caught or time.monotonic() >= until:
                _save(active)
                return End([each.task for each in active], caught[0] if caught else None)
            _take_turn(active, slots)


def _take_turn(active: list[_Running], slots: list[Slot]) -> None:
    """Let the task that can run first have a turn, and move it to the end of the queue or free its slot."""
    one = next((each for each in active if each.mark.query()), None)
    if one is None:
        one = min(active, key=lambda each: each.expected)
        one.mark.synchronize()
    active.remove(one)
    try:
        more = one.take_turn()
    except Exception:
        with contextlib.suppress(Exception):  # the error above says more
            _save(active)
        raise
    if more:
        active.append(one)
    else:
        slots.append(one.slot)


def _save(active: Sequence[_Running]) -> None:
    """Save every task; then raise the first error, if any."""
    errors = []
    for each in active:
        try:
            each.task.save()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list instead of dying of them."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
