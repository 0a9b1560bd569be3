"""The stages of the pipeline as both engines call them: read what a stage needs, compute, write.

Each function is a command of `vanishing` and a rule of the same name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vanishing import parameters, paths
from vanishing.errors import UserError
from vanishing.progress import say


def configure(settings: parameters.Parameters, same_jobs: bool = False) -> None:
    """Write what each stage depends on, a file each, and the list of jobs that `dvc.yaml` expands.

    Files that are there already and right are left alone.

    Args:
        settings: the parameters.
        same_jobs: raise `UserError` if the list of jobs changed. DVC has read it by the time that it calls this.
    """
    from vanishing import workflow

    texts = workflow.configurations(settings)
    for path in paths.CONFIGURATION.rglob("*.json"):
        if path not in texts:
            path.unlink()
    for path, text in texts.items():
        _write_if_new(path, text)
    if _write_if_new(paths.JOBS, workflow.job_list(settings)) and same_jobs:
        raise UserError(
            f"{paths.JOBS}: runs, seeds or studies have changed; the same command again goes on with the new ones"
        )


def data(settings: parameters.Parameters, sources: list[str] | None = None) -> None:
    """Make the arrays from the first of `sources` that works; by default those of `params.yaml`."""
    from vanishing import data as images

    images.prepare(settings.data, settings.data.path, sources, say)


def train(
    settings: parameters.Parameters,
    chosen: Sequence[tuple[str, int]],
    at_once: int = 1,
    until: float | None = None,
    again: str = "",
) -> None:
    """Train runs with a seed each, going on where an earlier start was interrupted; see `trainings.train`."""
    from vanishing import trainings

    trainings.train(settings, chosen, at_once, until, again)


def gradients(settings: parameters.Parameters, name: str, seed: int) -> None:
    """Measure the gradient flow at every snapshot of a run."""
    from vanishing import data as images
    from vanishing import devices, results
    from vanishing import gradients as flow

    run = settings.run(name)
    settings.check_seed(name, seed)
    folder = paths.checkpoints(name, seed)
    if not paths.snapshot(folder, 0).exists():
        raise UserError(f"{folder}: no trajectory; `vanishing train {name} --seed {seed}` makes it")
    dataset = images.load_split(run.data, settings.data.seed)
    images.check(dataset, run.data)
    _check_trained_so(run, name, seed)
    _check_whole(name, seed)
    device = devices.configure(run.train, measuring=True)
    table = flow.measure_trajectory(run, settings.gradients, dataset.train, folder, device)
    results.write_table(paths.results(name, seed) / "gradients.csv", table)


def tables(settings: parameters.Parameters, keys: list[str] | None = None) -> None:
    """Write the tables of studies, all that have results if none is named."""
    from vanishing import tables as made

    made.make(settings, keys or None)


def figures(settings: parameters.Parameters, key: str) -> None:
    """Run the figure notebooks of a study."""
    from vanishing import notebooks

    notebooks.run(key, settings)


def compare(settings: parameters.Parameters) -> None:
    """Hold what was published against what is reproduced: tables and a figure."""
    from vanishing import comparison, notebooks

    comparison.make(settings)
    notebooks.compare()


def numbers(settings: parameters.Parameters) -> None:
    """Write every number that the report's prose names, and the order of its studies."""
    from vanishing import numbers as made

    made.make(settings)


def check(settings: parameters.Parameters) -> None:
    """Hold the results against what must be true of any."""
    from vanishing import soundness

    soundness.make(settings)


def report() -> None:
    """Typeset the report."""
    from vanishing import report as paper

    say(f"{paper.typeset()}")


def _check_trained_so(run: parameters.Run, name: str, seed: int) -> None:
    """Raise `UserError` if the trajectory was made with another configuration than the run has now."""
    from vanishing import results

    path = paths.results(name, seed) / "summary.json"
    made_with = parameters.completed(results.read_summary(path)["configuration"])
    for block, values in run.configuration().items():
        for key, value in values.items():
            before = made_with.get(block, {}).get(key)
            if before != value:
                raise UserError(
                    f"{path}: trained with {block}.{key} = {before!r}, and the parameters say {value!r}; "
                    f"`vanishing train {name} --seed {seed}` trains anew"
                )


def _check_whole(name: str, seed: int) -> None:
    """Raise `UserError` if a file of the trajectory that the summary names is not there: no epoch is left out."""
    from vanishing import results

    summary = results.read_summary(paths.results(name, seed) / "summary.json")
    for path in (paths.trained(name, seed, file) for file in summary["files"]):
        if not path.exists():
            raise UserError(f"{path}: missing; `vanishing train {name} --seed {seed}` makes it")


def _write_if_new(path: Path, text: str) -> bool:
    """Write a file unless it is there with this content already; return whether it was written."""
    from vanishing import files

    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    files.write(path, text)
    return True
