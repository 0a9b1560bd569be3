"""The study's configuration: `params.yaml`, typed and checked before anything runs.

`load` reads one file and returns `Parameters`; every mistake in it is one `ParameterError`, whose
text is a single line that names the key, its value and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from vanishing.errors import UserError

IMAGE_SIZE = 32
"""Height and width of the images in pixels."""

BOTTLENECK = 4
"""Filters of a model for each of those within its bottlenecks (He et al. 2016)."""

STAGES = (
    "all", "configure", "data", "train", "gradients", "tables", "figures", "compare", "numbers", "check", "report",
)  # fmt: skip
"""Targets of Snakemake that no study can be called after."""

MAX_FILE_BYTES = 1 << 20
"""A parameter file larger than this is refused unread."""

LATIN = (
    "^[ -~\u00a1-\u00ac\u00ae-\u0125\u0128-\u0137\u0139-\u013e\u0141-\u0148\u014a-\u0165\u0168-\u017e"
    "\u2013\u2014\u2018\u2019\u201c\u201d\u2022\u2026\u20ac]*$"
)
"""What pdfTeX can set here: ASCII, Latin-1, Latin Extended-A but for nine letters; dashes, quotes, the euro."""

NAME = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME, max_length=60)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class ParameterError(UserError):
    """A mistake in the parameters; its text is one line for the user."""

    exit_code = 2


class Block(BaseModel):
    """A block of `params.yaml`: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Generated(Block):
    """Size of the generated data set, in images of each class."""

    classes: Annotated[int, Field(ge=2, le=100)]
    train_per_class: Annotated[int, Field(ge=1, le=10_000)]
    test_per_class: Annotated[int, Field(ge=1, le=10_000)]


class Data(Block):
    """Which images, and how many of them are held out; `recipe` is the version of how, as in `Train`."""

    recipe: Literal[1]
    set: Literal["cifar100", "generated"]
    sources: list[Source]
    validation_per_class: Positive
    seed: Seed
    """Of the validation split; that of the top-level block of the generated images too."""
    generated: Generated

    def configuration(self) -> dict[str, Any]:
        """Everything that the arrays depend on, as plain values.

        Where the images come from is left out: the content hash decides which they are.
        """
        unused = {"sources"} if self.set == "generated" else {"sources", "generated"}
        return self.model_dump(mode="json", exclude=unused)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return 100 if self.set == "cifar100" else self.generated.classes

    @property
    def train_per_class(self) -> int:
        """Images of each class left for training once validation has taken its share."""
        total = 500 if self.set == "cifar100" else self.generated.train_per_class
        return total - self.validation_per_class

    @property
    def test_per_class(self) -> int:
        """Images of each class in the test set."""
        return 100 if self.set == "cifar100" else self.generated.test_per_class

    @property
    def path(self) -> Path:
        """Where `vanishing data` leaves the arrays; the same for every seed of a run."""
        return Path("data") / f"{self.set}.npz"

    @model_validator(mode="after")
    def _leave_training_images(self) -> Self:
        if self.train_per_class < 1:
            total = self.train_per_class + self.validation_per_class
            raise KeyedError("validation_per_class", self.validation_per_class, f"less than the {total} of a class")
        return self


class Address(Block):
    """An archive on the network; `sha256` is enforced where it is given."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None


def _source_or_explain(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """One finding for a bad source, where a union would report one for each of its members."""
    if isinstance(value, Mapping):
        return Address.model_validate(value)
    try:
        return validate(value)
    except ValidationError:
        allowed = "a path, or a mapping with `url` (http or https) and, if known, `sha256` (64 hexadecimal digits)"
        raise PydanticCustomError("source", allowed) from None


Source = Annotated[Annotated[str, Field(min_length=1)] | Address, WrapValidator(_source_or_explain)]


class Model(Block):
    """A VGG variant; see `vanishing.models.VGG`."""

    stages: Annotated[int, Field(ge=1, le=5)]
    blocks: Annotated[int, Field(ge=0, le=1000)]
    filters: Annotated[int, Field(ge=1, le=4096)]
    activation: Literal["leaky_relu", "relu", "sigmoid", "tanh"]
    norm: Literal["none", "batch", "group"]
    groups: Positive
    convolutions: Literal[2, 3]
    kernel_size: Literal[3, 5]
    shortcut: Literal["none", "identity", "dense"]
    reduction: Literal["plain", "bottleneck"]
    reduction_shortcut: Literal["none", "pool", "convolution", "subsample"]
    initialisation: Literal["default", "he", "orthogonal"]
    gradient_amplification: Annotated[float, Field(ge=1, allow_inf_nan=False)]

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.reduction == "bottleneck" and self.filters % BOTTLENECK:
            raise KeyedError("filters", self.filters, f"a multiple of {BOTTLENECK} with reduction = bottleneck")
        if self.norm == "group" and self.filters % self.groups:
            raise KeyedError("groups", self.groups, f"a divisor of filters = {self.filters}")
        if self.norm == "group" and self.reduction == "bottleneck" and self.filters // BOTTLENECK % self.groups:
            allowed = f"a divisor of filters / {BOTTLENECK} = {self.filters // BOTTLENECK} with reduction = bottleneck"
            raise KeyedError("groups", self.groups, allowed)
        if self.shortcut == "dense" and self.reduction_shortcut != "none":
            allowed = "none with shortcut = dense, where reduction blocks read all earlier outputs already"
            raise KeyedError("reduction_shortcut", self.reduction_shortcut, allowed)
        return self


class Train(Block):
    """How a run is trained; see `vanishing.training.train`.

    `recipe` is the version of the arithmetic: whoever changes the weights that a configuration gives raises
    it here and in `params.yaml`, and both engines train again.
    """

    recipe: Literal[1]
    epochs: Annotated[int, Field(ge=1, lt=2**20)]  # beyond, two seeds would draw alike: `augmentation.draw`
    batch_size: Positive
    learning_rate: Rate
    final_learning_rate: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    schedule: Literal["cosine_per_epoch", "cosine_per_iteration", "constant"]
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    l1: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    patience: Annotated[int, Field(ge=0)]
    precision: Literal["fp32", "tf32", "bf16"]
    device: Literal["auto", "cpu", "cuda"]
    kernels: Literal["pytorch", "fused"]
    threads: Annotated[int, Field(ge=1, le=1024)]
    snapshots: list[Positive]

    @model_validator(mode="after")
    def _decay(self) -> Self:
        if self.schedule != "constant" and self.final_learning_rate > self.learning_rate:
            allowed = f"at most learning_rate = {self.learning_rate:g}"
            raise KeyedError("final_learning_rate", self.final_learning_rate, allowed)
        return self

    @property
    def snapshot_epochs(self) -> tuple[int, ...]:
        """Epochs whose weights are kept: the initialisation, the chosen ones within reach, and the last."""
        return tuple(sorted({0, self.epochs, *(e for e in self.snapshots if e <= self.epochs)}))


class Gradients(Block):
    """On what the gradient flow is measured; `recipe` is the version of the arithmetic, as in `Train`."""

    recipe: Literal[2]
    batches: Positive
    batch_size: Positive
    seed: Seed


class Study(Block):
    """Runs that answer one question: a table, figures, a section of the report and a target of Snakemake."""

    title: Annotated[str, Field(min_length=1, max_length=120, pattern=LATIN)]
    runs: Annotated[list[Name], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)] | None = None
    """Of its runs; None for the seeds of `Parameters`."""
    average: Positive = 1
    """Final epochs that its table takes the mean of."""
    compare: list[Annotated[list[Name], Field(min_length=2, max_length=2)]] | None = None
    """Pairs whose difference by seed is given; None for each run against the first."""
    draw: Annotated[list[Literal["training", "gradient_flow"]], Field(min_length=1)] = ["training", "gradient_flow"]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Pairs of runs (a, b) of which a - b is of interest."""
        if self.compare is None:
            return [(run, self.runs[0]) for run in self.runs[1:]]
        return [(first, second) for first, second in self.compare]


class Run(Block):
    """The effective configuration of one run: the defaults with the run's differences laid over them."""

    data: Data
    model: Model
    train: Train

    def configuration(self) -> dict[str, Any]:
        """Everything that the run's numbers depend on, as plain values."""
        return {
            "data": self.data.configuration(),
            "model": self.model.model_dump(mode="json"),
            "train": self.train.model_dump(mode="json"),
        }


ADDED = {"model": {"kernel_size": 3, "reduction": "plain"}, "train": {"kernels": "pytorch"}}
"""Keys of `Run.configuration` that are younger than some summaries, with the value that those were made with."""


def completed(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return a summary's configuration with the keys that were added after it was written."""
    return merge(ADDED, configuration)


class Parameters(Block):
    """All of `params.yaml`."""

    data: Data
    model: Model
    train: Train
    gradients: Gradients
    runs: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]
    studies: Annotated[dict[Name, Study], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)]

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

    def presented(self, runs: Collection[str]) -> list[str]:
        """List the studies to show where `runs` have results.

        A study is shown with its first run that no study before it shows, or once all of its runs are there: what it
        shares with others alone would only be said again.
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


def looks(settings: Parameters) -> dict[str, int]:
    """Number the runs so that those of a study have different numbers: the places of their colours and dashes.

    A run has one number in all studies, the smallest that none of its fellows has yet, in the order of the studies.
    """
    fellows: dict[str, set[str]] = {}
    for study in settings.studies.values():
        for run in study.runs:
            fellows.setdefault(run, set()).update(study.runs)
    numbers: dict[str, int] = {}
    for run in [*fellows, *(run for run in settings.runs if run not in fellows)]:
        taken = {numbers[other] for other in fellows.get(run, ()) if other in numbers}
        numbers[run] = next(at for at in range(len(taken) + 1) if at not in taken)
    return numbers


class KeyedError(ValueError):
    """A check across keys failed: `key`, its value, and what is allowed."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(key, value, allowed)
        self.key, self.value, self.allowed = key, value, allowed


class _StrictLoader(yaml.SafeLoader):
    """YAML with plain numbers, 1e-3 among them, and with repeated keys, anchors, aliases and tags refused.

    Octal numbers (0144), base 60 (1:40) and dates are text here, since YAML 1.1 and 1.2 disagree on them.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        for refused in ("anchor", "tag"):
            if getattr(event, refused, None):
                problem = f"anchors, aliases and tags are not allowed, found {_short(getattr(event, refused))}"
                raise yaml.constructor.ConstructorError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {_short(key)} is not text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {_short(key)} is repeated", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_KEPT = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:null")
_StrictLoader.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0] in _KEPT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """YAML in which text that either version, or the loader above, would read as something else is quoted."""


for _kind, _pattern in (
    ("int", r"[-+]?(0|[1-9]\d{0,17})"),
    ("float", r"[-+]?(\d+\.\d*|\.\d+)|[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
):
    for _side in (_StrictLoader, _Dumper):
        _side.add_implicit_resolver(
            f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list("-+0123456789.")
        )


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `overlay` over `base`: mappings key by key, everything else replaced."""
    merged = dict(base)
    for key, value in overlay.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def read(path: Path) -> dict[str, Any]:
    """Read a parameter file as plain values; `ParameterError` if it is missing, too large or not a YAML mapping."""
    content = read_yaml(path, MAX_FILE_BYTES, "parameter file")
    if not isinstance(content, dict):
        raise ParameterError(f"{path}: must be a mapping with the keys {', '.join(Parameters.model_fields)}")
    return content


def read_yaml(path: Path, most: int, kind: str) -> Any:
    """Read YAML of at most so many bytes as plain values; `ParameterError` if it is missing, larger or not such."""
    try:
        if not (path.is_file() or path.is_dir()) and path.exists():
            raise ParameterError(f"{path}: no plain file")
        if path.stat().st_size > most:
            raise ParameterError(f"{path}: larger than {most:,} bytes; that is no {kind}")
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ParameterError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ParameterError(f"{path}: not UTF-8 text") from None
    except RecursionError:
        raise ParameterError(f"{path}: nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ParameterError(f"{path}{where}: {problem}") from None
    except (ValueError, OverflowError):  # PyYAML's, for an escape such as "\\UFFFFFFFF"
        raise ParameterError(f"{path}: cannot be read as YAML") from None


def text(content: Mapping[str, Any]) -> str:
    """Write plain values as a parameter file that `read` reads as they are."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def load(path: Path = Path("params.yaml")) -> Parameters:
    """Read and check a parameter file; every mistake is a `ParameterError`."""
    return check(read(path), path)


def check(content: Mapping[str, Any], path: Path = Path("params.yaml")) -> Parameters:
    """Check plain values, read from `path`, in every way that needs no other file."""
    try:
        parameters = Parameters.model_validate(content)
        for name in parameters.runs:
            _check_sizes(_effective(content, name), name, parameters.runs[name])
        _check_gradients(parameters)
        _check_studies(parameters)
        _check_unique("seeds", parameters.seeds)
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from None
    except ValidationError as error:
        raise ParameterError(f"{path}: {_explain(error)}") from None
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
        raise ParameterError(f"runs.{name}.{_explain(error)}") from None


def _refuse_others(content: Mapping[str, Any], location: tuple[str, ...], allowed: Iterable[str]) -> None:
    """Raise `ParameterError` if a mapping has a key that is not allowed."""
    unknown = sorted(set(content).difference(allowed))
    if unknown:
        key, value = _dotted((*location, unknown[0])), _short(content[unknown[0]])
        raise ParameterError(f"{key} = {value}: unknown key; allowed: {', '.join(allowed)}")


def _check_sizes(run: Run, name: str, differences: Mapping[str, Any]) -> None:
    images = run.data.classes * run.data.train_per_class
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


def _check_gradients(parameters: Parameters) -> None:
    images = parameters.data.classes * parameters.data.train_per_class
    wanted = parameters.gradients.batches * parameters.gradients.batch_size
    if wanted > images:
        key = "gradients.batches x gradients.batch_size"
        raise ParameterError(f"{key} = {wanted}: allowed: at most the {images:,} training images")
    if parameters.gradients.batch_size == 1:
        for name in parameters.runs:
            if _needs_two_images(parameters.run(name).model):
                raise ParameterError(f"gradients.batch_size = 1: allowed: 2 or more, for the run {name}")


def _check_studies(parameters: Parameters) -> None:
    for key, study in parameters.studies.items():
        if key in STAGES:
            raise ParameterError(f"studies.{key}: allowed: another name; `snakemake {key}` is a stage")
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
    for value in values:
        if values.count(value) > 1:
            raise ParameterError(f"{key} = {value!r}: allowed: each once")


def _reaches(content: Any, location: tuple[int | str, ...]) -> bool:
    """Whether `location` leads somewhere in nested mappings."""
    for key in location:
        if not isinstance(content, Mapping) or key not in content:
            return False
        content = content[key]
    return True


def _explain(error: ValidationError) -> str:
    """Turn the first of pydantic's findings into a line: key = value: what is allowed."""
    # a misspelt key is missing too; the spelling tells more
    first, *others = sorted(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    location, value, allowed = first["loc"], first["input"], first["msg"]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, KeyedError):
        location, value, allowed = (*location, cause.key), cause.value, cause.allowed
    location = tuple(part for part in location if part != "[key]")
    key = _dotted(location)
    more = f"; {len(others)} more mistake{'' if len(others) == 1 else 's'}" if others else ""
    if first["type"] == "missing":
        return f"{key}: missing{more}"
    if first["type"] == "extra_forbidden":
        return f"{key} = {_short(value)}: unknown key; allowed: {_siblings(location)}{more}"
    for pattern, wording in WORDINGS.items():
        allowed = re.sub(pattern, wording, allowed)
    return f"{key} = {_short(value)}: allowed: {allowed}{more}"


WORDINGS = {
    r"^\w+ should (be |have )?": "",
    r" after validation, not \d+$": "",
    re.escape(f"match pattern '{LATIN}'"): "text of one line, in Latin letters and the signs of the keyboard",
    r"^match pattern": "text that matches",
    r"^a valid dictionary( or instance of \w+)?$": "a mapping",
    r"^a valid integer$": "an integer",
    r"^a valid string$": "text",
    r"^a valid ": "a ",
}
"""What pydantic says, and what the user reads."""

ITEMS = {"studies": Study, "sources": Address}
"""Blocks that stand in a list or under names of the user's."""


def _siblings(location: tuple[int | str, ...]) -> str:
    """Name the keys that may stand where `location` ends."""
    block: Any = Parameters
    for part in location[:-1]:
        field = block.model_fields.get(str(part))
        annotation = field.annotation if field else None
        is_block = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        block = annotation if is_block else ITEMS.get(str(part), block)
    return ", ".join(block.model_fields)


def _dotted(location: tuple[int | str, ...]) -> str:
    """Write a key with its path, in one line whatever the user has named it."""
    return ".".join(part if part.isprintable() and len(part) <= 60 else _short(part) for part in map(str, location))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
