"""The results under test: what must hold of any, whoever made them.

`results/checks.csv` has a row for each check and what it is about: a run of a study, a run and seed, the tables of
a study, or the comparison with published numbers. It is there only if all of them hold.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass

import pandas as pd

from vanishing import config, files, paths
from vanishing.results import store
from vanishing.verify import recomputed
from vanishing.errors import UserError
from vanishing.verify.mismatch import Finding, Scope
from vanishing.console import say
from vanishing.verify.recomputed import Raw

COLUMNS = ["check", "study", "run", "seed", "expected", "found"]

PLAIN = {
    "norm": "none", "shortcut": "none", "reduction_shortcut": "none", "initialisation": "default",
    "gradient_amplification": 1.0, "activation": "leaky_relu", "convolutions": 2,
}  # fmt: skip
"""The model of a network without any cure, whatever the defaults are."""

DEEP = 38
"""Layers from which on such a network does not leave chance."""

ABOVE = 3
"""Standard deviations above chance within which an accuracy over images counts as that of chance."""

BELOW = 6
"""Standard deviations that a training accuracy may be below chance.

A network at chance names the class that it has met most often, of which fewer are left in the epoch: with 100 classes
that alone costs up to 3.5 of them in the mean.
"""

ROUNDING = 1e-9
"""Of an accuracy: histories have ten significant digits."""

COMPLETE, RECOMPUTED = "complete and of today's configuration", "as recomputed from results/runs"


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


def make(settings: config.Parameters) -> None:
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
        raise UserError(f"{len(unsound)} of {len(found)} checks fail; `vanishing verify` names the files that are off")
    store.write_table(paths.CHECKS, table(found))


def recorded(scope: Scope) -> Iterator[Finding]:
    """Compare `results/checks.csv`, if it is here, with what the checks say now; not where results are off."""
    if not paths.CHECKS.exists():
        return
    if any(paths.RESULTS in path.parents for path in scope.off):
        scope.notes.append(f"{paths.CHECKS}: not compared, since results are off")
        return
    scope.proven.add(paths.CHECKS)
    expected = store.as_text(table(list(verdicts(scope.settings))))
    files.check_plain(paths.CHECKS, files.RESULT_BYTES)
    if paths.CHECKS.read_bytes() != expected.encode():
        yield Finding(paths.CHECKS, "what the checks give (done again)", "other bytes", "vanishing check")


def table(found: list[Verdict]) -> pd.DataFrame:
    """Return a row for each verdict."""
    return pd.DataFrame([astuple(verdict)[: len(COLUMNS)] for verdict in found], columns=COLUMNS)


def verdicts(settings: config.Parameters) -> Iterator[Verdict]:
    """Check each run and seed, whether the studies are complete and their tables right, then the comparison."""
    read: dict[tuple[str, int], Raw] = {}
    for run, seed in settings.jobs():
        found = COMPLETE
        try:
            read[run, seed] = _read(settings, run, seed)
        except UserError as error:
            found = f"{error}"
        yield Verdict("results", "", run, f"{seed}", COMPLETE, found, (run, seed) in read)
    measured = True
    for (run, seed), raw in read.items():
        for check in CHECKS:
            if answer := check(raw, settings.run(run)):
                measured &= answer[2] or check is not gradients
                yield Verdict(check.__name__, "", run, f"{seed}", *answer)
    for key, study in settings.studies.items():
        wanted = [(run, seed) for run in study.runs for seed in settings.seeds_of(run)]
        there = [job for job in wanted if job in read]
        yield Verdict("rows", key, "", "", _counts(wanted), _counts(there), there == wanted)
        if there == wanted:
            yield from _tables("tables", key, recomputed.compare(settings, key))
    if measured and len(read) == len(list(settings.jobs())):  # the comparison is made of gradients too
        yield from _tables("comparison", "", recomputed.compare_published(settings))
        yield from _initialisation(settings)


def epochs(raw: Raw, run: config.Run) -> Answer:
    """From 1 without gaps, to the last of the configuration unless the training ended before."""
    listed, without_gaps = [row["epoch"] for row in raw.history], range(1, len(raw.history) + 1)
    last = run.train.epochs if raw.summary["status"] == "completed" else raw.summary["epochs"]
    sound = listed == list(without_gaps) and len(listed) == last == raw.summary["epochs"] <= run.train.epochs
    found = f"1 to {len(listed)}" if listed == list(without_gaps) else _join(listed)
    return f"1 to {last}", found, sound


def losses(raw: Raw, _: config.Run) -> Answer:
    """Numbers, but those of the last epoch where the summary says that the training diverged."""
    odd = [row["epoch"] for row in raw.history if not all(map(math.isfinite, (row["train_loss"], row["val_loss"])))]
    parts = [] if raw.diverged else [part for part in PARTS if raw.summary[part]["loss"] is None]
    found = f"none in epoch {_join(odd)}" if odd else f"none in {', '.join(parts)}" if parts else "numbers"
    last = [raw.history[-1]["epoch"]] if raw.diverged else []
    return f"none in epoch {_join(last)}" if last else "numbers", found, odd == last and not parts


def accuracies(raw: Raw, run: config.Run) -> Answer:
    """Between 0 and 1, and of a whole number of images; in training so where minibatches are of one size."""
    train, val, test = _images(run)
    known = None if train % run.train.batch_size else train
    named = [
        (f"{part} {row['epoch']:g}", row[f"{part}_accuracy"], images)
        for row in raw.history
        for part, images in (("train", known), ("val", val))
    ]
    if raw.summary["test"]:
        named.append(("test", raw.summary["test"]["accuracy"], test))
    odd = [f"{name}: {accuracy:.10g}" for name, accuracy, images in named if not _possible(accuracy, images)]
    expected = f"shares of {train} training, {val} validation and {test} test images"
    return expected, ", ".join(odd) or "such shares", not odd


def gradients(raw: Raw, run: config.Run) -> Answer:
    """The same layers in forward order, all weight layers among them, for each snapshot and kind of images."""
    completed, layers = raw.summary["status"] == "completed", raw.summary["layers"]
    snapshots = list(run.train.snapshot_epochs) if completed else raw.summary["snapshots"]
    expected = _rows(snapshots, store.IMAGES, layers)
    try:
        rows = recomputed.table(paths.result_files(raw.run, raw.seed)[-1])
        found = [(int(row["epoch"]), row["images"], int(row["layer"]), row["kind"], row["name"]) for row in rows]
    except (UserError, OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        return expected, f"{error!r:.200}", False
    block = [row[2:] for row in found if row[:2] == found[0][:2]]
    numbers = [layer for layer, kind, _ in block if kind != "normalisation"]
    each = [(epoch, images, *row) for epoch in snapshots for images in store.IMAGES for row in block]
    sound = numbers == list(range(1, layers + 1)) and found == each
    there = _rows(
        list(dict.fromkeys(row[0] for row in found)), dict.fromkeys(row[1] for row in found), len(set(numbers))
    )
    return expected, there if sound else f"{there}, not each once and in order", sound


def chance(raw: Raw, run: config.Run) -> Answer | None:
    """A deep network without any cure ends at the validation accuracy of a guess."""
    if raw.diverged or not _plain(raw, run):
        return None
    guess, deviation = _guess(run, 1 / _images(run)[1])
    most, found = guess + ABOVE * deviation, raw.history[-1]["val_accuracy"]
    return f"validation accuracy of at most {most:.4g}", f"{found:.4g}", found <= most


def learning(raw: Raw, run: config.Run) -> Answer | None:
    """Any other ends at the training accuracy of a guess at least, as a mean over minibatches, the short one too."""
    if raw.diverged or _plain(raw, run):
        return None
    images, size = _images(run)[0], run.train.batch_size
    sizes = [min(size, images - start) for start in range(0, images, size)]
    guess, deviation = _guess(run, sum(1 / images for images in sizes) / len(sizes) ** 2)
    least, found = max(0.0, guess - BELOW * deviation), raw.history[-1]["train_accuracy"]
    return f"training accuracy of at least {least:.4g}", f"{found:.4g}", found >= least


CHECKS: tuple[Callable[[Raw, config.Run], Answer | None], ...] = (
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


def _read(settings: config.Parameters, run: str, seed: int) -> Raw:
    """Read complete results of today's configuration; `UserError` otherwise."""
    folder = paths.results(run, seed)
    missing = [path.name for path in paths.result_files(run, seed) if not path.exists()]
    if missing:
        raise UserError(f"no {', '.join(missing)} in {folder}")
    summary = store.read_summary(folder / "summary.json")
    if config.completed(summary["configuration"]) != settings.run(run).configuration():
        raise UserError(f"another configuration in {folder}")
    raw = recomputed.read(run, seed)
    store.check_history(run, seed, summary)
    return raw


def _initialisation(settings: config.Parameters) -> Iterator[Verdict]:
    """Yield whether gradients at initialisation are what theory predicts, on the images that it is meant for."""
    for row in recomputed.published(settings)["initialisation"]:
        if row["verdict"] != "other data":
            expected = f"{row['quantity']} {row['predicted']:.4g}, within a factor of {row['tolerance']:.4g}"
            sound = row["verdict"] == "as predicted"
            yield Verdict("initialisation", "", f"{row['network']}", "", expected, f"{row['measured']:.4g}", sound)


def _tables(check: str, study: str, off: Iterable[Finding]) -> Iterator[Verdict]:
    """Yield what is off in tables, or that nothing is."""
    sound = True
    for item in off:
        sound = False
        yield Verdict(check, study, "", "", item.expected, f"{item.found} in {item.path}", False)
    if sound:
        yield Verdict(check, study, "", "", RECOMPUTED, RECOMPUTED, True)


def _plain(raw: Raw, run: config.Run) -> bool:
    """Whether this is a deep network without any cure."""
    return bool(raw.summary["layers"] >= DEEP) and all(getattr(run.model, key) == PLAIN[key] for key in PLAIN)


def _images(run: config.Run) -> tuple[int, int, int]:
    """Count training, validation and test images."""
    data = run.data
    train, val, test = data.train_per_class, data.validation_per_class, data.test_per_class
    return data.classes * train, data.classes * val, data.classes * test


def _guess(run: config.Run, inverse: float) -> tuple[float, float]:
    """Return the accuracy of a guess, and its standard deviation over 1 / `inverse` images."""
    guess = 1 / run.data.classes
    return guess, math.sqrt(guess * (1 - guess) * inverse)


def _possible(accuracy: float, images: int | None) -> bool:
    """Whether an accuracy is a share, and of whole images where their number is known."""
    return 0 <= accuracy <= 1 and (
        images is None or abs(accuracy * images - round(accuracy * images)) <= ROUNDING * images
    )


def _rows(snapshots: list[int], images: Iterable[str], layers: int) -> str:
    return f"snapshots {_join(snapshots)}, {' and '.join(images)} images, {layers} weight layers"


def _counts(jobs: list[tuple[str, int]]) -> str:
    return f"{len({run for run, _ in jobs})} runs, {len(jobs)} trainings"


def _join(numbers: Iterable[float]) -> str:
    return " ".join(f"{number:g}" for number in numbers)
