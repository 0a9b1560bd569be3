"""The trainings of the pipeline, one or several at once on one device: from configuration to published results."""

from __future__ import annotations

import contextlib
import functools
import secrets
import shutil
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import torch

from vanishing import config, files, locks, paths
from vanishing.console import say
from vanishing.data import dataset, records
from vanishing.engines import progress
from vanishing.engines.time_limit import LEAST, Budget
from vanishing.errors import UserError, line
from vanishing.results import store, throughput
from vanishing.training import checkpoints, cost, devices, loop, models, round_robin
from vanishing.training.streams import Mark, Pause, Slot

NO_MEMORY = ("out of memory", "memory that it asked for", "unable to find an engine", "CUBLAS_STATUS_ALLOC_FAILED")
"""Messages of PyTorch, CUDA, cuDNN, which tries each of its algorithms, and cuBLAS when memory is short."""


class OutOfTime(UserError):
    """The time limit is reached; what was under way is saved."""

    exit_code = 124
    """That of timeout(1)."""


class Elsewhere(UserError):
    """Another process trains it now, perhaps on another machine."""

    exit_code = 75
    """EX_TEMPFAIL of sysexits.h: nothing has failed, and what is left may be worth another start later."""


class Job:
    """A training of the pipeline, a task beside others.

    Args:
        settings: the parameters.
        name: a run.
        seed: one of its seeds.
        inputs: data sets, read once for all jobs.
        missing: train only if that is still missing when its turn comes; another process may have done it by then.
    """

    at_once = 1
    """Most trainings that have shared the device with it, itself included: its throughput depends on them."""

    training: loop.Training | None = None
    error: Exception | None = None
    published = False
    """Whether its results are there."""

    def __init__(self, settings: config.Parameters, name: str, seed: int, inputs: Inputs, missing: bool) -> None:
        settings.check_seed(name, seed)
        self._settings, self._missing = settings, missing
        self.run, self.name, self.seed, self.inputs = settings.run(name), name, seed, inputs
        self.title, self.lock = f"{name}:{seed}", paths.LOCKS / f"{name}-seed{seed}.lock"
        self.entry = cost.Entry(name, self.run, models.measure(self.run.model, self.run.data.classes), [], [], [seed])

    def proceed(self, slot: Slot) -> Generator[Mark, None, None]:
        """Train, going on where an earlier start was interrupted, and publish the results.

        An error of this training alone is kept in `error`, and the others go on.
        """
        try:
            with (yield from _locked(self)):
                if self._missing and not store.is_missing(self._settings, self.name, self.seed):
                    say(f"{self.title}: trained by another process meanwhile")
                    self.published = True
                else:
                    with progress.Reporter(self._settings, self.name, self.seed) as reporter:
                        yield from self._train(slot, reporter)
        except (UserError, OSError) as error:
            self.error, self.training = error.with_traceback(None), None  # its frames hold tensors
        except RuntimeError as error:
            if not any(words in str(error) for words in NO_MEMORY):
                raise
            self.training = None
            self.error = UserError("no memory left on the device; fewer --at-once need less")

    def _train(self, slot: Slot, reporter: progress.Reporter) -> Generator[Mark, None, None]:
        run, title, device = self.run, f"{self.name}, seed {self.seed}", devices.configure(self.run.train)
        images, data_hash = self.inputs.images(run.data, device), self.inputs.sha256(run.data.path)
        say(devices.describe(device))
        folder = self._folder(device)
        self.training = loop.Training(run, self.seed, images, folder, title)
        with contextlib.closing(self.training.proceed(slot)) as turns:
            for mark in turns:
                reporter.update(self.training)
                yield mark
        reporter.update(self.training)  # with the last epoch
        outcome = self.training.outcome
        summary = {"run": self.name, "seed": self.seed, **store.summarise(run, outcome, self.entry.size)}
        summary |= {"data": {"sha256": data_hash}, "environment": devices.environment(run.train, device)}
        store.publish(self.name, self.seed, outcome, summary, folder)
        throughput.record(run, self.name, self.seed, outcome, device, self.at_once)
        self.training.state.unlink(missing_ok=True)  # before the snapshots, without which it is of no use
        shutil.rmtree(folder.parent)
        self.published, self.training = True, None  # frees the device's memory for the next
        accuracy = f", test accuracy {outcome.test.accuracy:.2%}" if outcome.test else ""
        say(f"{title}: {outcome.status} after {len(outcome.history)} of {run.train.epochs} epochs{accuracy}")

    def retry(self) -> bool:
        """Forget that another process was training it; return whether one was."""
        refused = isinstance(self.error, Elsewhere)
        if refused:
            self.error = None
        return refused

    def save(self) -> None:
        """Save the state, if there is anything to save yet."""
        if self.training:
            self.training.save()

    def remaining(self) -> float:
        """Return the share of the iterations that is left to do; before the training begins, by the saved state."""
        if self.training:
            return 1 - self.training.done / self.training.total
        with contextlib.suppress(checkpoints.CheckpointError, OSError):  # OSError: no images yet
            _, place = checkpoints.read(self._folder(devices.choose(self.run.train)) / loop.STATE)
            return 1 - (int(place["epoch"]) - 1) / self.run.train.epochs
        return 1.0

    def _folder(self, device: torch.device) -> Path:
        """Return the folder for state and trajectory on `device`."""
        environment = devices.environment(self.run.train, device)
        key = loop.state_key(self.run, self.inputs.sha256(self.run.data.path), environment)
        return paths.resume(self.name, self.seed) / key


class Inputs:
    """The data sets of trainings, each read once for all of them.

    Args:
        seed: that the data sets were made with, `data.seed` of the parameters.
    """

    def __init__(self, seed: int) -> None:
        self.sha256 = functools.cache(files.sha256)
        self._seed = seed
        self._images: dict[tuple[Path, int, torch.device], loop.Images] = {}

    def images(self, described: config.Data, device: torch.device) -> loop.Images:
        """Return the images of a run on a device; `DataError` unless they are as described."""
        key = described.path, described.seed, device
        if key not in self._images:
            loaded = dataset.load_split(described, self._seed)
            records.check(loaded, described)
            self._images[key] = loop.Images.upload(loaded, device)
        return self._images[key]


def train(
    settings: config.Parameters,
    chosen: Sequence[tuple[str, int]],
    at_once: int = 1,
    until: float | None = None,
    again: str = "",
    missing: bool = False,
) -> None:
    """Train runs, several at once, each to the bytes that it gives alone, and publish their results.

    Args:
        settings: the parameters.
        chosen: runs and seeds, in the order in which to begin.
        at_once: trainings that share the device.
        until: time of the monotonic clock by which all states must be saved; see `time_limit`.
        again: the command that resumes after an interruption; by default one that names the trainings left.
        missing: pass over what another process has trained by the time that its turn comes. What another one is
            training is tried again at the end, in case that process has died.

    Raises:
        Elsewhere: where others still train some of them, after all others.
        Interrupted: after SIGINT or SIGTERM, once the states are saved.
        OutOfTime: at the time limit, once the states are saved.
        UserError: where a training failed, after all others.
    """
    progress.check(settings)
    inputs = Inputs(settings.data.seed)
    jobs = [Job(settings, name, seed, inputs, missing) for name, seed in chosen]
    for path in {job.run.data.path for job in jobs if not job.run.data.path.exists()}:
        dataset.load(path)  # raises an error that says how to make it
    waiting = list(jobs)
    if until is not None and until - time.monotonic() < LEAST:
        raise OutOfTime(f"--until: less than {LEAST:.0f} s are left, in which nothing is worth beginning")
    budget = Budget(jobs, until, at_once) if until is not None else None

    tried = 0

    def choose(active: Sequence[round_robin.Task]) -> Job | None:
        nonlocal tried
        if missing and not waiting and (done := sum(job.published for job in jobs)) > tried:
            tried = done
            waiting.extend(job for job in jobs if job.retry())
        under_way = [job for job in jobs if job in active]
        ordered = _free_first(waiting) if missing else waiting
        job = budget.choose(ordered, under_way) if budget else next(iter(ordered), None)
        if job:
            waiting.remove(job)
            for each in (*under_way, job):
                each.at_once = max(each.at_once, len(under_way) + 1)
        return job

    end = round_robin.run(choose, at_once, budget.until if budget else float("inf"))
    if not again:
        left = " ".join(job.title for job in jobs if not job.published)
        again = f"`vanishing train {left} --at-once {at_once}`" if len(jobs) > 1 else "the same command"
    _conclude(jobs, end, again)


def _free_first(waiting: Sequence[Job]) -> list[Job]:
    """Put last what other processes hold; where there are any, mix the rest, lest all of them try the same next."""
    held = locks.taken(paths.LOCKS)
    ordered = [job for job in waiting if job.lock.name not in held]
    if held:
        secrets.SystemRandom().shuffle(ordered)
    return ordered + [job for job in waiting if job.lock.name in held]


def _conclude(jobs: Sequence[Job], end: round_robin.End, again: str) -> None:
    """Raise the error that tells the user how the trainings ended, unless all were published."""
    errors = {job.title: job.error for job in jobs if job.error}
    if errors and len(jobs) == 1:
        raise errors[jobs[0].title]
    for title, error in errors.items():
        say(f"{title}: {line(error)}")
    left = [job for job in jobs if not (job.published or job.error)]
    places = [(job.title, job.training.place) for job in left if job.training and job in end.saved]
    saved = [f"{title} at {place}" if len(jobs) > 1 else f"{place}" for title, place in places]
    state = f"saved at {'; '.join(saved)}" if len(jobs) == 1 else f"saved: {'; '.join(saved)}"
    if left and end.signal:
        raise round_robin.Interrupted(end.signal, state if saved else "nothing was under way", again)
    if left:
        done = f"{sum(job.published for job in jobs)} of {len(jobs)} trainings done"
        why = f"the time is up: {done}; {state}" if saved else f"too little time is left to begin another: {done}"
        raise OutOfTime(f"{why}; run {again} to resume")
    elsewhere = [title for title, error in errors.items() if isinstance(error, Elsewhere)]
    rest = f"{len(elsewhere)} of {len(jobs)} trainings left to the processes that are at work on them"
    if failed := [title for title in errors if title not in elsewhere]:
        others = f"{rest}; the others are done" if elsewhere else "the others are done"
        raise UserError(f"{len(failed)} of {len(jobs)} trainings failed: {', '.join(failed)}; {others}")
    if elsewhere:
        raise Elsewhere(f"{rest}: {', '.join(elsewhere)}; the others are done")


def _locked(job: Job) -> Generator[Mark, None, contextlib.ExitStack]:
    """Take the lock of a training, so that no two processes write its state; other trainings go on meanwhile."""
    steps = locks.acquire(job.lock)
    while True:
        try:
            pause = next(steps)
        except StopIteration as end:
            held: contextlib.ExitStack = end.value
            return held
        except locks.Held as holder:
            raise Elsewhere(f"run {job.name!r}, seed {job.seed} is being trained by {holder}") from None
        yield Pause(pause)
