"""What the five student reports published, held against what is reproduced.

`published.csv` has a row for every row of their tables, and for figures that stand in their text: losses in
nats, accuracies in per cent, as printed. 1.815(3) means 1.815 +- 0.003, and an empty cell was not published.
`runs` names those of ours that repeat the row, under one schedule or both, `average` the number of final epochs
that the printed figures are a mean of.

A printed figure is that of one training. It **holds** where it is in the interval in which one more training of
ours would end with a probability of 95 %, t s sqrt(1 + 1/n) about the mean over n seeds (s: n - 1; t: Student's), or,
for fewer than three seeds, within 1.5 points of accuracy or 0.1 nats; its own rounding or printed uncertainty is
allowed for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from importlib import resources

import pandas as pd

from vanishing import aggregate, differences, latex, parameters
from vanishing.aggregate import Cell, Row

FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy")
"""Columns with results."""

ENOUGH_SEEDS = 3
"""Seeds from which on their own spread decides."""

MARGIN = {"accuracy": 1.5, "loss": 0.1}
"""Allowed distance with fewer seeds: points of accuracy, nats."""

HOLDS, FAILS, DIVERGED, OTHER, NOT_RUN = "holds", "does not hold", "diverged", "other settings", "not run"

JUDGED = (HOLDS, FAILS)
"""Verdicts on figures that have one of ours beside them, of the same settings."""

COLUMNS = [
    "report", "table", "run", "schedule", "metric", "published", "reproduced", "std", "n", "diverged", "difference",
    "tolerance", "verdict",
]  # fmt: skip
"""Of the table for machines."""

PARTS = {"train": "Training", "val": "Validation", "test": "Test"}


@dataclass(frozen=True, eq=False)
class Published:
    """A row of a published table."""

    report: str
    table: str
    model: str
    """The network, by the name that the variants of this project have."""
    runs: tuple[str, ...]
    """Ours that repeat it, the one with the schedule per epoch first."""
    learning_rate: float
    epochs: int
    batch_size: int
    weight_decay: float
    average: int
    figures: dict[str, str]
    """What was printed, by metric; those that were not are left out."""
    note: str

    def describes(self, run: parameters.Run) -> bool:
        """Return whether a run has the settings of this row, on CIFAR-100."""
        ours = (run.train.learning_rate, run.train.epochs, run.train.batch_size, run.train.weight_decay)
        theirs = (self.learning_rate, self.epochs, self.batch_size, self.weight_decay)
        return run.data.set == "cifar100" and ours == theirs


@dataclass(frozen=True)
class Claim:
    """A printed figure beside ours."""

    source: Published
    run: str
    schedule: str
    metric: str
    cell: Cell
    """Ours, in per cent or nats."""
    n: int
    """Seeds that `cell` is over."""
    diverged: int
    """Seeds that diverged, which have no figure."""
    comparable: bool

    @property
    def printed(self) -> str:
        """The figure as it was printed."""
        return self.source.figures[self.metric]

    @property
    def difference(self) -> float:
        """Ours minus theirs, in points or nats."""
        return self.cell.mean - value(self.printed)

    @property
    def tolerance(self) -> float:
        """How large a difference may be for the printed figure to hold."""
        margin = MARGIN[self.metric.partition("_")[2]]
        if self.n >= ENOUGH_SEEDS:
            margin = differences.quantile(self.n - 1) * self.cell.std * math.sqrt(1 + 1 / self.n)
        return margin + uncertainty(self.printed)

    @property
    def verdict(self) -> str:
        """By the rule of this module."""
        if math.isnan(self.cell.mean):
            return DIVERGED if self.diverged else NOT_RUN
        if not self.comparable:
            return OTHER
        return HOLDS if abs(self.difference) <= self.tolerance else FAILS


@cache
def load() -> tuple[Published, ...]:
    """Return every published row."""
    with (resources.files("vanishing") / "published.csv").open(encoding="utf-8") as handle:
        records = pd.read_csv(handle, dtype=str, keep_default_na=False).to_dict("records")
    return tuple(
        Published(
            report=record["report"],
            table=record["table"],
            model=record["model"],
            runs=tuple(record["runs"].split()),
            learning_rate=float(record["learning_rate"]),
            epochs=int(record["epochs"]),
            batch_size=int(record["batch_size"]),
            weight_decay=float(record["weight_decay"]),
            average=int(record["average"]),
            note=record["note"],
            figures={metric: record[metric] for metric in FIGURES if record[metric]},
        )
        for record in records
    )


def value(text: str) -> float:
    """Return the number in a printed cell such as 45.5(2); `ValueError` if there is none."""
    return float(text.partition("(")[0])


def uncertainty(text: str) -> float:
    """Return the uncertainty of a printed cell: its bracket, or half a unit of its last digit."""
    number, _, bracket = text.partition("(")
    unit = 10.0 ** int(Decimal(number).as_tuple().exponent)
    return int(bracket.rstrip(")")) * unit if bracket else unit / 2


def of_rows(rows: Iterable[Row]) -> list[Claim]:
    """List what was published of some runs, by report."""
    by_run = {row.run: row for row in rows}
    return [
        claim for source in load() for run in source.runs if run in by_run for claim in _claims(source, by_run[run])
    ]


def everything(settings: parameters.Parameters) -> list[Claim]:
    """List every published figure, with ours where the run has results; otherwise it counts as not run."""
    rows = {row.run: row for of_study in aggregate.collect(settings).values() for row in of_study}
    nothing = Cell(math.nan, math.nan)
    found = []
    for source in load():
        for run in source.runs:
            if run in rows:
                found += list(_claims(source, rows[run]))
            else:
                found += [Claim(source, run, "", metric, nothing, 0, 0, False) for metric in source.figures]
    return found


def table(claims: list[Claim]) -> pd.DataFrame:
    """Return a row for each printed figure: per cent and nats."""
    records = [
        (
            claim.source.report, claim.source.table, claim.run, claim.schedule, claim.metric, claim.printed,
            claim.cell.mean, claim.cell.std, claim.n, claim.diverged, claim.difference, claim.tolerance, claim.verdict,
        )
        for claim in claims
    ]  # fmt: skip
    return pd.DataFrame(records, columns=COLUMNS)


def tabular(claims: list[Claim]) -> str:
    """Return published beside reproduced in LaTeX: a line a row and run, a group of columns a part of the data."""
    lines: dict[tuple[Published, str], list[Claim]] = {}
    for claim in claims:
        lines.setdefault((claim.source, claim.run), []).append(claim)
    parts = [part for part in PARTS if any(claim.metric.startswith(part) for claim in claims)]
    groups = " & ".join(f"\\multicolumn{{3}}{{c}}{{{PARTS[part]}}}" for part in parts)
    rules = "".join(f"\\cmidrule(lr){{{3 + 3 * at}-{5 + 3 * at}}}" for at in range(len(parts)))
    head = [
        f"& & {groups} \\\\",
        rules,
        "Source & Run" + " & printed & ours & diff." * len(parts) + r" & hold \\",
    ]
    body = [
        [
            f"{source.report}, {source.table}",
            latex.code(run),
            *(cell for part in parts for cell in _cells(of_line, part)),
            _held(of_line),
        ]
        for (source, run), of_line in lines.items()
    ]
    return latex.tabular("ll" + "rrr" * len(parts) + "r", head, body)


def _claims(source: Published, row: Row) -> Iterator[Claim]:
    row = replace(row, average=source.average)
    comparable = source.describes(row.configuration)
    for metric in source.figures:
        cell, scale = row.cell(metric), aggregate.scale(metric)
        ours = Cell(cell.mean * scale, cell.std * scale)
        schedule = row.configuration.train.schedule
        n = len(row.completed)
        yield Claim(source, row.run, schedule, metric, ours, n, len(row.results) - n, comparable)


def _cells(claims: list[Claim], part: str) -> tuple[str, str, str]:
    """Write a part's accuracy, or its loss where no accuracy was printed; bold is what does not hold."""
    by_metric = {claim.metric: claim for claim in claims}
    claim = by_metric.get(f"{part}_accuracy") or by_metric.get(f"{part}_loss")
    if not claim:
        return "", "", ""
    unit = "\\,n" if claim.metric.endswith("loss") else ""
    if claim.verdict == DIVERGED:
        return f"{claim.printed}{unit}", "diverged", ""
    digits = 2
    difference = latex.signed(claim.difference, digits)
    if claim.verdict == FAILS:
        difference = f"\\textbf{{{difference.replace('$+$', '+').replace('$-$', '--')}}}"
    return f"{claim.printed}{unit}", claim.cell.text(digits=digits), difference


def _held(claims: list[Claim]) -> str:
    """Write how many of a row's figures hold, losses beside accuracies among them."""
    judged = [claim.verdict for claim in claims if claim.verdict in (*JUDGED, DIVERGED)]
    return f"{judged.count(HOLDS)} of {len(judged)}" if judged else "--"
