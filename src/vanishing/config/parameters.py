"""All of `params.yaml`: its blocks together, and the checks across them.

`load` reads one file and returns `Parameters`; every mistake in it is one `ParameterError`, whose
text is a single line that names the key, its value and what is allowed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from vanishing.config.analyses import Analyses
from vanishing.config.analysis import Analysis
from vanishing.config.block import IMAGE_SIZE, Block, Name, ParameterError, Seed, dotted, short
from vanishing.config.data import Data
from vanishing.config.error_messages import explain
from vanishing.config.gradients import Gradients
from vanishing.config.model import Model
from vanishing.config.overrides import lay_over
from vanishing.config.run import Run
from vanishing.config.strict_yaml import merge, read_yaml
from vanishing.config.study import Study
from vanishing.config.train import Train
from vanishing.config.trainable_depth import TrainableDepth

MAX_FILE_BYTES = 1 << 20
"""A parameter file larger than this is refused unread."""


VARIABLE = "VANISHING_PARAMETERS"
"""What names another file than `params.yaml` to the kernel of a notebook: the parameters that a command draws by."""


class Parameters(Block):
    """All of `params.yaml`."""

    data: Data
    model: Model
    train: Train
    gradients: Gradients
    analyses: Analyses
    trainable_depth: TrainableDepth
    runs: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]
    studies: Annotated[dict[Name, Study], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]
    tensorboard: bool = False
    """Whether trainings write curves for TensorBoard; no result depends on it, so no stage does."""

    @cached_property
    def _configured(self) -> dict[str, Run]:
        content = self.model_dump(include={*Run.model_fields, "runs"})
        return {name: _effective(content, name) for name in self.runs}

    @cached_property
    def _seeds(self) -> dict[str, list[int]]:
        found: dict[str, set[int]] = {}
        for study in self.studies.values():
            for run in study.runs:
                found.setdefault(run, set()).update(self.seeds if study.seeds is None else study.seeds)
        return {run: sorted(found.get(run, self.seeds)) for run in self.runs}

    @cached_property
    def looks(self) -> dict[str, int]:
        """Number the runs so that those of a study have different numbers: the places of their colours and dashes.

        A run has one number in all studies, the smallest that none of its fellows has yet, in the order of the studies.
        """
        fellows: dict[str, set[str]] = {}
        for study in self.studies.values():
            for run in study.runs:
                fellows.setdefault(run, set()).update(study.runs)
        numbers: dict[str, int] = {}
        for run in [*fellows, *(run for run in self.runs if run not in fellows)]:
            taken = {numbers[other] for other in fellows.get(run, ()) if other in numbers}
            numbers[run] = next(at for at in range(len(taken) + 1) if at not in taken)
        return numbers

    def run(self, name: str) -> Run:
        """Return the effective configuration of the run `name`; a `ParameterError` lists the runs there are."""
        if name not in self.runs:
            raise ParameterError(f"run {name!r} is not configured; allowed: {', '.join(self.runs)}")
        return self._configured[name]

    def seeds_of(self, name: str) -> list[int]:
        """Return the seeds of the run `name`: those of every study that it is in, in order."""
        return self._seeds[name]

    def study(self, key: str) -> Study:
        """Return the study `key`; a `ParameterError` lists the studies there are."""
        if key not in self.studies:
            raise ParameterError(f"study {key!r} is not configured; allowed: {', '.join(self.studies)}")
        return self.studies[key]

    def runs_of(self, studies: Collection[str]) -> list[str]:
        """List the runs of `studies`, all if none is named; `ParameterError` for a study that is not configured."""
        named = {run for key in studies for run in self.study(key).runs}
        return [run for run in self.runs if not studies or run in named]

    def presented(self, runs: Collection[str]) -> list[str]:
        """List the studies to show where `runs` have results.

        A study is shown with its first run that no study before it shows, or once all of its runs are there. Runs shown
        by an earlier study are not repeated.
        """
        before: set[str] = set()
        shown = []
        for key, study in self.studies.items():
            there = set(study.runs).intersection(runs)
            if there - before or there == set(study.runs):
                shown.append(key)
                before |= there
        return shown

    def jobs(self) -> Iterator[tuple[str, int]]:
        """Yield every run with each of its seeds."""
        return ((run, seed) for run in self.runs for seed in self._seeds[run])

    def analysed(self, analysis: str) -> list[tuple[str, int]]:
        """List the runs and seeds whose trajectories an analysis measures."""
        block = self.analyses[analysis]
        return [(run, seed) for run in block.runs for seed in block.seeds if seed in self.seeds_of(run)]

    def named(self, text: str, seed: int | None = None) -> list[tuple[str, int]]:
        """Return the run and seed that `RUN:SEED` names; of `RUN` alone `seed`, or all of its seeds where that is None.

        `ParameterError` for a run or seed that is not configured.
        """
        name, colon, number = text.partition(":")
        self.run(name)
        if colon and not number.isdecimal():
            raise ParameterError(
                f"{text!r}: after the colon stands a seed; allowed: {', '.join(map(str, self.seeds_of(name)))}"
            )
        if colon and seed is not None:
            raise ParameterError(f"--seed {seed}: for runs that are named without a seed, and {text!r} has one")
        if colon:
            seed = int(number)
        chosen = self.seeds_of(name) if seed is None else [seed]
        for each in chosen:
            self.check_seed(name, each)
        return [(name, each) for each in chosen]

    def check_seed(self, name: str, seed: int) -> None:
        """Raise `ParameterError` unless `seed` is one of the seeds of the run `name`."""
        if seed not in self._seeds[name]:
            allowed = ", ".join(map(str, self._seeds[name]))
            raise ParameterError(f"seed {seed} of run {name!r} is not configured; allowed: {allowed}")


def read(path: Path) -> dict[str, Any]:
    """Read a parameter file as plain values; `ParameterError` if it is missing, too large or not a YAML mapping."""
    content = read_yaml(path, MAX_FILE_BYTES, "parameter file")
    if not isinstance(content, dict):
        raise ParameterError(f"{path}: must be a mapping with the keys {', '.join(Parameters.model_fields)}")
    return content


def with_runs(content: Mapping[str, Any], kept: Collection[str]) -> dict[str, Any]:
    """Return plain values with the runs `kept` alone, in `runs` and in the blocks of the analyses."""
    runs = {run: differences for run, differences in content["runs"].items() if run in kept}
    analyses = {
        name: block | {"runs": [run for run in block["runs"] if run in kept]}
        for name, block in content["analyses"].items()
    }
    return {**content, "runs": runs, "analyses": analyses}


def load(path: Path | None = None, overrides: Mapping[str, Any] | None = None, origin: str = "--set") -> Parameters:
    """Read and check a parameter file; every mistake is a `ParameterError`.

    Args:
        path: of the file, by default `params.yaml`.
        overrides: nested plain values that replace some of the file's.
        origin: of these, for messages.
    """
    path = path or Path(os.environ.get(VARIABLE, "params.yaml"))
    content = read(path)
    if not overrides:
        return check(content, path)
    where = f"{origin} over {path}"
    try:
        content = lay_over(content, overrides)
    except ParameterError as error:
        raise ParameterError(f"{where}: {error}") from None
    return check(content, where)


def check(content: Mapping[str, Any], path: Path | str = Path("params.yaml")) -> Parameters:
    """Check plain values, read from `path`, in every way that needs no other file."""
    try:
        parameters = Parameters.model_validate(content)
        for name in parameters.runs:
            _check_sizes(_effective(content, name), name, parameters.runs[name])
        _check_batches(parameters, "gradients", parameters.gradients, parameters.runs)
        _check_analyses(parameters)
        _check_trainable_depth(parameters)
        _check_studies(parameters)
        _check_unique("seeds", parameters.seeds)
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from None
    except ValidationError as error:
        raise ParameterError(f"{path}: {explain(error, Parameters)}") from None
    return parameters


def _effective(content: Mapping[str, Any], name: str) -> Run:
    differences = content["runs"][name]
    _refuse_others(differences, ("runs", name), Run.model_fields)
    if isinstance(of_data := differences.get("data"), Mapping):
        _refuse_others(of_data, ("runs", name, "data"), ["seed"])  # the images are the same for all runs
    defaults = {key: content[key] for key in Run.model_fields}
    try:
        return Run.model_validate(merge(defaults, differences))
    except ValidationError as error:
        raise ParameterError(f"runs.{name}.{explain(error, Parameters)}") from None


def _refuse_others(content: Mapping[str, Any], location: tuple[str, ...], allowed: Iterable[str]) -> None:
    """Raise `ParameterError` if a mapping has a key that is not allowed."""
    unknown = sorted(set(content).difference(allowed))
    if unknown:
        key, value = dotted((*location, unknown[0])), short(content[unknown[0]])
        raise ParameterError(f"{key} = {value}: unknown key; allowed: {', '.join(allowed)}")


def _check_sizes(run: Run, name: str, differences: Mapping[str, Any]) -> None:
    images = run.data.sizes[0]
    if run.train.batch_size > images:
        key = "train.batch_size"
        prefix = f"runs.{name}." if _reaches(differences, ("train", "batch_size")) else ""
        raise ParameterError(f"{prefix}{key} = {run.train.batch_size}: allowed: at most the {images:,} training images")
    last = images % run.train.batch_size or run.train.batch_size
    if last == 1 and _needs_two_images(run.model):
        prefix = f"runs.{name}." if _reaches(differences, ("train", "batch_size")) else ""
        raise ParameterError(
            f"{prefix}train.batch_size = {run.train.batch_size}: leaves a minibatch of one image, of which batch "
            f"normalisation has no variance at 1 x 1 pixels (run {name}); allowed: another size"
        )


def _needs_two_images(model: Model) -> bool:
    """Whether batch normalisation meets maps of one pixel, of which a single image has no variance."""
    return model.norm == "batch" and 2**model.stages == IMAGE_SIZE


def _check_batches(parameters: Parameters, key: str, block: Gradients | Analysis, runs: Iterable[str]) -> None:
    """Check that there are images enough for the fixed minibatches of `block`, and enough in each of them."""
    images, wanted = parameters.data.sizes[0], block.batches * block.batch_size
    if wanted > images:
        raise ParameterError(
            f"{key}.batches x {key}.batch_size = {wanted}: allowed: at most the {images:,} training images"
        )
    if block.batch_size == 1:
        for name in runs:
            if _needs_two_images(parameters.run(name).model):
                raise ParameterError(f"{key}.batch_size = 1: allowed: 2 or more, for the run {name}")


def _check_analyses(parameters: Parameters) -> None:
    for name, block in parameters.analyses:
        key = f"analyses.{name}"
        for run in block.runs:
            if run not in parameters.runs:
                raise ParameterError(f"{key}.runs = {run!r}: no such run; allowed: {', '.join(parameters.runs)}")
        for values in ("runs", "seeds", "snapshots"):
            _check_unique(f"{key}.{values}", getattr(block, values))
        _check_batches(parameters, key, block, block.runs)


def _check_trainable_depth(parameters: Parameters) -> None:
    block, data, least = parameters.trainable_depth, parameters.data, 2 + 2 * parameters.model.stages
    available = {"images": min(data.train_counts), "held_out": data.validation_per_class}
    limits = {key: (getattr(block, key), most) for key, most in available.items()}
    limits["batch_size"] = block.batch_size, block.images * data.classes
    for key, (value, most) in limits.items():
        if value > most:
            raise ParameterError(f"trainable_depth.{key} = {value}: allowed: at most the {most:,} images there are")
    for at, sweep in enumerate(block.sweeps):
        key = f"trainable_depth.sweeps.{at}.layers"
        if min(sweep.layers) < least:
            raise ParameterError(f"{key} = {min(sweep.layers)}: allowed: {least} or more")
    networks = [
        f"{sweep.initialisation}, {sweep.precision}, {layers} layers, seed {seed}"
        for sweep in block.sweeps
        for layers in sweep.layers
        for seed in sweep.seeds
    ]
    _check_unique("trainable_depth.sweeps", networks)


def _check_studies(parameters: Parameters) -> None:
    for key, study in parameters.studies.items():
        for run in study.runs:
            if run not in parameters.runs:
                allowed = ", ".join(parameters.runs)
                raise ParameterError(f"studies.{key}.runs = {run!r}: no such run; allowed: {allowed}")
        _check_unique(f"studies.{key}.runs", study.runs)
        for first, second in study.pairs:
            for run in (first, second):
                if run not in study.runs:
                    allowed = ", ".join(study.runs)
                    raise ParameterError(f"studies.{key}.compare = {run!r}: not in this study; allowed: {allowed}")
            if first == second:
                raise ParameterError(f"studies.{key}.compare = {first!r}: allowed: two different runs")
        _check_unique(f"studies.{key}.seeds", study.seeds or [])
        _check_unique(f"studies.{key}.compare", study.pairs)
        _check_unique(f"studies.{key}.draw", study.draw)


def _check_unique(key: str, values: Sequence[Any]) -> None:
    for value, times in Counter(values).items():
        if times > 1:
            raise ParameterError(f"{key} = {value!r}: allowed: each once")


def _reaches(content: Any, location: tuple[int | str, ...]) -> bool:
    """Whether `location` leads somewhere in nested mappings."""
    for key in location:
        if not isinstance(content, Mapping) or key not in content:
            return False
        content = content[key]
    return True
