"""The mismatches that `vanishing verify` finds, the trainings it looks at, and what it has compared so far."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vanishing import config, files, git, paths
from vanishing.errors import UserError
from vanishing.results import store

Restore = Callable[[Path, str, str], str | None]
"""From a file, its hash and the name of that, the command that brings it back; None if there is none."""

SAMPLE = 3
"""Trainings that are evaluated again by default."""


@dataclass(frozen=True)
class Mismatch:
    """A file that does not match a record."""

    path: Path
    expected: str
    found: str
    command: str
    """What makes the file again."""

    def __str__(self) -> str:
        return printable(f"{self.path}: found {self.found}, expected {self.expected}; next: `{self.command}`")


@dataclass(frozen=True)
class Record:
    """A training that has a summary."""

    run: str
    seed: int
    summary: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Folder of the small results."""
        return paths.results(self.run, self.seed)

    @property
    def trajectory(self) -> Path:
        """Folder of the checkpoints."""
        return paths.checkpoints(self.run, self.seed)

    @property
    def path(self) -> Path:
        """The summary itself."""
        return self.folder / "summary.json"

    @property
    def command(self) -> str:
        """What makes the training's files again."""
        return f"vanishing train {self.run} --seed {self.seed}"


@dataclass
class Scope:
    """What there is to check, and what has been."""

    settings: config.Parameters
    every: bool = False
    """Whether to test all trainings again, not a sample."""
    records_of_files: Sequence[Restore] = ()
    """Where a file may be brought back from, without making it again."""
    compared: set[Path] = field(default_factory=set)
    """Files that have been compared with a record."""
    mismatched: set[Path] = field(default_factory=set)
    """Files that do not match a record."""
    notes: list[str] = field(default_factory=list)
    """What could not be checked, a line each."""
    tested: int = 0
    """Test accuracies and gradient flows that were measured again."""

    def compare(
        self, path: Path, digest: str, source: str, command: str, algorithm: str = "sha256"
    ) -> Iterator[Mismatch]:
        """Hash a file that is there, and yield a mismatch unless it has the `digest` that `source` gives."""
        self.compared.add(path)
        try:
            there = files.digest(path, algorithm)
            found = f"{'SHA-256' if algorithm == 'sha256' else 'MD5'} {there}"
        except (UserError, OSError) as error:
            there, found = "", problem(path, error)
        if there != digest:
            yield Mismatch(path, f"{digest} ({source})", found, self.mend(path, digest, command, algorithm))

    def mend(self, path: Path, digest: str, command: str, algorithm: str = "sha256") -> str:
        """Return what brings a file of this hash back from a record, else the `command` that makes it, if in hours."""
        found = (restore(path, digest, algorithm) for restore in self.records_of_files)
        return next(filter(None, found), command)

    @cached_property
    def read(self) -> tuple[list[Record], list[Mismatch]]:
        """The summaries of all trainings in `results/`, and those that cannot be read."""
        records, broken = [], []
        for path in sorted((paths.RESULTS / "runs").glob("*/seed*/summary.json")):
            run, seed = path.parts[-3], re.fullmatch(r"seed([0-9]{1,10})", path.parts[-2])
            if seed is None or not re.fullmatch(config.NAME, run):
                continue  # the commands of such a folder would not be ours
            try:
                records.append(Record(run, int(seed[1]), store.read_summary(path)))
            except UserError as error:
                again = f"vanishing train {run} --seed {seed[1]}"
                command = git.checkout(path) if git.committed(path) else again
                problem = re.sub(r"^.*cannot be read (\(.*\));.*$", r"damage \1", str(error))
                broken.append(Mismatch(path, "the summary of a training", problem, command))
        return records, broken

    @property
    def records(self) -> list[Record]:
        """The summaries that can be read."""
        return self.read[0]

    @cached_property
    def current(self) -> list[Record]:
        """Those that were made with today's configuration."""
        jobs = set(self.settings.jobs())
        return [
            record
            for record in self.records
            if (record.run, record.seed) in jobs and store.matches(self.settings, record.run, record.summary)
        ]

    @cached_property
    def sample(self) -> list[Record]:
        """The trainings to test again: all, or some that are chosen by their names alone."""
        order = sorted(self.current, key=lambda record: hashlib.sha256(str(record.folder).encode()).digest())
        return order if self.every else order[:SAMPLE]


def guarded(path: Path, command: str, found: Iterator[Mismatch]) -> Iterator[Mismatch]:
    """Yield the mismatches; if an unreadable file stops them, yield `path` as one instead."""
    try:
        yield from found
    except (UserError, OSError) as error:
        yield Mismatch(path, "what can be read", problem(path, error), command)


def remove(path: Path, *options: str) -> str:
    """Return the command that removes a file, whatever its name is."""
    return shlex.join(["rm", *options, str(path)])


def printable(text: str) -> str:
    """Return `text` with what a terminal would not show as it is, such as its own codes, escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def problem(path: Path, error: UserError | OSError) -> str:
    """Say what is wrong with `path`, without its name."""
    told = error.strerror if isinstance(error, OSError) else None
    return told or str(error).removeprefix(f"{path}: ")
