"""What the Snakefile asks of the configuration: which jobs there are, and what each depends on.

This module knows the files and parameters of each stage but nothing of Snakemake; `dvc.yaml` states
the same for DVC, and a test holds the two graphs against each other. It imports nothing slow, since
Snakemake loads it for every job.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from vanishing import config, paths
from vanishing.config import ParameterError, Parameters
from vanishing.report.captions import CAPTIONS

FROM_RESULTS = "from_results"
"""Key of `--config` that leaves out every rule which could train, for `make report`."""

Job = tuple[str, int]
"""A run and a seed."""


def load(overrides: Mapping[str, Any], path: Path = Path("params.yaml")) -> Parameters:
    """Load and check `params.yaml`; `ParameterError` also where `--config` would change what it says.

    The commands of the pipeline read the file themselves, so that a change from elsewhere would be half a change.
    """
    settings = config.load(path)
    written = yaml.safe_load(path.read_text(encoding="utf-8"))  # as Snakemake reads it
    for key in overrides:
        if key != FROM_RESULTS and overrides[key] != written.get(key):
            raise ParameterError(f"--config {key}: settings come from {path} alone; change them there")
    return settings


def from_results(overrides: Mapping[str, Any]) -> bool:
    """Return whether only tables, figures and report are to be built; `ParameterError` if neither true nor false."""
    chosen = str(overrides.get(FROM_RESULTS, False)).lower()  # Snakemake leaves `true` text, and makes `True` a truth
    if chosen not in ("true", "false"):
        raise ParameterError(f"--config {FROM_RESULTS} = {chosen!r}: allowed: true, false")
    return chosen == "true"


def jobs(settings: Parameters, overrides: Mapping[str, Any]) -> list[Job]:
    """List the runs and seeds that tables and figures are made of."""
    if not from_results(overrides):
        return list(settings.jobs())
    from vanishing.results import store

    return list(store.available(settings))


def results_of(chosen: Iterable[Job]) -> list[Path]:
    """List the small results of jobs."""
    return [path for job in chosen for path in paths.result_files(*job)]


def study_jobs(settings: Parameters, chosen: Iterable[Job], key: str) -> list[Job]:
    """List the jobs of one study."""
    return [job for job in chosen if job[0] in settings.studies[key].runs]


def drawn(settings: Parameters, chosen: list[Job]) -> list[str]:
    """List the studies that have something of their own to draw."""
    return settings.presented({run for run, _ in chosen})


def figure_notebooks() -> list[Path]:
    """List the notebooks that draw the figures of a study."""
    return sorted(Path("notebooks") / f"{family}.ipynb" for family in CAPTIONS)


def code(*modules: str) -> list[Path]:
    """List files of the library: those of a cheap stage are inputs of it."""
    return [Path("src/vanishing") / name for name in modules]


RESULTS = ("results/aggregate.py", "report/latex.py", "results/store.py")
PUBLISHED = (*RESULTS, "results/published.py", "results/published.csv", "results/statistics.py")
GRADIENTS = ("results/initialisation.py", "results/published_gradients.py", "results/published_gradients.csv")
TABLES = (*RESULTS, "results/differences.py", "results/statistics.py", "report/tables.py")
FIGURES = (
    "report/captions.py",
    "report/figures.py",
    "report/style.mplstyle",
    "report/notebooks.py",
    "results/store.py",
)
COMPARISON = (*PUBLISHED, *GRADIENTS, "results/schedules.py", *FIGURES)
NUMBERS = (
    *PUBLISHED,
    *TABLES,
    *GRADIENTS,
    "report/captions.py",
    "report/checklist.py",
    "data/cifar100.py",
    "results/schedules.py",
    "report/macros.py",
)
CHECK = (
    "verify/mismatch.py", "results/published.csv", "results/published_gradients.csv",
    "verify/recomputed.py", "verify/recomputed_statistics.py", "results/store.py",
    "results/checks.py",
)  # fmt: skip
"""Modules that the cheap stages stand on, `captions` and the like among them."""

COMPARISONS = tuple(
    f"results/comparison/{name}.csv"
    for name in ("published", "schedules", "scatter", "brackets", "gradients", "initialisation")
)
"""Tables of the comparison."""

COMPARED = (
    "report/comparison/agreement.pdf",
    *(f"report/comparison/{name}.tex" for name in ("published", "schedules", "scatter", "gradients", "initialisation")),
)
"""What the report shows of the comparison with published numbers."""


def job_list(settings: Parameters) -> str:
    """Return what `dvc.yaml` expands: every run with each of its seeds, by the name of its stage."""
    lines = [f'  "{run}-{seed}": {{"run": "{run}", "seed": {seed}}}' for run, seed in settings.jobs()]
    return '{"jobs": {\n' + ",\n".join(lines) + "\n}}\n"


def report_text() -> list[Path]:
    """List the hand-written sources of the report."""
    fixed = [paths.REPORT / name for name in (".latexmkrc", "report.tex", "preamble.tex", "references.bib")]
    return fixed + sorted((paths.REPORT / "sections").glob("*.tex"))


def gpus(settings: Parameters, run: str) -> int:
    """Return how many GPUs a job of a run takes from `--resources gpu`: none where it is told to use the CPU."""
    return 0 if settings.run(run).train.device == "cpu" else 1


def threads(settings: Parameters, run: str) -> int:
    """Return the CPU threads that a job of a run uses."""
    return settings.run(run).train.threads


# What decides whether a stage's outputs are stale, beside its input files. Snakemake records these texts as the
# parameters of its jobs; DVC, whose parameters are keys of a file, records the hashes of files that hold them.


def configurations(settings: Parameters) -> dict[Path, str]:
    """Return the files of `vanishing configure`, by path, and what is in them."""
    folder = paths.CONFIGURATION
    texts = {
        folder / "data.json": data_configuration(settings),
        folder / "gradients.json": gradients_configuration(settings),
        folder / "numbers.json": numbers_configuration(settings),
        folder / "comparison.json": comparison_configuration(settings),
        folder / "check.json": check_configuration(settings),
    }
    texts |= {folder / "runs" / f"{run}.json": train_configuration(settings, run) for run in settings.runs}
    texts |= {folder / "studies" / f"{key}.json": figures_configuration(settings, key) for key in settings.studies}
    texts |= {folder / "tables" / f"{key}.json": tables_configuration(settings, key) for key in settings.studies}
    return {path: f"{text}\n" for path, text in texts.items()}


def data_configuration(settings: Parameters) -> str:
    """Name what the arrays depend on."""
    return _text(settings.data.configuration())


def train_configuration(settings: Parameters, run: str) -> str:
    """Name what a run depends on: its effective configuration."""
    return _text(settings.run(run).configuration())


def gradients_configuration(settings: Parameters) -> str:
    """Name what the measurement of gradient flow depends on, beside the trajectory."""
    return _text(settings.gradients.model_dump(mode="json"))


def tables_configuration(settings: Parameters, key: str) -> str:
    """Name what the tables of a study depend on, beside the results: the study and its runs."""
    study = settings.studies[key]
    runs = {run: settings.run(run).configuration() for run in study.runs}
    return _text([study.model_dump(mode="json"), runs])


def figures_configuration(settings: Parameters, key: str) -> str:
    """Name what the figures of a study depend on: the study, the looks of its runs, and by what they are grouped."""
    study = settings.studies[key]
    looks = config.looks(settings)
    runs = {run: [looks[run], settings.run(run).train.schedule, settings.run(run).train.epochs] for run in study.runs}
    return _text([study.model_dump(mode="json"), runs, settings.data.classes])


def comparison_configuration(settings: Parameters) -> str:
    """Name what the comparison with published numbers depends on, beside the results: every run."""
    return _text({run: settings.run(run).configuration() for run in settings.runs})


def numbers_configuration(settings: Parameters) -> str:
    """Name what the report's numbers depend on, beside the results."""
    return _text(settings.model_dump(mode="json", exclude={"data": {"sources"}}))


def check_configuration(settings: Parameters) -> str:
    """Name what the checks depend on, beside results and tables: the studies but for their looks, runs and seeds."""
    studies = {key: block.model_dump(mode="json", exclude={"title", "draw"}) for key, block in settings.studies.items()}
    runs = {run: [settings.run(run).configuration(), settings.seeds_of(run)] for run in settings.runs}
    return _text([studies, runs])


def _text(content: object) -> str:
    return json.dumps(content, sort_keys=True)
