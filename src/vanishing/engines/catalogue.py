"""The stages of the pipeline, a row each.

Whatever lists stages, their commands or their files takes it from here: the command line, the rules' parameters, what
`vanishing configure` writes for DVC, `vanishing sync`, `verify` and `manifest`. The rules and `dvc.yaml` are written by
hand, and a test holds them against these rows. This module imports nothing slow, since `vanishing --help` reads it.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vanishing import paths

if TYPE_CHECKING:
    from vanishing.config import Parameters

FIELDS = {"run": r"[a-z][a-z0-9_]*", "seed": r"[0-9]+", "study": r"[a-z][a-z0-9_]*", "set": r"[a-z0-9]+"}
"""What may stand in a path for each field of a template."""


@dataclass(frozen=True)
class Stage:
    """A stage; its command, rule, stage in `dvc.yaml`, log and function in `vanishing.stages` have its name.

    Inputs and outputs are templates of paths with the fields `run`, `seed`, `study` and `set` (of images); one that
    ends in a slash is a directory.
    """

    name: str
    does: str
    """A phrase for the command line's help."""
    outputs: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    """Beside its code, and the hand-written sources of the report."""
    each: Literal["", "job", "study"] = ""
    """Whether it runs once, for each run and seed, or for each study."""
    chosen: bool = False
    """Whether only the runs and seeds of its block in `analyses` have it."""
    code: tuple[str, ...] = ()
    """Packages after whose change it is stale; a stage that costs hours has a `recipe` in its configuration."""
    configuration: Callable[..., object] | None = None
    """Its slice of the configuration: of the parameters, and of the run or study that it is cut by."""
    cut_by: Literal["", "run", "study"] = ""
    from_results: bool = True
    """Whether `make report` runs it, which has the results alone."""

    @property
    def command(self) -> str:
        """The template of its command."""
        return f"vanishing {self.name}" + {"": "", "job": " {run} --seed {seed}", "study": " {study}"}[self.each]

    @property
    def dvc_name(self) -> str:
        """The template of its name in DVC."""
        return self.name + {"": "", "job": "@{run}-{seed}", "study": "@{study}"}[self.each]

    @property
    def patterns(self) -> list[str]:
        """Its outputs as patterns of files."""
        return [_glob(output) for output in self.outputs]

    def output_paths(self, **fields: object) -> list[Path]:
        """Return its outputs for these fields."""
        return [Path(output.format(**fields)) for output in self.outputs]

    def configuration_path(self, key: str = "") -> Path:
        """Return the file that `vanishing configure` writes its slice of the configuration to."""
        return paths.CONFIGURATION / (f"{self.name}/{key}.json" if self.cut_by else f"{self.name}.json")

    def configuration_text(self, settings: Parameters, key: str = "") -> str:
        """Return its slice of the configuration as JSON, for the run or study `key` where it is cut by those."""
        if self.configuration is None:
            raise ValueError(f"{self.name}: has no configuration")
        return json.dumps(self.configuration(settings, *[key] * bool(self.cut_by)), sort_keys=True)

    def configurations(self, settings: Parameters) -> Iterator[tuple[Path, str]]:
        """Yield every file of `configuration_path` with its text."""
        if self.configuration:
            keys = {"": [""], "run": settings.runs, "study": settings.studies}[self.cut_by]
            yield from ((self.configuration_path(key), self.configuration_text(settings, key)) for key in keys)


def _data(settings: Parameters) -> object:
    return settings.data.configuration()


def _samples(settings: Parameters) -> object:
    return [settings.data.configuration(), settings.seeds[0]]


def _train(settings: Parameters, run: str) -> object:
    return settings.run(run).configuration()


def _gradients(settings: Parameters) -> object:
    return settings.gradients.model_dump(mode="json")


def _analysis(name: str) -> Callable[[Parameters], object]:
    return lambda settings: settings.analyses[name].configuration()


def _trainable_depth(settings: Parameters) -> object:
    """The block, and what its networks share with the runs."""
    shared = {"stages": settings.model.stages, "filters": settings.model.filters, "device": settings.train.device}
    return settings.trainable_depth.model_dump(mode="json") | shared | {"data": settings.data.configuration()}


def _explain(settings: Parameters) -> object:
    """Every analysis, with the looks of its runs, and the sweep over depths."""
    numbers, model = settings.looks, settings.model
    blocks = [[block.model_dump(mode="json"), [numbers[run] for run in block.runs]] for _, block in settings.analyses]
    sweep = [settings.trainable_depth.model_dump(mode="json"), model.stages, model.filters, settings.data.classes]
    return [*blocks, sweep, *settings.data.unequal]


def _tables(settings: Parameters, key: str) -> object:
    study = settings.studies[key]
    return [study.model_dump(mode="json"), {run: settings.run(run).configuration() for run in study.runs}]


def _figures(settings: Parameters, key: str) -> object:
    """The study, the looks of its runs, and by what its panels are grouped."""
    study, numbers = settings.studies[key], settings.looks
    runs = {run: [numbers[run], settings.run(run).train.schedule, settings.run(run).train.epochs] for run in study.runs}
    return [study.model_dump(mode="json"), runs, settings.data.classes, *settings.data.unequal]


def _published(settings: Parameters) -> object:
    return {run: settings.run(run).configuration() for run in settings.runs}


def _numbers(settings: Parameters) -> object:
    return settings.model_dump(mode="json", exclude={"data": {"sources", *settings.data.absent}, "tensorboard": True})


def _html(settings: Parameters) -> object:
    return [_numbers(settings), settings.looks]


def _check(settings: Parameters) -> object:
    """The runs of the studies, and each run with its seeds."""
    studies = {key: study.runs for key, study in settings.studies.items()}
    return [studies, {run: [settings.run(run).configuration(), settings.seeds_of(run)] for run in settings.runs}]


SET = "data/{set}.npz"
TRAJECTORY = "checkpoints/{run}/seed{seed}/"
RESULT = "results/runs/{run}/seed{seed}/"

ANALYSIS = "results/analyses/{run}/seed{seed}/"


def _analyses(**does: str) -> Iterator[Stage]:
    """Yield the stages that measure a trajectory, with their phrases for the help."""
    for name, phrase in does.items():
        yield Stage(
            name, phrase,
            outputs=(f"{ANALYSIS}{name}.csv",),
            inputs=(SET, TRAJECTORY, RESULT + "summary.json"),
            each="job", chosen=True, configuration=_analysis(name), from_results=False,
        )  # fmt: skip


STAGES = (
    Stage(
        "data", "make data/SET.npz from any source of the images",
        outputs=(SET,),
        configuration=_data, from_results=False,
    ),
    Stage(
        "samples", "draw a page of the data set for the report",
        outputs=("report/samples/classes.png", "report/samples/augmented.png", "report/samples/samples.tex"),
        inputs=(SET,),
        configuration=_samples, code=("data", "training", "report"), from_results=False,
    ),
    Stage(
        "train", "train a run, or several at once on one device",
        outputs=(TRAJECTORY, RESULT + "history.csv", RESULT + "summary.json"),
        inputs=(SET,),
        each="job", configuration=_train, cut_by="run", from_results=False,
    ),
    Stage(
        "gradients", "measure the gradient flow of trained runs",
        outputs=(RESULT + "gradients.csv",),
        inputs=(SET, TRAJECTORY, RESULT + "summary.json"),
        each="job", configuration=_gradients, from_results=False,
    ),
    *_analyses(
        signal="measure how signal and gradient change from layer to layer",
        smoothness="measure how smooth the loss is along its gradient",
        landscape="measure the loss on cuts and planes around a trajectory",
        curvature="measure the spectrum of the Hessian along a trajectory",
        effective_depth="measure how many layers a network makes use of",
    ),
    Stage(
        "trainable_depth", "train plain networks of many depths for a short time",
        outputs=("results/analyses/trainable_depth.csv",),
        inputs=(SET,),
        configuration=_trainable_depth, from_results=False,
    ),
    Stage(
        "tables", "write the tables of studies from results/",
        outputs=(
            "results/tables/{study}.csv", "results/tables/{study}-differences.csv",
            "report/tables/{study}.tex", "report/tables/{study}-differences.tex", "report/tables/{study}-dynamics.tex",
        ),
        inputs=("results/runs/",),
        each="study", configuration=_tables, cut_by="study", code=("results", "report"),
    ),
    Stage(
        "figures", "run the figure notebooks of studies",
        outputs=("report/figures/{study}/", "report/figures/{study}.sha256", "results/notebooks/{study}.ipynb"),
        inputs=("results/runs/", "notebooks/training.ipynb", "notebooks/gradient_flow.ipynb"),
        each="study", configuration=_figures, cut_by="study", code=("results", "report"),
    ),
    Stage(
        "published", "compare the published numbers with results/",
        outputs=(
            "results/comparison/published.csv", "results/comparison/schedules.csv", "results/comparison/scatter.csv",
            "results/comparison/brackets.csv", "results/comparison/gradients.csv",
            "results/comparison/initialisation.csv", "results/comparison/agreement.ipynb",
            "report/comparison/published.tex", "report/comparison/schedules.tex", "report/comparison/scatter.tex",
            "report/comparison/gradients.tex", "report/comparison/initialisation.tex",
            "report/comparison/agreement.pdf",
        ),
        inputs=("results/runs/", "notebooks/agreement.ipynb"),
        configuration=_published, code=("results", "report"),
    ),
    Stage(
        "explain", "draw and tabulate what the analyses found",
        outputs=(
            "report/why/parts/", "report/why/parts.sha256", "report/why/why.tex", "report/why/numbers.tex",
            "results/why.ipynb",
        ),
        inputs=(
            "results/analyses/", "notebooks/signal.ipynb", "notebooks/smoothness.ipynb", "notebooks/landscape.ipynb",
            "notebooks/curvature.ipynb", "notebooks/effective_depth.ipynb", "notebooks/trainable_depth.ipynb",
        ),
        configuration=_explain, code=("analysis", "results", "report"),
    ),
    Stage(
        "numbers", "write the values that the report's text quotes, and its layout",
        outputs=("report/numbers.tex", "report/studies.tex", "report/overview.pdf"),
        inputs=("results/runs/",),
        configuration=_numbers, code=("results", "report"),
    ),
    Stage(
        "html", "write report/report.html, a page of the results to explore in a browser",
        outputs=("report/report.html",),
        inputs=("results/runs/", "results/analyses/"),
        configuration=_html, code=("analysis", "results", "report"),
    ),
    Stage(
        "check", "check the results: complete, possible, as theory predicts",
        outputs=("results/checks.csv",),
        inputs=("results/runs/",),
        configuration=_check, code=("results",), from_results=False,
    ),
    Stage(
        "report", "typeset report/report.pdf",
        outputs=("report/report.pdf",),
        inputs=(
            "report/samples/", "report/tables/", "report/figures/", "report/comparison/", "report/why/",
            "report/numbers.tex", "report/studies.tex", "report/overview.pdf",
        ),
        code=("report",),
    ),
)  # fmt: skip
"""In the order of the pipeline."""

TARGETS = ("all", "configure", *(stage.name for stage in STAGES))
"""Targets of Snakemake and stages of DVC that no study can be named after."""

FOLDERS = sorted({Path(output).parts[0] for stage in STAGES for output in stage.outputs if output != SET})
"""Folders of what the stages make, beside the data."""


def stage(name: str) -> Stage:
    """Return the stage `name`; `KeyError` if there is none."""
    return {each.name: each for each in STAGES}[name]


def patterns() -> list[str]:
    """List the outputs of all stages as patterns of files, but for the data."""
    return [pattern for each in STAGES if each.name != "data" for pattern in each.patterns]


def command_of(dvc_name: str) -> str:
    """Return the command of a stage of `dvc.yaml` by its name.

    The command stored in dvc.lock is untrusted and never shown.
    """
    for each in STAGES:
        if found := _expression(each.dvc_name).fullmatch(dvc_name):
            return each.command.format(**found.groupdict())
    return "vanishing configure" if dvc_name == "configure" else "dvc repro"


def maker_of(path: Path) -> str | None:
    """Return the command that makes a file, None for one that no stage makes."""
    for each in STAGES:
        for output in each.outputs:
            if found := _expression(output).match(path.as_posix()):
                return each.command.format(**found.groupdict())
    return None


def fields_of(path: Path, among: Iterable[Stage] = STAGES) -> dict[str, str] | None:
    """Return the fields of an output by its path, none for a stage that runs once; None if no stage makes it."""
    for each in among:
        for output in each.outputs:
            if found := _expression(output.removesuffix("/")).fullmatch(path.as_posix()):
                return found.groupdict()
    return None


def _glob(template: str) -> str:
    """Turn a template into a pattern: of the files in a directory, hidden ones left out."""
    pattern = template.format(**dict.fromkeys(FIELDS, "*"))
    return f"{pattern}[!.]*" if pattern.endswith("/") else pattern


def _expression(template: str) -> re.Pattern[str]:
    """Turn a template into an expression that finds its fields, each where it comes first."""
    parts, seen = [], set()
    for text, field, *_ in string.Formatter().parse(template):
        parts.append(re.escape(text))
        if field:
            parts.append(f"(?P={field})" if field in seen else f"(?P<{field}>{FIELDS[field]})")
            seen.add(field)
    return re.compile("".join(parts) + ("" if template.endswith("/") else "$"))
