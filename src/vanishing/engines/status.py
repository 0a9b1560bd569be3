"""How a study stands, from what its processes have left: done, running, failed, interrupted, stale or missing.

Everything is read and nothing written, and no lock is taken, so that it works beside engines, trainings and other
machines. Who trains is told by the holder files of `locks`, how far by the files of `progress`, and what a failed
command has printed by its log.
"""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from vanishing import config, locks, paths
from vanishing.engines import catalogue, graph, lock
from vanishing.errors import UserError, line
from vanishing.results import store

STATES = ("done", "running", "failed", "interrupted", "stale", "missing")

TAIL = 3
"""Lines of a log that are shown."""

TAIL_BYTES = 4096
WIDTH = 160
"""Characters of a line that are shown of a log."""

OTHER = 60.0
"""Seconds by which a log must be younger than what a training of another configuration has told of its progress."""

STOPPED = re.compile(
    r"KeyboardInterrupt|vanishing \w+: (interrupted|stopped by SIG\w+,|the time is up:|too little time is left |"
    r"--until: less than |run '.+', seed \d+ is being trained by |\d+ of \d+ trainings left to the processes )"
)
"""Begins the last line of a command that was stopped, ran out of time, or left its trainings to other processes."""

FOLDER = re.compile(r"^\S*/")
"""That of the program, in a command line of DVC's list, which quotes nothing."""

METADATA, INCOMPLETE = Path(".snakemake") / "metadata", Path(".snakemake") / "incomplete"
"""Snakemake's records of outputs, and marks of those that are being made, by their names in base64."""

Changed = dict[str, tuple[Any, Any]]

LOG = {"": "logs/{stage}.log", "job": "logs/{stage}/{run}-seed{seed}.log", "study": "logs/{stage}/{study}.log"}
"""Where the rules of Snakemake keep what a command prints, by `Stage.each`."""


@dataclass(frozen=True)
class Process:
    """A process that trains, or was killed while it did."""

    command: str
    host: str
    pid: int
    since: float
    """Unix time of its start."""

    @classmethod
    def of(cls, holder: locks.Holder) -> Process:
        """Return the holder of a lock."""
        return cls(_clean(holder.command), _clean(holder.host), holder.pid, holder.since)

    def __str__(self) -> str:
        return f"{self.pid} on {self.host}"


@dataclass(frozen=True)
class Training:
    """A run and seed, and how it stands; what is not known or does not apply is None or empty."""

    run: str
    seed: int
    state: str
    """One of `STATES`."""
    epoch: int | None = None
    """The epoch under way: of a running training, or in the saved state of another."""
    epochs: int | None = None
    iteration: int | None = None
    """Iterations done within the epoch."""
    iterations: int | None = None
    """Of an epoch."""
    steps_per_second: float | None = None
    seconds_left: float | None = None
    seconds_silent: float | None = None
    """Since the last word of its progress."""
    process: Process | None = None
    """What trains it, or was killed while it did."""
    error: str = ""
    log: list[str] = field(default_factory=list)
    """Last lines of its log, if it has failed."""
    changed: Changed = field(default_factory=dict)
    """Keys of the configuration that are not as in the results: the value there, and today's."""
    command: str = ""
    """What goes on with it, or trains it again."""

    @property
    def title(self) -> str:
        """Name it as `vanishing train` does."""
        return f"{self.run}:{self.seed}"


@dataclass(frozen=True)
class Analysis:
    """How far what is measured along trajectories has come."""

    jobs: int
    done: int
    stale: int
    """By Snakemake's record of their configuration."""
    changed: Changed
    """As of a training, of the first that is stale."""


@dataclass(frozen=True)
class Running:
    """A job of another stage than `train` that an engine runs."""

    command: str
    seconds: float
    """Since it began."""


@dataclass(frozen=True)
class Failure:
    """A job of another stage whose last command failed under Snakemake."""

    command: str
    log_file: str
    log: list[str]


@dataclass(frozen=True)
class Status:
    """How the study stands."""

    program: str
    """How `vanishing` is called for these parameters."""
    engine: str
    """The engine at work here; empty where none is."""
    jobs: list[Running]
    """What it runs beside trainings."""
    trainings: list[Training]
    studies: dict[str, dict[str, int]]
    """How many trainings of each study are in each state, and in `trainings` how many it has."""
    analyses: dict[str, Analysis]
    """Gradient flow and each analysis, by its command."""
    failures: list[Failure]

    def as_json(self) -> str:
        """Return everything as JSON; docs/commands.md says what the keys mean."""
        return json.dumps({"counts": self.counts, **asdict(self)}, indent=2)

    @property
    def counts(self) -> dict[str, int]:
        """How many trainings are in each state."""
        found = Counter(each.state for each in self.trainings)
        return {state: found[state] for state in STATES}

    def of(self, state: str) -> list[Training]:
        """List the trainings in a state."""
        return [each for each in self.trainings if each.state == state]


def read(settings: config.Parameters, studies: Sequence[str] = (), program: str = "vanishing") -> Status:
    """Look at the trainings and analyses of `studies`, of all where none is named.

    Args:
        settings: the parameters.
        studies: names; `ParameterError` for one that is not configured.
        program: how `vanishing` is called, with `--set` where these parameters are not those of the file alone.
    """
    runs = settings.runs_of(studies)
    jobs = [job for job in settings.jobs() if job[0] in runs]
    holders = locks.glance(paths.LOCKS)
    trainings = [_training(settings, *job, holders.get(f"{job[0]}-seed{job[1]}.lock"), program) for job in jobs]
    counted = {key: _counted(trainings, settings.studies[key].runs) for key in studies or settings.studies}
    of_jobs = (stage for stage in catalogue.STAGES if stage.each == "job" and stage.name != "train")
    done = {(each.run, each.seed) for each in trainings if each.state == "done"}
    analyses = {stage.name: _analysis(settings, stage, jobs, done) for stage in of_jobs}
    engine, running = _engine(holders)
    failures = list(_failures(settings, jobs, studies))
    return Status(program, engine, running, trainings, counted, analyses, failures)


def _training(
    settings: config.Parameters, run: str, seed: int, holder: tuple[locks.Holder, bool] | None, program: str
) -> Training:
    process, told = Process.of(holder[0]) if holder else None, _told(paths.progress(run, seed))
    if holder and holder[1]:
        own = told.get("time", 0.0) >= holder[0].since  # and not of an earlier start
        return Training(run, seed, "running", **_place(told if own else {}), process=process)
    again = f"{program} train {run} --seed {seed}"
    try:
        if not store.is_missing(settings, run, seed):
            return Training(run, seed, "done")
        changed = _changed(settings, run, seed)
    except (UserError, OSError) as error:
        return Training(run, seed, "failed", error=_clean(line(error)), command=again)
    since = told.get("time", 1.0) - 1
    if told and told.get("configuration") != settings.run(run).configuration():
        told, since = {}, since + OTHER  # of another configuration; its log ends a moment later
    log = Path(LOG["job"].format(stage="train", run=run, seed=seed))
    lines = _tail(log) if _time(log) > since else []
    if complaint := _clean(told.get("error") or "") or (lines[-1] if _complains(lines) else ""):
        place, end = _saved(run, seed, told), _shown(lines)
        return Training(run, seed, "failed", **place, process=process, error=complaint, log=end, command=again)
    if told:
        return Training(run, seed, "interrupted", **_saved(run, seed, told), process=process, command=again)
    return Training(run, seed, "stale" if changed else "missing", changed=changed, command=again)


def _changed(settings: config.Parameters, run: str, seed: int) -> Changed:
    """Return the keys in which the results of a training, if there are any, have another configuration than today's."""
    summary = paths.results(run, seed) / "summary.json"
    if not summary.exists():
        return {}
    before = config.completed(store.read_summary(summary)["configuration"])
    return config.differences(before, settings.run(run).configuration())


def _told(path: Path) -> dict[str, Any]:
    """Read what a training has told of its progress; nothing where that is not there, or cannot be read."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("time"), float) else {}


def _place(told: dict[str, Any]) -> dict[str, Any]:
    """Return how far a running training is."""
    keys = ("epoch", "epochs", "iteration", "iterations", "steps_per_second", "seconds_left")
    found = {key: told.get(key) for key in keys}
    return found | {"seconds_silent": time.time() - told["time"] if told else None}


def _saved(run: str, seed: int, told: dict[str, Any]) -> dict[str, Any]:
    """Return epoch and iteration of a saved state, of which the header alone is read."""
    newest = max(paths.resume(run, seed).glob("*/state.safetensors"), key=_time, default=None)
    try:
        with safe_open(told.get("state", newest), framework="np") as handle:
            place = json.loads(handle.metadata()["vanishing"])["values"]
            return {"epoch": place["epoch"], "iteration": place["iteration"]}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):  # none, or damaged: it begins anew
        return {}


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _clean(text: object) -> str:
    """Return a text of another process without what would steer a terminal."""
    return "".join(each if each.isprintable() else " " for each in f"{text}").rstrip()


def _tail(log: Path) -> list[str]:
    """Return the last lines of a log; none where it has just been removed, or cannot be read."""
    try:
        with log.open("rb") as handle:
            handle.seek(max(0, os.fstat(handle.fileno()).st_size - TAIL_BYTES))
            text = handle.read().decode(errors="replace")
    except OSError:
        return []
    return [_clean(line) for line in text.splitlines() if line.strip()]


def _shown(lines: Sequence[str]) -> list[str]:
    """Return what is shown of the last lines of a log."""
    return [line[:WIDTH].rstrip() for line in lines[-TAIL:]]


def _complains(lines: Sequence[str]) -> bool:
    """Whether the last lines of a log are those of a command that failed, and was not stopped."""
    if not lines or STOPPED.match(lines[-1]):
        return False
    return re.match(r"vanishing \w+: ", lines[-1]) is not None or any(
        line.startswith("Traceback (most recent call last)") for line in lines
    )


def _counted(trainings: Sequence[Training], runs: Collection[str]) -> dict[str, int]:
    states = Counter(each.state for each in trainings if each.run in runs)
    return {"trainings": states.total(), **{state: states[state] for state in STATES}}


def _analysis(
    settings: config.Parameters, stage: catalogue.Stage, jobs: Sequence[graph.Job], trained: Collection[graph.Job]
) -> Analysis:
    """Count what has been measured of the trainings in `trained`, made with today's configuration."""
    wanted = graph.stage_jobs(settings, stage, jobs)
    outputs = [stage.output_paths(run=run, seed=seed)[0] for run, seed in wanted if (run, seed) in trained]
    there = [path for path in outputs if _time(path)]
    today = json.loads(graph.configuration(stage.name, settings))
    changes = [change for path in there if (change := config.differences(_recorded(path) or today, today))]
    return Analysis(len(wanted), len(there) - len(changes), len(changes), changes[0] if changes else {})


def _recorded(output: Path) -> dict[str, Any] | None:
    """Return the configuration by which Snakemake has made a file; None where it has not, or others have since."""
    try:
        record = json.loads((METADATA / base64.b64encode(str(output).encode()).decode()).read_bytes())
        content = json.loads(ast.literal_eval(record["params"][0]))
        return content if _time(output) <= record["endtime"] + 1 and isinstance(content, dict) else None
    except (OSError, ValueError, SyntaxError, LookupError, TypeError, RecursionError):  # none, or another version
        return None


def _failures(settings: config.Parameters, jobs: Sequence[graph.Job], studies: Sequence[str]) -> Iterator[Failure]:
    """Yield the jobs of all stages but `train` whose log is younger than their outputs, and ends with an error."""
    for stage in catalogue.STAGES:
        fields: list[dict[str, object]] = [{"set": settings.data.set}]
        if stage.each == "job":
            fields = [{"run": run, "seed": seed} for run, seed in jobs]
        elif stage.each == "study":
            fields = [{"study": key} for key in studies or settings.studies]
        for each in fields if stage.name != "train" else ():
            log = Path(LOG[stage.each].format(stage=stage.name, **each))
            newer = _time(log) > max(map(_time, stage.output_paths(**each)))
            if newer and _complains(lines := _tail(log)):
                yield Failure(stage.command.format(**each), str(log), _shown(lines))


def _engine(holders: dict[str, tuple[locks.Holder, bool]]) -> tuple[str, list[Running]]:
    """Name the engine at work, and its jobs: Snakemake by its lock and marks, DVC by its list of processes."""
    holder, lives = holders.get("snakemake.lock", (None, False))
    if lives:
        return _clean(holder), _running((_decoded(mark.name), _time(mark)) for mark in INCOMPLETE.glob("*"))
    writers, written = lock.writers()
    commands = (f"{_clean(re.sub(FOLDER, '', cmd))} (process {pid})" for pid, cmd in writers.values())
    return next(commands, ""), _running((os.path.relpath(path), written) for path in writers)


def _running(outputs: Iterable[tuple[str, float]]) -> list[Running]:
    """Return the jobs that make these outputs since some time, but for trainings, which tell more themselves."""
    found = {catalogue.maker_of(Path(output)) or catalogue.maker_of(Path(output, "*")): at for output, at in outputs}
    return [Running(each, time.time() - at) for each, at in found.items() if each and " train " not in each]


def _decoded(name: str) -> str:
    try:
        return base64.b64decode(name).decode()
    except ValueError:  # no mark of this version of Snakemake
        return name
