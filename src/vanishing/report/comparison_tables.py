"""The tables of the comparison, for machines and for people: what was published and what theory predicts, beside ours.

`results/comparison/` and `report/comparison/` hold them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from vanishing import config, files, paths
from vanishing.report import latex
from vanishing.report.cells import latex_cell
from vanishing.results import aggregate, initial_gradients, published, published_gradients, published_schedules, store
from vanishing.results.initial_gradients import Factor
from vanishing.results.published import SCHEDULES, Claim, Published
from vanishing.results.published_gradients import BoundClaim
from vanishing.results.published_schedules import READINGS, Attribution, Bracket, Scatter, fitting

PARTS = {"train": "Training", "val": "Validation", "test": "Test"}
"""Of the data, by what the published metrics begin with."""


def write_comparison(settings: config.Parameters) -> None:
    """Write the tables of the comparison."""
    results = aggregate.read_results(settings, settings.runs)
    studies = aggregate.rows_of_studies(settings, results, settings.studies)
    claims = published.value_claims(settings, studies)
    attributed = list(published_schedules.attribute(claims))
    scattered = list(published_schedules.final_scatter(studies))
    brackets = published_schedules.brackets_of(settings, scattered)
    bounds = list(published_gradients.bound_claims(settings, results))
    factors = list(initial_gradients.factors(settings, results))
    for name, frame in (
        ("published", published.values_frame(claims)),
        ("schedules", published_schedules.schedules_frame(attributed)),
        ("scatter", published_schedules.scatter_frame(scattered)),
        ("brackets", published_schedules.brackets_frame(brackets)),
        ("gradients", published_gradients.bounds_frame(bounds)),
        ("initialisation", initial_gradients.factors_frame(factors)),
    ):
        store.write_table(paths.COMPARISON / f"{name}.csv", frame)
    for name, text in (
        ("published", values_of_studies(settings, claims)),
        ("schedules", schedules_table(attributed)),
        ("scatter", scatter_table(scattered, brackets)),
        ("gradients", bounds_table(bounds)),
        ("initialisation", factors_table(factors)),
    ):
        files.write(paths.REPORT / "comparison" / f"{name}.tex", text)


def values_of_studies(settings: config.Parameters, claims: list[Claim]) -> str:
    r"""Define in LaTeX what `\publishedof{STUDY}` prints: published beside reproduced, of runs that have results."""
    lines = []
    for key, study in settings.studies.items():
        of_study = [claim for claim in claims if claim.run in study.runs and (claim.values or claim.diverged)]
        if of_study:
            lines.append(f"\\definepublished{{{key}}}{{%\n{values_table(of_study)}}}\n")
    return "".join(lines)


def values_table(claims: list[Claim]) -> str:
    """Return published beside reproduced in LaTeX: a line a row and run, the handout's rows first."""
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
    rows = [
        (
            source.origin,
            [source.name, latex.code(run), *(cell for part in parts for cell in _cells(of_line, part)), _held(of_line)],
        )
        for (source, run), of_line in lines.items()
    ]
    return latex.tabular("ll" + "rrr" * len(parts) + "r", head, *_by_origin(rows))


def schedules_table(found: Iterable[Attribution]) -> str:
    """Return in LaTeX how well each published row fits each schedule, the handout's rows first."""
    head = [
        rf"& & \multicolumn{{{len(SCHEDULES)}}}{{c}}{{Adjusted $p$}} & \\",
        rf"\cmidrule(lr){{3-{2 + len(SCHEDULES)}}}",
        rf"Source & Run & {' & '.join(SCHEDULES.values())} & Possible \\",
    ]
    rows = [
        (
            item.source.origin,
            [
                item.source.name,
                latex.code(item.source.runs[0]),
                *(_probability(each) for each in item.probabilities.values()),
                item.verdict,
            ],
        )
        for item in found
    ]
    return latex.tabular("ll" + "r" * len(SCHEDULES) + "l", head, *_by_origin(rows))


def scatter_table(scattered: Iterable[Scatter], brackets: list[Bracket]) -> str:
    """Return a line a schedule in LaTeX: our scatter, and how many of r2's brackets fit it in either reading."""
    by_schedule = published_schedules.stds_by_schedule(scattered)
    head = [
        rf"& & \multicolumn{{3}}{{c}}{{Ours (points)}} & \multicolumn{{{len(READINGS)}}}{{c}}{{Brackets that fit}} \\",
        rf"\cmidrule(lr){{3-5}}\cmidrule(lr){{6-{5 + len(READINGS)}}}",
        " & ".join(["Schedule & Trainings & least & pooled & most", *(f"as {each}" for each in READINGS)]) + r" \\",
    ]
    body = []
    for key, name in SCHEDULES.items():
        stds = by_schedule.get(key, [])
        ours = (min(stds), published_schedules.root_mean_square(stds), max(stds)) if stds else [math.nan] * 3
        counts = [fitting(brackets, key, reading) for reading in READINGS]
        fit = [f"{some} of {tested}" if tested else "--" for some, tested in counts]
        body.append([name, str(len(stds)), *(latex.number(each, 2) for each in ours), *fit])
    return latex.tabular("lr" + "rrr" + "r" * len(READINGS), head, body)


def bounds_table(claims: Iterable[BoundClaim]) -> str:
    """Return published bounds beside ours in LaTeX, without what was not run, the handout's rows first."""
    head = [
        r"& & & & \multicolumn{2}{c}{Published} & \multicolumn{3}{c}{Ours, augmented} & plain & \\",
        r"\cmidrule(lr){5-6}\cmidrule(lr){7-9}\cmidrule(lr){10-10}",
        r"Source & Run & Layers & & from & to & smallest & median & largest & median & \\",
    ]
    rows = [
        (
            claim.bound.origin,
            [
                claim.bound.name,
                latex.code(claim.run),
                claim.bound.layers.replace("-", "--"),
                {"min": "smallest", "max": "largest"}[claim.bound.statistic] if claim.bound.several else "",
                *("" if math.isnan(value) else latex.number(value) for value in (claim.bound.low, claim.bound.high)),
                *map(latex.number, (*claim.quantiles, claim.plain_median)),
                claim.verdict,
            ],
        )
        for claim in claims
        if claim.values
    ]
    return latex.tabular("llllrrrrrrl", head, *_by_origin(rows))


def factors_table(found: Iterable[Factor]) -> str:
    """Return predictions of gradients at initialisation beside ours in LaTeX."""
    head = [r"Network & Against & & Predicted & Within a factor & Measured & from & to & $n$ & \\"]
    body = [
        [
            latex.code(item.network),
            latex.code(item.against) if item.against else "",
            item.quantity,
            *map(latex.number, (item.predicted, item.tolerance, item.measured, item.smallest, item.largest)),
            str(item.n),
            item.verdict,
        ]
        for item in found
    ]
    return latex.tabular("lllrrrrrrl", head, body)


def _by_origin(rows: Iterable[tuple[str, list[str]]]) -> list[list[list[str]]]:
    """Part rows of a table into the handout's and the authors', as far as there are any."""
    listed = list(rows)
    parted = [[cells for origin, cells in listed if origin == each] for each in published.ORIGINS]
    return [part for part in parted if part]


def _cells(claims: list[Claim], part: str) -> tuple[str, str, str]:
    """Write a part's accuracy, or its loss where no accuracy was printed; bold is what does not hold."""
    by_metric = {claim.metric: claim for claim in claims}
    claim = by_metric.get(f"{part}_accuracy") or by_metric.get(f"{part}_loss")
    if not claim:
        return "", "", ""
    unit = "\\,n" if claim.metric.endswith("loss") else ""
    if not claim.values:
        return f"{claim.printed}{unit}", "diverged", ""
    difference = latex.signed(claim.difference, 2)
    if claim.verdict == published.FAILS:
        difference = f"\\textbf{{{difference.replace('$+$', '+').replace('$-$', '--')}}}"
    return f"{claim.printed}{unit}", latex_cell(claim.cell), difference


def _held(claims: list[Claim]) -> str:
    """Write how many of a row's values hold, losses beside accuracies among them; b marks a borrowed spread."""
    judged = [claim.verdict for claim in claims if claim.verdict in (*published.JUDGED, published.DIVERGED)]
    borrowed = any(claim.prediction is not None and claim.prediction.borrowed for claim in claims)
    mark = latex.BORROWED if borrowed else ""
    return f"{judged.count(published.HOLDS)} of {len(judged)}{mark}" if judged else "--"


def _probability(value: float | None) -> str:
    return "--" if value is None else "$<$ 0.001" if value < 0.001 else latex.number(value, 3)
