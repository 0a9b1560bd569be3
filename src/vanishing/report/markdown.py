"""The table of a study in Markdown: for README.md, `docs/`, and whoever asks for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vanishing import config
from vanishing.console import counted
from vanishing.report.cells import plain_metric
from vanishing.report.tables import endings
from vanishing.results import columns
from vanishing.results.aggregate import Row
from vanishing.results.columns import METRICS, SCHEDULES


def table(key: str, settings: config.Parameters, rows: list[Row]) -> Iterator[str]:
    """Yield the lines of a study: its title, what its runs share, and a row a run."""
    epochs = {row.configuration.train.epochs for row in rows}
    shared = [f"`{key}`", *(counted(count, "epoch") for count in epochs if len(epochs) == 1)]
    shared += [f"mean of the final {rows[0].average}"] * (rows[0].average > 1)
    yield from (f"{settings.studies[key].title} ({', '.join(shared)}):", "")
    metrics = [metric.title for metric in columns.shown().values()]
    head = ["run", "schedule", "epochs", "precision", *metrics, "n", "device"]
    yield line(head)
    yield line(["---"] * len(head))
    yield from (line(_cells(row)) for row in rows)


def _cells(row: Row) -> list[str]:
    train = row.configuration.train
    settings = [SCHEDULES[train.schedule], str(train.epochs), train.precision]
    metrics = [metric(row, key) for key in columns.shown()]
    seeds = ", ".join([str(len(row.completed)), *endings(row)])
    return [row.run, *settings, *metrics, seeds, " ".join(row.devices)]


def metric(row: Row, key: str) -> str:
    """Write a metric, with its standard deviation over the seeds where there is one."""
    mean, std = plain_metric(row, key)
    unit = " %" if METRICS[key].scale == 100 else ""
    return f"{mean}{std and f' ± {std}'}{unit}" if mean else "-"


def line(cells: Sequence[str]) -> str:
    """Write a row of a table."""
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"
