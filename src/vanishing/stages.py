"""The stages of the pipeline as both engines call them: read what a stage needs, compute, write.

Each function is a command of `vanishing` and a rule of the same name. CONTRIBUTING.md says how to add one.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from vanishing import config, paths
from vanishing.console import say
from vanishing.errors import UserError

if TYPE_CHECKING:
    import torch

    from vanishing.data.records import Split


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
    missing: bool = False,
) -> None:
    """Train runs with a seed each, going on where an earlier start was interrupted; see `trainer.train`."""
    from vanishing.engines import trainer

    trainer.train(settings, chosen, at_once, until, again, missing)


def gradients(settings: config.Parameters, name: str, seed: int) -> None:
    """Measure the gradient flow at every snapshot of a run."""
    from vanishing.analysis import gradient_flow as flow
    from vanishing.results import store

    images, device = _trajectory(settings, name, seed)
    run, folder = settings.run(name), paths.checkpoints(name, seed)
    table = flow.measure_trajectory(run, settings.gradients, images, folder, device)
    store.write_table(paths.results(name, seed) / "gradients.csv", table)


def _trajectory(settings: config.Parameters, name: str, seed: int) -> tuple[Split, torch.device]:
    """Check the trajectory of a run; return the training images, and the device to measure it on."""
    from vanishing.data import dataset, records
    from vanishing.results import store
    from vanishing.training import devices

    run = settings.run(name)
    settings.check_seed(name, seed)
    folder = paths.checkpoints(name, seed)
    if not paths.snapshot(folder, 0).exists():
        pulled = f"`dvc pull {folder}` brings it if it was pushed"
        raise UserError(f"{folder}: no trajectory; {pulled}, `vanishing train {name} --seed {seed}` makes it")
    images = dataset.load_split(run.data, settings.data.seed)
    records.check(images, run.data)
    store.check_trajectory(run, name, seed)
    return images.train, devices.configure(run.train, measuring=True)


def signal(settings: config.Parameters, name: str, seed: int) -> None:
    """Measure how signal and gradient change from layer to layer along a trajectory."""
    _analyse("signal", settings, name, seed)


def smoothness(settings: config.Parameters, name: str, seed: int) -> None:
    """Measure how smooth the loss is along its gradient, at snapshots of a trajectory."""
    _analyse("smoothness", settings, name, seed)


def landscape(settings: config.Parameters, name: str, seed: int) -> None:
    """Measure the loss on cuts and planes around a trajectory."""
    _analyse("landscape", settings, name, seed)


def curvature(settings: config.Parameters, name: str, seed: int) -> None:
    """Measure the spectrum of the Hessian at snapshots of a trajectory."""
    _analyse("curvature", settings, name, seed)


def effective_depth(settings: config.Parameters, name: str, seed: int) -> None:
    """Measure how many layers a network makes use of, at snapshots of a trajectory."""
    _analyse("effective_depth", settings, name, seed)


def trainable_depth(settings: config.Parameters) -> None:
    """Train plain networks of many depths for a short time each."""
    from vanishing.analysis import kept
    from vanishing.analysis import trainable_depth as sweep
    from vanishing.data import dataset, records
    from vanishing.results import store

    images = dataset.load(settings.data.path)
    records.check(images, settings.data)
    store.write_table(paths.TRAINABLE_DEPTH, sweep.measure(settings, images))
    kept.forget(paths.KEPT_NETWORKS)


def _analyse(analysis: str, settings: config.Parameters, name: str, seed: int) -> None:
    """Measure a trajectory by the module of an analysis, and write what was found."""
    from vanishing.analysis import kept, snapshots
    from vanishing.results import store

    job = name, seed
    images, device = _trajectory(settings, *job)
    if job not in settings.analysed(analysis):
        raise config.ParameterError(f"analyses.{analysis}: {name!r} with seed {seed} is not among its runs and seeds")
    module = importlib.import_module(f"vanishing.analysis.{analysis}")
    measure = partial(module.measure, settings=settings.analyses[analysis])
    store.write_table(
        paths.analysis(analysis, *job),
        snapshots.measure_trajectory(analysis, job, settings, images, device, measure),
    )
    kept.forget(paths.measured(analysis, *job))


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


def published(settings: config.Parameters) -> None:
    """Compare the published numbers with the results, in tables and a figure."""
    from vanishing.report import notebooks
    from vanishing.report.comparison_tables import write_comparison

    write_comparison(settings)
    notebooks.draw_comparison()


def explain(settings: config.Parameters) -> None:
    """Draw what the analyses found, and write their tables and the values that the report quotes of them."""
    from vanishing.report import notebooks
    from vanishing.report.why import section

    notebooks.draw_analyses(section.write(settings), settings)


def numbers(settings: config.Parameters) -> None:
    """Write the values that the report's text quotes, and the order of its studies."""
    from vanishing.report.macros import write_numbers

    write_numbers(settings)


def html(settings: config.Parameters) -> None:
    """Write the page of results."""
    from vanishing.report.page import render

    render.write_page(settings)


def check(settings: config.Parameters) -> None:
    """Check that the results are complete, possible, and as theory predicts."""
    from vanishing.results import checks

    checks.write_checks(settings)


def report(_: config.Parameters) -> None:
    """Typeset the report."""
    from vanishing.report import typeset as paper

    say(f"{paper.typeset()}")
