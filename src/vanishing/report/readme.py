"""The results in README.md and `docs/`, written from `results/` alone.

No engine makes these: whoever commits results writes them again with `vanishing readme`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from vanishing import config, files
from vanishing.errors import UserError
from vanishing.report import figures, markdown, overview
from vanishing.report.why import section
from vanishing.results import aggregate, store
from vanishing.results.aggregate import Row

README, DOCS = Path("README.md"), Path("docs")
PAGE = DOCS / "results.md"
COLUMNS = DOCS / "analyses.md"
BEGIN, END = "<!-- results: made by vanishing readme -->", "<!-- end of results -->"
"""Lines that the results in README.md stand between."""

ANSWERING = ("vgg08", "vgg38", "vgg38_bn", "vgg38_rc", "vgg38_bn_rc")
"""Runs of the core study that answer the project's question."""

ANALYSES = """# Analyses of trajectories

`vanishing readme` makes this page from the modules in `src/vanishing/analysis/`. Each analysis reads the trajectories
of the runs that its block in `params.yaml` lists and writes `results/analyses/RUN/seedS/NAME.csv`; the column `epoch`
of the snapshot comes first. `vanishing signal vgg38 --seed 0` measures one trajectory, and
`vanishing signal --missing` all that are left; the others alike. On a GPU, `landscape` evaluates several points in
weight space at once; no other analysis does. Losses are in nats.
"""

INTRODUCTION = """# Results

`vanishing readme` makes this page from `results/`. Training and validation metrics are those of the last epoch; the
test set is used once, with the weights of the epoch of best validation accuracy. Losses are in nats. A value is the
mean over n seeds, with the sample standard deviation (n - 1) where n > 1. Each run stands in the first study that has
it. In the names of runs, `bn` means batch normalisation, `rc` residual connections, `lr2` a learning rate of 1e-2, and
`it` a schedule stepped at every iteration.
"""


def write_readme(settings: config.Parameters) -> None:
    """Write the results into README.md and `docs/`; `UserError` if README.md is missing or has no place for them."""
    if not README.exists():
        raise UserError(f"{README}: missing; `vanishing readme` writes into the one of the project's folder")
    found = aggregate.collect(settings)
    files.write(README, rewritten(README.read_text(encoding="utf-8"), block(settings, found)))
    files.write(PAGE, page(settings, found))
    files.write(COLUMNS, columns_page())
    if drawn := overview.draw(settings, found):
        figures.save({"result": drawn[0]}, DOCS, "svg")


def rewritten(text: str, made: str) -> str:
    """Return `text` with `made` between its two markers; `UserError` unless each is there once, in order."""
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise UserError(f"{README}: needs the line {BEGIN}, and below it {END}, each once")
    return f"{before}{begin}{made}{end}{after}"


def block(settings: config.Parameters, found: Mapping[str, list[Row]]) -> str:
    """Return the results for README.md: the table of the core study, and what is missing."""
    core = found.get(config.CORE, [])
    table = [*markdown.table(config.CORE, settings, core), ""] if core else []
    return "\n".join(["", *_other_images(settings), *_answer(core), *table, _missing(settings, core), "", ""])


def _answer(core: list[Row]) -> list[str]:
    """Say in a line what depth does to plain networks and what each cure restores, once all have results."""
    by_run = {row.run: row for row in core}
    if not all(run in by_run and by_run[run].completed for run in ANSWERING):
        return []
    shallow, deep, *cured = (markdown.metric(by_run[run], "test_accuracy") for run in ANSWERING)
    few, many = (by_run[run].results[0].summary["layers"] for run in ANSWERING[:2])
    chance = ", which stay at chance," if by_run["vgg38"].at_chance else ""
    return [
        f"On the test set, {few} plain layers reach {shallow}, and {many}{chance} {deep}. "
        f"With {many} layers, BN gives {cured[0]}, RC {cured[1]}, and both {cured[2]}.",
        "",
    ]


def _other_images(settings: config.Parameters) -> list[str]:
    """Say whose images these are, where they are the user's."""
    if not settings.data.own:
        return []
    return [f"The images are those of {settings.data.name}, in {settings.data.classes} classes, not CIFAR-100.", ""]


def page(settings: config.Parameters, found: Mapping[str, list[Row]]) -> str:
    """Return `docs/results.md`: a table a study, each run in the first that it is in."""
    shown: set[str] = set()
    lines = [INTRODUCTION, *_other_images(settings)]
    for key in sorted(found, key=lambda key: key != config.CORE):
        rows = [row for row in found[key] if row.run not in shown]
        if rows:
            lines += [*markdown.table(key, settings, rows), ""]
        shown |= {row.run for row in rows}
    return "\n".join([*lines, _count(settings), ""])


def columns_page() -> str:
    """Return `docs/analyses.md`: what each analysis measures, and the columns of its file."""
    lines = [ANALYSES]
    for name in section.TITLES:
        module = importlib.import_module(f"vanishing.analysis.{name}")
        lines += [f"## {name}", "", (module.__doc__ or "").strip(), ""]
        lines += [markdown.line(["column", "meaning"]), markdown.line(["---", "---"])]
        lines += [*(markdown.line([f"`{column}`", meaning]) for column, meaning in module.COLUMNS.items()), ""]
    return "\n".join(lines)


def _missing(settings: config.Parameters, core: list[Row]) -> str:
    """Say how many of the study's trainings are there, and which runs of the core study have none."""
    missing = [f"`{run}`" for run in settings.study(config.CORE).missing({row.run for row in core})]
    lacking = f" `{config.CORE}` has no results yet for {', '.join(missing)}." if missing else ""
    return f"{_count(settings)}{lacking} [All results]({PAGE})."


def _count(settings: config.Parameters) -> str:
    return f"{len(list(store.available(settings)))} of the study's {len(list(settings.jobs()))} trainings are complete."
