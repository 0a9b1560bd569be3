"""What the five student reports published, held against what is reproduced.

`published.csv` has a row for every row of their tables, and for values that stand in their text: losses in
nats, accuracies in per cent, as printed. 1.815(3) means 1.815 +- 0.003, and an empty cell was not published.
`origin` says who trained: the course, whose template has the row filled in (`handout`), or the author (`report`).
`settings` is how the network differs from plain VGG38, `runs` names those of ours that repeat the row, a run a
schedule, `average` is the number of final epochs that the printed values are a mean of, and `throughput` is in
iterations per second.

A printed value is taken for that of one training, validated on other images. It **holds** where it lies in the 95 %
prediction interval of one more such training (`statistics.predict`), its own rounding or uncertainty allowed for. The
spread over seeds is the run's own from three seeds on; with fewer it is borrowed from the core study, pooled over its
runs under the same schedule, those that learn or, for a network at chance, those that stay there. Where those that
learn all end alike, which a few can by chance, there is none to borrow. To it comes, in validation, the variance
between our n images and theirs, a mean over m minibatches of n_j: p (1 - p) c for an accuracy p and s^2 c for a loss of
standard deviation s over images, c = 1 / n + sum(1 / n_j) / m^2, which is 2 / n where all minibatches are equal. Test
images are the same for everybody.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from importlib import resources

import pandas as pd

from vanishing import config
from vanishing.results import aggregate, columns, lending, statistics
from vanishing.results.aggregate import Cell, Row
from vanishing.results.lending import Pool
from vanishing.results.statistics import Prediction

METRICS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy")
"""Columns with results."""

HOLDS, FAILS, DIVERGED, OTHER, NOT_RUN, NO_SPREAD = (
    "holds", "does not hold", "diverged", "other settings", "not run", "no spread",
)  # fmt: skip

JUDGED = (HOLDS, FAILS)
"""Verdicts on values that have one of ours beside them, of the same settings."""

ORIGINS = ("handout", "report")
"""Who trained a row: the course, before any report, or the report's author."""

SCHEDULES = columns.SCHEDULES | {"constant": "constant rate"}
"""The schedules that a published row may have been trained with, and what they are called beside one another."""

PLAIN = {
    "stages": 3, "blocks": 5, "filters": 32, "kernel_size": 3, "activation": "leaky_relu", "norm": "none", "groups": 8,
    "convolutions": 2, "shortcut": "none", "reduction": "plain", "reduction_shortcut": "none",
    "initialisation": "default", "gradient_amplification": 1.0,
}  # fmt: skip
"""Plain VGG38, whatever the defaults of `params.yaml` are."""

TRAIN = ("learning_rate", "final_learning_rate", "epochs", "batch_size", "weight_decay")
"""Training settings that a row has a column for."""

UNSTATED = ("schedule", "precision", "device", "kernels", "threads", "snapshots")
"""Training settings that a row does not fix: the hypothesis, and on what and how it is computed and kept."""

COLUMNS = [
    "report", "table", "origin", "run", "schedule", "metric", "published", "reproduced", "std", "n", "diverged",
    "difference", "spread", "freedom", "tolerance", "p", "verdict",
]  # fmt: skip
"""Of the table for machines."""


def title(origin: str, report: str, place: str) -> str:
    """Return what a published row or bound is called in print."""
    return f"{'handout, in ' if origin == 'handout' else ''}{report}, {place}"


@dataclass(frozen=True, eq=False)
class Published:
    """A row of a published table."""

    report: str
    table: str
    origin: str
    """`handout` or `report`."""
    model: str
    """The network, by the name that the variants of this project have."""
    network: dict[str, object]
    """Every key of its model block."""
    runs: tuple[str, ...]
    """Ours that repeat it, in the order of `SCHEDULES`."""
    train: dict[str, float]
    """Its training settings, as far as a row fixes them."""
    average: int
    printed: dict[str, str]
    """What was printed, by metric; those that were not are left out."""
    throughput: float | None
    """Iterations per second; None where none was printed."""

    @property
    def name(self) -> str:
        """What the row is called in print."""
        return title(self.origin, self.report, self.table)

    def describes(self, run: config.Run) -> bool:
        """Return whether a run has every setting of this row, on the split of CIFAR-100 that the reports had."""
        data = run.data.set == "cifar100" and run.data.validation_per_class == 25
        model = run.model.model_dump()
        unused = {"groups"} if model["norm"] != "group" else set()
        network = all(model[key] == self.network.get(key) for key in model.keys() - unused)
        return data and network and run.train.model_dump(exclude=set(UNSTATED)) == self.train


@dataclass(frozen=True)
class Claim:
    """A printed value beside ours, in per cent or nats."""

    source: Published
    run: str
    schedule: str
    metric: str
    values: tuple[float, ...]
    """Ours, a seed each."""
    diverged: int
    """Seeds that diverged, which have no value."""
    comparable: bool
    prediction: Prediction | None
    """Of one more training; None without a run of ours or an estimate of its spread."""

    @property
    def printed(self) -> str:
        """The value as it was printed."""
        return self.source.printed[self.metric]

    @property
    def cell(self) -> Cell:
        """Mean and standard deviation of ours."""
        return aggregate.spread(self.values)

    @property
    def difference(self) -> float:
        """Ours minus theirs, in points or nats."""
        return self.cell.mean - value(self.printed)

    @property
    def tolerance(self) -> float:
        """How large a difference may be for the printed value to hold."""
        return self.prediction.half_width + uncertainty(self.printed) if self.prediction else math.nan

    @property
    def probability(self) -> float:
        """How likely one more training of ours is to end as far off; 0 where all of them diverged."""
        if self.prediction is None:
            return 0.0 if self.verdict == DIVERGED else math.nan
        return self.prediction.probability(value(self.printed), uncertainty(self.printed))

    @property
    def verdict(self) -> str:
        """By the rule of this module."""
        if not (self.values or self.diverged):
            return NOT_RUN
        if not self.comparable:
            return OTHER
        if not self.values:
            return DIVERGED
        if self.prediction is None:
            return NO_SPREAD
        return HOLDS if abs(self.difference) <= self.tolerance else FAILS


@cache
def load() -> tuple[Published, ...]:
    """Return every published row."""
    with (resources.files("vanishing.results") / "published.csv").open(encoding="utf-8") as handle:
        records = pd.read_csv(handle, dtype=str, keep_default_na=False).to_dict("records")
    return tuple(
        Published(
            report=record["report"],
            table=record["table"],
            origin=record["origin"],
            model=record["model"],
            network=PLAIN | dict(_setting(text) for text in record["settings"].split()),
            runs=tuple(record["runs"].split()),
            train={"recipe": 1, "l1": 0.0, "patience": 0} | {key: float(record[key]) for key in TRAIN},
            average=int(record["average"]),
            printed={metric: record[metric] for metric in METRICS if record[metric]},
            throughput=float(record["throughput"]) if record["throughput"] else None,
        )
        for record in records
    )


def value(text: str) -> float:
    """Return the number in a printed cell such as 45.5(2); `ValueError` if there is none."""
    return float(text.partition("(")[0])


def uncertainty(text: str) -> float:
    """Return the uncertainty of a printed cell: its bracket, or half a unit of its last digit."""
    bracket = text.partition("(")[2]
    return int(bracket.rstrip(")")) * unit(text) if bracket else unit(text) / 2


def unit(text: str) -> float:
    """Return a unit of the last digit of a printed cell."""
    return 10.0 ** int(Decimal(text.partition("(")[0]).as_tuple().exponent)


def repeats(run: str) -> bool:
    """Return whether a run repeats a published row that has values, and not a curve alone."""
    return any(run in source.runs and source.printed for source in load())


def value_claims(settings: config.Parameters, studies: Mapping[str, list[Row]]) -> list[Claim]:
    """List every published value, with ours where the run is among the rows of `studies`; else it counts as not run."""
    lent = Pool(tuple(studies.get(config.CORE, [])))
    rows = {row.run: row for of_study in studies.values() for row in of_study}
    found = []
    for source in load():
        for run in source.runs:
            if run in rows:
                found += list(_claims(source, rows[run], lent))
            else:
                schedule = settings.run(run).train.schedule if run in settings.runs else ""
                found += [Claim(source, run, schedule, metric, (), 0, False, None) for metric in source.printed]
    return found


def verdicts(claims: Iterable[Claim]) -> dict[str, int]:
    """Count values and comparisons: what two tables print is one value, and under each schedule one comparison.

    Returns:
        published/figures: values; published/compared: those with a verdict; published/holds: those that hold under
        some schedule; the last two for each origin too. published/judged: comparisons; published/fail: those that
        fail; published/borrowed: those with a borrowed spread.
    """
    compared: dict[tuple[str, ...], dict[str, Claim]] = {}
    for claim in claims:
        value = claim.source.origin, claim.source.runs[0], claim.metric, claim.printed
        compared.setdefault(value, {})[claim.run] = claim
    judged = [
        [claim for claim in of_value.values() if claim.verdict in (*JUDGED, DIVERGED)] for of_value in compared.values()
    ]
    every = [claim for of_value in judged for claim in of_value]
    counts = {
        "published/figures": len(compared),
        "published/judged": len(every),
        "published/fail": sum(claim.verdict != HOLDS for claim in every),
        "published/borrowed": sum(claim.prediction is not None and claim.prediction.borrowed for claim in every),
    }
    for part in ("", *ORIGINS):
        values = [found for found in judged if found and part in ("", found[0].source.origin)]
        stem = f"published/{part}/" if part else "published/"
        counts[f"{stem}compared"] = len(values)
        counts[f"{stem}holds"] = sum(any(claim.verdict == HOLDS for claim in found) for found in values)
    return counts


def values_frame(claims: Iterable[Claim]) -> pd.DataFrame:
    """Return a row for each printed value: per cent and nats."""
    records = [
        (
            claim.source.report, claim.source.table, claim.source.origin, claim.run, claim.schedule, claim.metric,
            claim.printed, claim.cell.mean, claim.cell.std, len(claim.values), claim.diverged, claim.difference,
            _lender(claim), claim.prediction.freedom if claim.prediction else math.nan, claim.tolerance,
            claim.probability, claim.verdict,
        )
        for claim in claims
    ]  # fmt: skip
    return pd.DataFrame(records, columns=COLUMNS)


def _setting(text: str) -> tuple[str, object]:
    """Read a setting such as blocks=0."""
    key, _, written = text.partition("=")
    return key, int(written) if written.isdigit() else written


def _sampling(row: Row, metric: str, mean: float, lent: Pool) -> float | None:
    """Return the variance between two sets of images, in squared points or nats; None where it is unknown."""
    if metric == "val_accuracy":
        return mean * (100 - mean) * _between(row.configuration)
    if metric == "val_loss":
        std = lent.loss_std(row)
        return None if std is None else std**2 * _between(row.configuration)
    return 0.0


def _between(run: config.Run) -> float:
    """Return the variance between two sets of validation images, in units of that over single images.

    Ours is a mean over n images, theirs one over the minibatches of n images, a short last one among them: 2 / n where
    there is none.
    """
    images, size = run.data.classes * run.data.validation_per_class, run.train.batch_size
    sizes = [min(size, images - start) for start in range(0, images, size)]
    return 1 / images + sum(1 / each for each in sizes) / len(sizes) ** 2


def _lender(claim: Claim) -> str:
    """Say whose spread a claim is judged by."""
    if claim.prediction is None:
        return ""
    return "borrowed" if claim.prediction.borrowed else "own"


def _claims(source: Published, row: Row, lent: Pool) -> Iterator[Claim]:
    row = replace(row, average=source.average)
    comparable, schedule = source.describes(row.configuration), row.configuration.train.schedule
    for metric in source.printed:
        values = lending.scaled(row, metric)
        sampling = _sampling(row, metric, math.fsum(values) / len(values), lent) if values else None
        borrowed = lent.spread(row, metric)
        prediction = None if sampling is None else statistics.predict(values, borrowed, sampling)
        diverged = len(row.results) - len(row.completed)
        yield Claim(source, row.run, schedule, metric, tuple(values), diverged, comparable, prediction)
