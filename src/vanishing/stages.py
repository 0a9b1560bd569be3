"""The stages of the pipeline as both engines call them: read what a stage needs, compute, write.

Each function is a command of `vanishing` and a rule of the same name. CONTRIBUTING.md says how to add one.
"""

from __future__ import annotations

from collections.abc import Sequence

from vanishing import config, paths
from vanishing.console import say
from vanishing.errors import UserError


def data(settings: config.Parameters, sources: list[str] | None = None) -> None:
    """Make the arrays from the first of `sources` that works; by default those of `params.yaml`."""
    from vanishing.data import dataset

    dataset.prepare(settings.data, settings.data.path, sources, say)


def samples(settings: config.Parameters) -> None:
    """Draw a page of the data set for the report."""
    from vanishing.report import samples as page

    page.write(settings)


def train(
    settings: config.Parameters,
    chosen: Sequence[tuple[str, int]],
    at_once: int = 1,
    until: float | None = None,
    again: str = "",
) -> None:
    """Train runs with a seed each, going on where an earlier start was interrupted; see `trainer.train`."""
    from vanishing.engines import trainer

    trainer.train(settings, chosen, at_once, until, again)


def gradients(settings: config.Parameters, name: str, seed: int) -> None:
    """Measure the gradient flow at every snapshot of a run."""
    from vanishing.analysis import gradient_flow as flow
    from vanishing.data import dataset, records
    from vanishing.results import store
    from vanishing.training import devices

    run = settings.run(name)
    settings.check_seed(name, seed)
    folder = paths.checkpoints(name, seed)
    if not paths.snapshot(folder, 0).exists():
        raise UserError(f"{folder}: no trajectory; `vanishing train {name} --seed {seed}` makes it")
    images = dataset.load_split(run.data, settings.data.seed)
    records.check(images, run.data)
    store.check_trajectory(run, name, seed)
    device = devices.configure(run.train, measuring=True)
    table = flow.measure_trajectory(run, settings.gradients, images.train, folder, device)
    store.write_table(paths.results(name, seed) / "gradients.csv", table)


def tables(settings: config.Parameters, keys: Sequence[str] = ()) -> None:
    """Write the tables of studies, of all that have results if none is named."""
    from vanishing.report.tables import write_tables

    write_tables(settings, keys or None)


def figures(settings: config.Parameters, keys: Sequence[str] = ()) -> None:
    """Run the figure notebooks of studies, of all that have results if none is named."""
    from vanishing.engines import graph
    from vanishing.report import notebooks
    from vanishing.results import store

    for key in keys or graph.drawn(settings, list(store.available(settings))):
        notebooks.draw_study(key, settings)


def compare(settings: config.Parameters) -> None:
    """Compare the published numbers with the results, in tables and a figure."""
    from vanishing.report import notebooks
    from vanishing.report.comparison_tables import write_comparison

    write_comparison(settings)
    notebooks.draw_comparison()


def numbers(settings: config.Parameters) -> None:
    """Write the values that the report's text quotes, and the order of its studies."""
    from vanishing.report.macros import write_numbers

    write_numbers(settings)


def check(settings: config.Parameters) -> None:
    """Check that the results are complete, possible, and as theory predicts."""
    from vanishing.results import checks

    checks.write_checks(settings)


def report(_: config.Parameters) -> None:
    """Typeset the report."""
    from vanishing.report import typeset as paper

    say(f"{paper.typeset()}")
