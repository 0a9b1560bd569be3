"""Several trainings in one thread: each hands work to the device and makes way for the others.

A task is a generator that yields a mark whenever it has handed enough over, and is resumed once the device has come
there. Where none can go on, the thread sleeps until the device reaches the mark that is expected first.
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
        super().__init__(f"stopped by {signal.Signals(signal_number).name}, {state}; {again} goes on")
        self.exit_code = 128 + signal_number


class Task(Protocol):
    """What takes turns with others."""

    def proceed(self, slot: Slot) -> Generator[Mark, None, None]:
        """Do everything, in the streams of `slot`; yield marks to wait for."""

    def save(self) -> None:
        """Save what has been done, between two turns."""


@dataclass(frozen=True)
class End:
    """Why `run` ended."""

    saved: Sequence[Task]
    """Tasks that had begun and are not done."""
    signal: int | None = None
    """SIGINT or SIGTERM, if it was that."""


class _Turns:
    """A task under way."""

    def __init__(self, task: Task, slot: Slot) -> None:
        self.task, self.slot = task, slot
        self.turns = task.proceed(slot)
        self.mark = Mark()
        self.resumed = time.monotonic()
        self.interval = 0.0

    @property
    def expected(self) -> float:
        """When the device will have reached the mark, if this turn takes as long as the one before."""
        return self.resumed + self.interval

    def resume(self) -> bool:
        """Let the task have its turn; return whether that was not its last."""
        now = time.monotonic()
        self.interval, self.resumed = now - self.resumed, now
        try:
            self.mark = next(self.turns)
        except StopIteration:
            return False
        return True


def run(choose: Callable[[Sequence[Task]], Task | None], at_once: int, until: float = float("inf")) -> End:
    """Let tasks take turns until all are done, until a signal, or until the time is up; the rest is saved.

    Args:
        choose: is given the tasks under way whenever there is room for one more, and returns one to begin; None for
            none now. The end comes when it gives none while nothing is under way.
        at_once: so many tasks may be under way.
        until: time by the monotonic clock at which to save what is under way.
    """
    slots, active = streams.slots(at_once), list[_Turns]()
    with _signals() as caught, contextlib.ExitStack() as ending:
        ending.callback(_close, active)
        while True:
            while slots and not caught and (task := choose([each.task for each in active])):
                active.append(_Turns(task, slots.pop()))
            if not active:
                return End([], caught[0] if caught else None)
            if caught or time.monotonic() >= until:
                _save(active)
                return End([each.task for each in active], caught[0] if caught else None)
            one = next((each for each in active if each.mark.done()), None)
            if one is None:
                one = min(active, key=lambda each: each.expected)
                one.mark.wait()
            active.remove(one)
            try:
                more = one.resume()
            except Exception:
                with contextlib.suppress(Exception):  # the other one says more
                    _save(active)
                raise
            if more:
                active.append(one)
            else:
                slots.append(one.slot)


def _save(active: Sequence[_Turns]) -> None:
    """Save every task; then raise what the first that could not be saved raised."""
    errors = []
    for each in active:
        try:
            each.task.save()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _close(active: Sequence[_Turns]) -> None:
    for each in active:
        each.turns.close()


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
