"""The results in README.md, written from `results/` alone.

No engine makes README.md: whoever commits results writes it again with `vanishing readme`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vanishing import config, files
from vanishing.errors import UserError
from vanishing.report.cells import plain_metric
from vanishing.report.tables import endings
from vanishing.results import aggregate, columns, store
from vanishing.results.aggregate import Row
from vanishing.results.columns import METRICS, SCHEDULES

README = Path("README.md")
BEGIN, END = "<!-- results: made by vanishing readme -->", "<!-- end of results -->"
"""Lines that the results stand between."""

CORE = "core"
"""The study that comes first, and of which every run without results is named."""


def write_readme(settings: config.Parameters) -> None:
    """Write the results into README.md; `UserError` if it is missing or has no place for them."""
    if not README.exists():
        raise UserError(f"{README}: missing; `vanishing readme` writes into the one of the project's folder")
    files.write(README, rewritten(README.read_text(encoding="utf-8"), block(settings)))


def rewritten(text: str, made: str) -> str:
    """Return `text` with `made` between its two markers; `UserError` unless each is there once, in order."""
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise UserError(f"{README}: needs the line {BEGIN}, and below it {END}, each once")
    return f"{before}{begin}{made}{end}{after}"


def block(settings: config.Parameters) -> str:
    """Return the results in Markdown: a table a study, each run in the first that it is in, then what is missing."""
    found = aggregate.collect(settings)
    shown: set[str] = set()
    lines = []
    for key in sorted(found, key=lambda key: key != CORE):
        rows = [row for row in found[key] if row.run not in shown]
        if rows:
            lines += [*_table(key, settings, rows), ""]
        shown |= {row.run for row in rows}
    return "\n".join(["", *lines, _missing(settings, found.get(CORE, [])), "", ""])


def _table(key: str, settings: config.Parameters, rows: list[Row]) -> Iterator[str]:
    """Yield the lines of a study: its title, what its runs share, and a row a run."""
    epochs = {row.configuration.train.epochs for row in rows}
    shared = [f"`{key}`", *(f"{count} epoch{'s' * (count > 1)}" for count in epochs if len(epochs) == 1)]
    shared += [f"mean of the final {rows[0].average}"] * (rows[0].average > 1)
    yield from (f"{settings.studies[key].title} ({', '.join(shared)}):", "")
    metrics = [f"{metric.part} {metric.head}".lower() for metric in columns.shown().values()]
    head = ["run", "schedule", "epochs", "precision", *metrics, "n", "device"]
    yield _line(head)
    yield _line(["---"] * len(head))
    yield from (_line(_cells(row)) for row in rows)


def _cells(row: Row) -> list[str]:
    train = row.configuration.train
    settings = [SCHEDULES[train.schedule], str(train.epochs), train.precision]
    metrics = [_text(row, key) for key in columns.shown()]
    counted = ", ".join([str(len(row.completed)), *endings(row)])
    return [row.run, *settings, *metrics, counted, " ".join(row.devices)]


def _text(row: Row, key: str) -> str:
    """Write a metric, with its standard deviation over the seeds where there is one."""
    mean, std = plain_metric(row, key)
    unit = " %" if METRICS[key].scale == 100 else ""
    return f"{mean}{std and f' ± {std}'}{unit}" if mean else "-"


def _missing(settings: config.Parameters, core: list[Row]) -> str:
    """Say how many of the study's trainings are there, and which runs of the core study have none."""
    here, planned = len(list(store.available(settings))), len(list(settings.jobs()))
    present = {row.run for row in core}
    missing = [f"`{run}`" for run in settings.study(CORE).runs if run not in present]
    text = f"{here} of the study's {planned} trainings are here."
    return f"{text} Runs of `{CORE}` without results: {', '.join(missing)}." if missing else text


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
