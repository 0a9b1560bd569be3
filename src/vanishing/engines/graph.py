"""What the Snakefile asks of the configuration: which jobs there are, and what each depends on.

This module knows nothing of Snakemake; `dvc.yaml` states the same for DVC, and a test holds the two graphs against
each other. It imports nothing slow, since Snakemake loads it for every job.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from vanishing import config, files, paths, project
from vanishing.config import ParameterError, Parameters
from vanishing.engines import catalogue, resources
from vanishing.errors import UserError

FROM_RESULTS = "from_results"
"""Key of `--config` that leaves out every rule which could train, for `make report`."""

CURVES = {"training loss": "train_loss", "validation accuracy": "val_accuracy"}
"""Columns of a history that `dvc plots` draws for each study."""

OPTIONS = FROM_RESULTS, resources.GRES
"""Keys of `--config` that are no settings of `params.yaml`."""

EXPERIMENT = "DVC_EXP_NAME"
"""What DVC sets for the stages of an experiment."""

Job = tuple[str, int]
"""A run and a seed."""


def load(
    overrides: Mapping[str, Any] | None = None, origin: str = "--set", path: Path = Path("params.yaml")
) -> Parameters:
    """Load and check `params.yaml`, and that no study is named after a target of Snakemake.

    Args:
        overrides: nested plain values that replace some of the file's.
        origin: of these, for messages.
        path: of the file.
    """
    if not os.path.lexists(path):
        raise ParameterError(f"{path}: neither here nor in a folder above; run this in the project's folder")
    settings = config.load(path, overrides, origin)
    for key in settings.studies:
        if key in catalogue.TARGETS:
            raise ParameterError(f"{path}: studies.{key}: allowed: another name; `snakemake {key}` is a stage")
    return settings


def laid_over(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Snakemake's configuration, before it reads `params.yaml`, lays over that file, as plain values."""
    return {key: config.plain(value) for key, value in overrides.items() if key not in OPTIONS}


def check_typed(settings: Iterable[str]) -> None:
    """Raise `ParameterError` for a text of `--config` that Snakemake would not hand on as it is.

    It writes the text by `repr` into the command of a job that has a process of its own, as on a cluster.
    """
    for typed in settings:
        quoted = repr(typed)
        if quoted[1:-1] != typed or (quoted[0] == '"' and set("$`") & set(typed)):
            raise ParameterError(
                f"--config {quoted}: Snakemake would change it on the way to a job; allowed: no backslash, no "
                "unprintable character, and no ' beside \", $ or `; write it into params.yaml"
            )


def program(overrides: Mapping[str, Any]) -> str:
    """Return `vanishing` as a shell takes it, with the options that lay `overrides` over `params.yaml`."""
    options = (part for setting in config.write_settings(overrides) for part in ("--set", setting))
    return shlex.join(["vanishing", *options])


def from_results(overrides: Mapping[str, Any]) -> bool:
    """Return whether only tables, figures and report are to be built; `ParameterError` if neither true nor false."""
    chosen = str(overrides.get(FROM_RESULTS, False)).lower()  # Snakemake leaves `true` text, and makes `True` a truth
    if chosen not in ("true", "false"):
        raise ParameterError(f"--config {FROM_RESULTS} = {chosen!r}: allowed: true, false")
    return chosen == "true"


def stages(overrides: Mapping[str, Any]) -> list[catalogue.Stage]:
    """List the stages that there are rules for: without `from_results`, all."""
    return [stage for stage in catalogue.STAGES if stage.from_results or not from_results(overrides)]


def jobs(settings: Parameters, overrides: Mapping[str, Any]) -> list[Job]:
    """List the runs and seeds that tables and figures are made of."""
    if not from_results(overrides):
        return list(settings.jobs())
    from vanishing.results import store

    return list(store.available(settings))


def check_targets(
    targets: Iterable[str], settings: Parameters, chosen: Collection[catalogue.Stage], studies: Collection[str]
) -> None:
    """Raise `ParameterError` for a target that no rule makes; Snakemake's own answer to most is of its wildcards.

    Args:
        targets: names of rules and studies, and files, as typed.
        settings: the parameters.
        chosen: the stages that there are rules for.
        studies: those that have something to draw.
    """
    for target in targets:
        named = next((stage for stage in chosen if stage.name == target), None)
        if target == "all" or target in studies or (named and not named.each):
            continue
        path = Path(target)  # Snakemake leaves an absolute one as it is, which no output is
        fields = catalogue.fields_of(path if path.is_absolute() else Path(os.path.relpath(path)), chosen)
        if fields is not None and _exists(fields, settings):
            continue
        if named:
            each = "run and seed" if named.each == "job" else "study"
            command = named.command.format(run="RUN", seed="SEED", study="STUDY")
            why = f"runs for each {each}, by `{command}`; allowed: a study, or one of its files"
        else:
            why = "not a target; allowed: a stage, a study, or a file that a stage makes"
        rules = ", ".join(["all", *(stage.name for stage in chosen if not stage.each)])
        raise ParameterError(f"{target!r}: {why}; stages: {rules}; studies: {', '.join(studies) or 'none'}")


def _exists(fields: Mapping[str, str], settings: Parameters) -> bool:
    """Whether there are the run, seed, study and set of a file."""
    run, study = fields.get("run"), fields.get("study")
    seeds = settings.seeds_of(run) if run in settings.runs else []
    return (
        (run is None or run in settings.runs)
        and ("seed" not in fields or fields["seed"] in map(str, seeds))
        and (study is None or study in settings.studies)
        and fields.get("set", settings.data.set) == settings.data.set
    )


def results_of(chosen: Iterable[Job]) -> list[Path]:
    """List the small results of jobs."""
    return [path for job in chosen for path in paths.result_files(*job)]


def study_jobs(settings: Parameters, chosen: Iterable[Job], key: str) -> list[Job]:
    """List the jobs of one study."""
    runs = set(settings.studies[key].runs)
    return [job for job in chosen if job[0] in runs]


def stage_jobs(settings: Parameters, stage: catalogue.Stage, chosen: Iterable[Job]) -> list[Job]:
    """List the jobs that a stage has, of those `chosen`: all, or those of its block in `analyses`."""
    analysed = set(settings.analysed(stage.name)) if stage.chosen else None
    return [job for job in chosen if analysed is None or job in analysed]


def analyses(settings: Parameters, chosen: Collection[Job], overrides: Mapping[str, Any]) -> list[Path]:
    """List what the analyses leave in `results/`; from the results alone, what there is."""
    stages_of = [stage for stage in catalogue.STAGES if stage.outputs[0].startswith(f"{paths.ANALYSES}/")]
    found = [Path(output) for output in wanted(settings, stages_of, chosen, ())]
    return [path for path in found if path.exists()] if from_results(overrides) else found


def notebooks(name: str) -> list[str]:
    """List the notebooks that a stage runs."""
    return [path for path in catalogue.stage(name).inputs if path.startswith("notebooks/")]


def wanted(
    settings: Parameters, chosen: Iterable[catalogue.Stage], of_jobs: Collection[Job], keys: Collection[str]
) -> list[str]:
    """List what stages leave in `results/` and `report/`, for these jobs and studies.

    Each is asked for by name, since Snakemake leaves out what only up-to-date files stand on. Data and trajectories are
    not: results can be there without them.
    """

    def fields(stage: catalogue.Stage) -> list[dict[str, object]]:
        if stage.each == "job":
            return [{"run": run, "seed": seed} for run, seed in stage_jobs(settings, stage, of_jobs)]
        return [{"study": key} for key in keys] if stage.each else [{}]

    return [
        output.format(**each).removesuffix("/")
        for stage in chosen
        for output in stage.outputs
        if output.startswith(("results/", "report/"))
        for each in fields(stage)
    ]


def drawn(settings: Parameters, chosen: list[Job]) -> list[str]:
    """List the studies that have something of their own to draw."""
    return settings.presented({run for run, _ in chosen})


def outputs(name: str, folder: str = "") -> list[str]:
    """List the outputs of a stage as templates, those in `folder` where one is named."""
    return [output.removesuffix("/") for output in catalogue.stage(name).outputs if output.startswith(folder)]


def code(name: str) -> list[Path]:
    """List the files of the library after whose change a stage is stale."""
    found = (project.SOURCE / package for package in catalogue.stage(name).code)
    return sorted(path for package in found for path in package.rglob("*") if path.suffix in project.CODE)


def configuration(name: str, settings: Parameters, key: str = "") -> str:
    """Return what decides whether a stage is stale, beside its inputs: a parameter of its jobs in Snakemake.

    DVC, whose parameters are keys of a file, compares files that hold these texts: those of `configure`.
    """
    return catalogue.stage(name).configuration_text(settings, key)


def report_text() -> list[Path]:
    """List the hand-written sources of the report."""
    fixed = [paths.REPORT / name for name in (".latexmkrc", "report.tex", "preamble.tex", "references.bib")]
    return fixed + sorted((paths.REPORT / "sections").glob("*.tex"))


def threads(settings: Parameters, run: str) -> int:
    """Return the CPU threads that a job of a run uses."""
    return settings.run(run).train.threads


def job_list(settings: Parameters) -> str:
    """Return what `dvc.yaml` expands: every run with each of its seeds, and those of each analysis, by their names."""
    analysed = (f'"{name}": {_named(settings.analysed(name))}' for name, _ in settings.analyses)
    return f'{{"jobs": {_named(settings.jobs())},\n"analysed": {{{", ".join(analysed)}}}}}\n'


def plots(settings: Parameters) -> str:
    """Return a file of DVC with the curves of each study: all its trainings in one plot for each of `CURVES`.

    Templates of `dvc.yaml` cannot say that, since only stages are expanded there.
    """
    found = []
    for key in settings.studies:
        histories = [paths.results(*job) / "history.csv" for job in study_jobs(settings, settings.jobs(), key)]
        for title, column in CURVES.items():
            y = {os.path.relpath(path, paths.PLOTS.parent): column for path in histories}
            found.append({f"{key}: {title}": {"x": "epoch", "y": y, "template": "curves"}})
    return config.text({"plots": found})


def _named(chosen: Iterable[Job]) -> str:
    """Write jobs as JSON, a line each."""
    lines = [f'  "{run}-{seed}": {{"run": "{run}", "seed": {seed}}}' for run, seed in chosen]
    return "{\n" + ",\n".join(lines) + "\n}" if lines else "{}"


def configurations(settings: Parameters) -> dict[Path, str]:
    """Return the files of `vanishing configure`, by path, and what is in them."""
    found = (pair for stage in catalogue.STAGES for pair in stage.configurations(settings))
    return {path: f"{text}\n" for path, text in found}


def configure(settings: Parameters, same_jobs: bool = False) -> None:
    """Write what each stage depends on, a file each, the list of jobs that `dvc.yaml` expands, and the plots.

    Files that are there already and right are left alone.

    Args:
        settings: the parameters.
        same_jobs: raise `UserError` if the list of jobs changed. DVC has read it by the time that it calls this.
    """
    texts = configurations(settings)
    for path in paths.CONFIGURATION.rglob("*.json"):
        if path not in texts:
            path.unlink()
    for path, text in texts.items():
        files.write_if_changed(path, text)
    files.write_if_changed(paths.PLOTS, plots(settings))
    if files.write_if_changed(paths.JOBS, job_list(settings)) and same_jobs:
        again = "run the same command again to go on with the new ones"
        if EXPERIMENT in os.environ:  # whose copy of the project goes with it, and the new list too
            again = "make the change in params.yaml, type `vanishing configure`, then `dvc exp run` without -S for it"
        raise UserError(f"{paths.JOBS}: runs, seeds or studies have changed; {again}")
