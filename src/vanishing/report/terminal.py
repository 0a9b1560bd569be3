"""What `vanishing show` and `vanishing compare` print."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import pandas as pd

from vanishing import config
from vanishing.console import aligned
from vanishing.errors import UserError
from vanishing.report import markdown, tables
from vanishing.results import aggregate, columns, store
from vanishing.results.aggregate import Row
from vanishing.results.columns import METRICS
from vanishing.results.differences import Difference, between

Job = tuple[str, int]


def studies(settings: config.Parameters, found: Mapping[str, list[Row]], form: str) -> str:
    """Return the tables of studies as `text`, `markdown`, `latex`, or `csv`, which is one table of all."""
    if form == "csv":
        frames = [aggregate.study_frame(rows).assign(study=key).set_index("study") for key, rows in found.items()]
        return store.as_text(pd.concat(frames).reset_index()) if frames else ""
    parts = []
    for key, rows in found.items():
        title = settings.studies[key].title
        parts.append(
            f"{tables.study_text(title, rows)}\n{_missing(settings.studies[key], rows)}" if form == "text"
            else f"% {title}\n{tables.study_table(rows)}" if form == "latex"
            else "\n".join([*markdown.table(key, settings, rows), ""])
        )  # fmt: skip
    return ("" if form == "text" else "\n").join(parts)


def comparison(settings: config.Parameters, first: Collection[Job], second: Collection[Job]) -> str:
    """Compare two runs, each with some of its seeds: settings that differ, metrics, differences.

    Raises:
        ParameterError: a training is on both sides.
        UserError: one of them has no results.
    """
    if both := [job for job in first if job in second]:
        raise config.ParameterError(f"{both[0][0]}:{both[0][1]}: on both sides; allowed: two runs, or two seeds of one")
    left, right = _row(settings, first), _row(settings, second)
    heads = [_title(settings, row) for row in (left, right)]
    differing = config.differences(left.configuration.configuration(), right.configuration.configuration())
    changed = [(key, *(json.dumps(value) for value in pair)) for key, pair in differing.items()]
    settings_text = aligned([("configuration", *heads), *changed], gap=2) if changed else "one configuration"
    found = [between(left, right, key) for key in columns.shown()]
    head = ("metric", *heads, "difference", "95 % interval", "n", "verdict")
    rows = [head, *(_cells(each, left, right) for each in found)]
    return "\n".join([settings_text, "", aligned(rows, gap=2), *_remarks(found[0].counts[0], [left, right], heads)])


def _missing(study: config.Study, rows: Sequence[Row]) -> str:
    """Name the runs of a study that its table lacks, in a line; nothing where it has all."""
    missing = study.missing({row.run for row in rows})
    return f"no results yet: {', '.join(missing)}\n" if missing else ""


def _row(settings: config.Parameters, jobs: Collection[Job]) -> Row:
    run = next(iter(jobs))[0]
    results = [store.read(*job) for job in jobs if store.is_available(settings, *job)]
    if not results:
        raise UserError(f"{run}: no results for these seeds yet; see `vanishing status`")
    return Row(run, settings.run(run), results)


def _title(settings: config.Parameters, row: Row) -> str:
    """Name a run, with its seeds where it has others too."""
    seeds = [result.seed for result in row.results]
    return row.run if seeds == settings.seeds_of(row.run) else f"{row.run}:{','.join(map(str, seeds))}"


def _cells(item: Difference, left: Row, right: Row) -> Sequence[str]:
    """Write a metric of both runs, and the difference in nats or in points of accuracy."""
    metric = METRICS[item.metric]
    ends = (item.mean, item.mean - item.margin, item.mean + item.margin)
    mean, low, high = (f"{each * metric.scale:+.{metric.decimals}f}" for each in ends)
    interval = "-" if math.isnan(item.margin) else f"{low} to {high}"
    values = (markdown.metric(row, item.metric) for row in (left, right))
    return metric.title, *values, mean if item.counts[0] else "-", interval, f"{item.counts[0]}", item.verdict


def _remarks(n: int, rows: Sequence[Row], heads: Sequence[str]) -> Iterator[str]:
    """Say what so few seeds cannot tell, and which trainings have not come to their end."""
    for row, head in zip(rows, heads, strict=True):
        if ended := tables.endings(row):
            yield f"{head}: {', '.join(ended)}"
    if n == 0:
        yield "no seed in common, so no paired difference"
    if n == 1:
        yield "n = 1: one pair of trainings has no interval, since it says nothing of the spread over seeds"
