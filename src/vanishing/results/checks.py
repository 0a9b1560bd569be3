"""Checks of the results: they are complete, possible, and as theory predicts, whoever made them.

`results/checks.csv` has a row for each check and its subject: a run and seed, a study, or a network. It is there only
if all checks hold. What a file must be to be read at all is up to `store`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass

import pandas as pd

from vanishing import config, paths
from vanishing.console import say
from vanishing.errors import UserError
from vanishing.results import initial_gradients, store
from vanishing.results.store import Result

COLUMNS = ["check", "study", "run", "seed", "expected", "found"]

PLAIN = {
    "norm": "none", "shortcut": "none", "reduction_shortcut": "none", "initialisation": "default",
    "gradient_amplification": 1.0, "activation": "leaky_relu", "convolutions": 2,
}  # fmt: skip
"""The model of a network without any cure, whatever the defaults are."""

DEEP = 38
"""Depth from which such a network stays at chance."""

ABOVE = 3
"""Standard deviations above chance within which an accuracy over images counts as that of chance."""

BELOW = 6
"""Standard deviations that a training accuracy may be below chance.

A network at chance names the class that it has met most often, of which fewer are left in the epoch: with 100 classes
that alone costs up to 3.5 of them in the mean.
"""

ROUNDING = 1e-9
"""Of an accuracy: histories have ten significant digits."""

COMPLETE = "complete and of today's configuration"


@dataclass(frozen=True)
class Verdict:
    """What a check expected of its subject and found."""

    check: str
    study: str
    run: str
    seed: str
    expected: str
    found: str
    sound: bool

    def __str__(self) -> str:
        subject = " ".join(filter(None, [self.study, self.run, self.seed and f"seed {self.seed}"]))
        return f"{self.check}{' of ' if subject else ''}{subject}: found {self.found}, expected {self.expected}"


Answer = tuple[str, str, bool]
"""What was expected, what was found, and whether that is sound."""


def write_checks(settings: config.Parameters) -> None:
    """Write `results/checks.csv`.

    Raises:
        UserError: a check fails; each that does is told in a line, and no file is left.
    """
    found = list(verdicts(settings))
    unsound = [verdict for verdict in found if not verdict.sound]
    for verdict in unsound:
        say(f"{verdict}")
    if unsound:
        paths.CHECKS.unlink(missing_ok=True)
        raise UserError(f"{len(unsound)} of {len(found)} checks fail; `vanishing verify` names mismatched files")
    store.write_table(paths.CHECKS, checks_frame(found))


def checks_frame(found: Iterable[Verdict]) -> pd.DataFrame:
    """Return a row for each verdict."""
    return pd.DataFrame([astuple(verdict)[: len(COLUMNS)] for verdict in found], columns=COLUMNS)


def verdicts(settings: config.Parameters) -> Iterator[Verdict]:
    """Check each run and seed, whether the studies are complete, then gradients at initialisation."""
    read: dict[tuple[str, int], Result] = {}
    for run, seed in settings.jobs():
        found = COMPLETE
        try:
            read[run, seed] = _read(settings, run, seed)
        except UserError as error:
            found = f"{error}"
        yield Verdict("results", "", run, f"{seed}", COMPLETE, found, (run, seed) in read)
    for (run, seed), result in read.items():
        for check in CHECKS:
            if answer := check(result, settings.run(run)):
                yield Verdict(check.__name__, "", run, f"{seed}", *answer)
    for key, study in settings.studies.items():
        wanted = [(run, seed) for run in study.runs for seed in settings.seeds_of(run)]
        there = [job for job in wanted if job in read]
        yield Verdict("rows", key, "", "", _counts(wanted), _counts(there), there == wanted)
    if len(read) == len(list(settings.jobs())):
        by_run = {run: [read[run, seed] for seed in settings.seeds_of(run)] for run in settings.runs}
        yield from _initialisation(settings, by_run)


def epochs(result: Result, run: config.Run) -> Answer:
    """As many as configured, unless the training ended before."""
    found, last = len(result.history), run.train.epochs
    if result.summary["status"] != "completed":
        last = min(found, last)
    return f"1 to {last}", f"1 to {found}", found == last


def losses(result: Result, _: config.Run) -> Answer | None:
    """Finite in the summary of a training that did not diverge."""
    if result.diverged:
        return None
    odd = [part for part in PARTS if result.summary[part]["loss"] is None]
    return "finite", f"non-finite in {', '.join(odd)}" if odd else "finite", not odd


def accuracies(result: Result, run: config.Run) -> Answer:
    """Of a whole number of images; in training so where minibatches are of one size."""
    train, val, test = run.data.sizes
    parts = {"val": val} if train % run.train.batch_size else {"train": train, "val": val}
    named = [
        (f"{part} {epoch}", accuracy, images)
        for part, images in parts.items()
        for epoch, accuracy in enumerate(result.history[f"{part}_accuracy"], start=1)
    ]
    if result.summary["test"]:
        named.append(("test", result.summary["test"]["accuracy"], test))
    odd = [f"{name}: {accuracy:.10g}" for name, accuracy, images in named if not _whole(accuracy, images)]
    expected = f"shares of {train} training, {val} validation and {test} test images"
    return expected, ", ".join(odd) or "such shares", not odd


def gradients(result: Result, run: config.Run) -> Answer:
    """Of all weight layers, for each snapshot and kind of images."""
    completed = result.summary["status"] == "completed"
    snapshots = run.train.snapshot_epochs if completed else result.summary["snapshots"]
    table = result.gradients
    weights = table[table.kind != "normalisation"]
    expected = _rows(snapshots, store.IMAGES, result.summary["layers"])
    found = _rows(table.epoch.unique(), table["images"].unique(), weights.layer.nunique())
    return expected, found, found == expected


def chance(result: Result, run: config.Run) -> Answer | None:
    """A deep network without any cure ends at the validation accuracy of a guess."""
    if result.diverged or not _plain(result, run):
        return None
    guess, deviation = _guess(run, 1 / run.data.sizes[1])
    most, found = guess + ABOVE * deviation, result.history.val_accuracy.iloc[-1]
    return f"validation accuracy of at most {most:.4g}", f"{found:.4g}", bool(found <= most)


def learning(result: Result, run: config.Run) -> Answer | None:
    """Every other network ends with a training accuracy no worse than guessing.

    The accuracy is a mean over minibatches, the short one included.
    """
    if result.diverged or _plain(result, run):
        return None
    images, size = run.data.sizes[0], run.train.batch_size
    sizes = [min(size, images - start) for start in range(0, images, size)]
    guess, deviation = _guess(run, sum(1 / images for images in sizes) / len(sizes) ** 2)
    least, found = max(0.0, guess - BELOW * deviation), result.history.train_accuracy.iloc[-1]
    return f"training accuracy of at least {least:.4g}", f"{found:.4g}", bool(found >= least)


CHECKS: tuple[Callable[[Result, config.Run], Answer | None], ...] = (
    epochs,
    losses,
    accuracies,
    gradients,
    chance,
    learning,
)
"""Of each run and seed, under their own names; None for one that such a run need not pass."""

PARTS = ("train", "validation", "best", "test")
"""Of a summary, those with a loss."""


def _read(settings: config.Parameters, run: str, seed: int) -> Result:
    """Read complete results of today's configuration; `UserError` otherwise."""
    missing = [path.name for path in paths.result_files(run, seed) if not path.exists()]
    if missing:
        raise UserError(f"no {', '.join(missing)} in {paths.results(run, seed)}")
    if not store.is_available(settings, run, seed):
        raise UserError(f"another configuration in {paths.results(run, seed)}")
    return store.read(run, seed)


def _initialisation(settings: config.Parameters, results: Mapping[str, list[Result]]) -> Iterator[Verdict]:
    """Yield whether gradients at initialisation are what theory predicts, on the images that it is meant for."""
    for factor in initial_gradients.factors(settings, results):
        if factor.comparable:
            expected = f"{factor.quantity} {factor.predicted:.4g}, within a factor of {factor.tolerance:.4g}"
            sound = factor.verdict == initial_gradients.MET
            yield Verdict("initialisation", "", factor.network, "", expected, f"{factor.measured:.4g}", sound)


def _plain(result: Result, run: config.Run) -> bool:
    """Whether this is a deep network without any cure."""
    return bool(result.summary["layers"] >= DEEP) and all(getattr(run.model, key) == PLAIN[key] for key in PLAIN)


def _guess(run: config.Run, inverse: float) -> tuple[float, float]:
    """Return the accuracy of a guess, and its standard deviation over 1 / `inverse` images."""
    guess = 1 / run.data.classes
    return guess, math.sqrt(guess * (1 - guess) * inverse)


def _whole(accuracy: float, images: int) -> bool:
    """Whether an accuracy is that of a whole number of images."""
    return abs(accuracy * images - round(accuracy * images)) <= ROUNDING * images


def _rows(snapshots: Iterable[int], images: Iterable[str], layers: int) -> str:
    return f"snapshots {' '.join(map(str, snapshots))}, {' and '.join(images)} images, {layers} weight layers"


def _counts(jobs: list[tuple[str, int]]) -> str:
    return f"{len({run for run, _ in jobs})} runs, {len(jobs)} trainings"
