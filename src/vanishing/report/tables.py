"""The tables of a study.

`results/tables/STUDY.csv` is the table for machines: fractions and nats, mean and standard deviation
(n - 1) over the seeds. `STUDY-differences.csv` has the differences between runs. `report/tables/` has the same
for people, with the columns on how trainings went in `STUDY-dynamics.tex`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby

import pandas as pd

from vanishing import config, files, paths
from vanishing.errors import UserError
from vanishing.report import latex
from vanishing.report.cells import latex_metric, plain_metric
from vanishing.results import aggregate, columns, differences, store
from vanishing.results.aggregate import Row
from vanishing.results.columns import SCHEDULES, SETTINGS
from vanishing.results.differences import Difference

MIXED = r"\dag{}"
"""Marks an n over trainings on both kinds of device."""


def write_tables(settings: config.Parameters, keys: Iterable[str] | None = None) -> None:
    """Write the tables of studies, all that have results if `keys` is None; `UserError` if one named has none."""
    found = aggregate.collect(settings, keys)
    for key in keys or []:
        if key not in found:
            raise UserError(f"study {key!r} has no results yet; `snakemake {key}` makes them")
    for key, rows in found.items():
        pairs = list(differences.of_study(settings.studies[key], rows))
        store.write_table(paths.TABLES / f"{key}.csv", aggregate.study_frame(rows))
        store.write_table(paths.TABLES / f"{key}-differences.csv", differences.frame(pairs))
        for name, text in (
            (key, study_table(rows)),
            (f"{key}-dynamics", dynamics_table(rows)),
            (f"{key}-differences", differences_table(pairs)),
        ):
            files.write(paths.REPORT / "tables" / f"{name}.tex", text)


def study_table(rows: list[Row]) -> str:
    """Return the table of a study in LaTeX: metrics grouped by the part of the data that they are of."""
    settings, metrics = differing_settings(rows), columns.shown()
    first = 4 + len(settings)
    groups, rules, start = [""] * (first - 1), "", first
    for part, of_part in groupby(metric.part for metric in metrics.values()):
        width = len(list(of_part))
        groups.append(f"\\multicolumn{{{width}}}{{c}}{{{part}}}" if width > 1 else part)
        rules += f"\\cmidrule(lr){{{start}-{start + width - 1}}}"
        start += width
    heads = [metric.head.replace("Accuracy", "Acc.") for metric in metrics.values()]
    head = ["Run", "Layers", "Parameters", *(SETTINGS[key].head for key in settings), *heads, r"$n$ \\"]
    body = [
        [
            latex.code(row.run),
            str(row.results[0].summary["layers"]),
            latex.number(row.results[0].summary["parameters"], 0),
            *(_setting(row, key) for key in settings),
            *(latex_metric(row, key) for key in metrics),
            _seeds(row),
        ]
        for row in rows
    ]
    specification = "lrr" + "r" * (len(settings) + len(metrics)) + "l"
    return latex.tabular(specification, [" & ".join([*groups, r"\\"]), rules, " & ".join(head)], body)


def dynamics_table(rows: list[Row]) -> str:
    """Return in LaTeX when each run of a study left the loss of a guess, how high its loss rose, and how it settled."""
    metrics = columns.shown(dynamics=True)
    head = " & ".join(["Run", *(metric.head for metric in metrics.values()), r"$n$ \\"])
    body = [[latex.code(row.run), *(_dynamics(row, key) for key in metrics), _seeds(row)] for row in rows]
    return latex.tabular("l" + "r" * len(metrics) + "l", [head], body)


def differences_table(found: list[Difference]) -> str:
    """Return the differences in LaTeX, in points of accuracy: a line a pair."""
    pairs: dict[tuple[str, str], list[Difference]] = {}
    for item in found:
        pairs.setdefault((item.first, item.second), []).append(item)
    head = [
        r"& & & \multicolumn{2}{c}{Validation} & \multicolumn{2}{c}{Test} \\",
        r"\cmidrule(lr){4-5}\cmidrule(lr){6-7}",
        r"Run & minus & $n$ & Difference & First is & Difference & First is \\",
    ]
    body = [
        [
            latex.code(first),
            latex.code(second),
            _counts(items[0]),
            *(cell for it in items for cell in (_marked(it), it.verdict if all(it.counts) else "--")),
        ]
        for (first, second), items in pairs.items()
    ]
    return latex.tabular("lllrlrl", head, body)


def _counts(item: Difference) -> str:
    """Write of how many trainings a difference is: of so many pairs, or of so many of either run."""
    return "{} and {}".format(*item.counts) if item.borrowed else str(item.counts[0])


def _marked(item: Difference) -> str:
    return difference_text(item) + latex.BORROWED * item.borrowed


def difference_text(item: Difference) -> str:
    """Write a difference in LaTeX, in points of accuracy, with its margin; a dash for no seed."""
    margin = "" if math.isnan(item.margin) else f" $\\pm$ {latex.number(100 * item.margin, 2)}"
    return latex.signed(100 * item.mean, 2) + margin


def differing_settings(rows: list[Row]) -> list[str]:
    """List the settings in which the runs of a study differ."""
    return [key for key in _in_order() if len({getattr(row.configuration.train, key) for row in rows}) > 1]


def common_settings(rows: list[Row]) -> str:
    """Name in LaTeX the settings that all runs of a study share."""
    differing = differing_settings(rows)
    return ", ".join(f"{SETTINGS[key].name} {_setting(rows[0], key)}" for key in _in_order() if key not in differing)


def study_text(title: str, rows: list[Row]) -> str:
    """Return the table of a study for a terminal."""
    shown = pd.DataFrame(
        {
            "run": row.run,
            "layers": row.results[0].summary["layers"],
            "rate": row.configuration.train.learning_rate,
            "n": len(row.results),
            **{key: plain_metric(row, key)[0] or "-" for key in columns.shown()},
            "status": ", ".join(endings(row)) or "completed",
        }
        for row in rows
    )
    return f"{title} (losses in nats, accuracies in %)\n{shown.to_string(index=False)}"


def endings(row: Row) -> list[str]:
    """Name the seeds that diverged or stopped early, with the epochs in which they did."""
    found = []
    for status in ("diverged", "stopped early"):
        epochs = [str(result.summary["epochs"]) for result in row.results if result.summary["status"] == status]
        if epochs:
            found.append(f"{len(epochs)} {status} (epoch {', '.join(epochs)})")
    return found


def _in_order() -> list[str]:
    """List the settings as people read them: how long a training is comes last."""
    return sorted(SETTINGS, key=lambda key: key == "epochs")


def _setting(row: Row, key: str) -> str:
    value = getattr(row.configuration.train, key)
    return latex.number(value) if isinstance(value, float) else SCHEDULES.get(value, str(value))


def _dynamics(row: Row, key: str) -> str:
    """Write a metric of how trainings went, and how many of a run's seeds have an onset if not all."""
    epochs = row.values("onset").values()
    left = sum(not math.isnan(epoch) for epoch in epochs)
    partly = key == "onset" and 0 < left < len(epochs)
    return latex_metric(row, key) + (f" ({left} of {len(epochs)})" if partly else "")


def _seeds(row: Row) -> str:
    """Write the seeds that a row is over, those that did not train for all epochs, and whether devices are mixed."""
    ended = endings(row)
    count = f"{len(row.completed)}{MIXED if len(row.devices) > 1 else ''}"
    return " + ".join([count, *(text for text in ended if "diverged" in text)]) + "".join(
        f", {text}" for text in ended if "diverged" not in text
    )
