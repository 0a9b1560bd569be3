"""The block `data`: which images, from where, and how many are held out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from vanishing.config.block import LATIN, Block, KeyedError, Positive, Seed

SHA256 = r"^[0-9a-f]{64}$"


class Scaling(NamedTuple):
    """Channel means and standard deviations of pixel values in 0-1, by which images are normalised."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CIFAR10 = Scaling((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
"""CIFAR-10's, as in the reports' framework."""


class Chance(NamedTuple):
    """What the best answer that ignores the image attains."""

    loss: float
    """In nats."""
    accuracy: float
    """A fraction."""


Counts = Annotated[list[Positive], Field(min_length=2, max_length=1 << 16)]
Channels = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=3, max_length=3)]


class Generated(Block):
    """Size of the generated data set, in images of each class."""

    classes: Annotated[int, Field(ge=2, le=100)]
    train_per_class: Annotated[int, Field(ge=1, le=10_000)]
    test_per_class: Annotated[int, Field(ge=1, le=10_000)]


class Folder(Block):
    """The user's own images as `vanishing images` has recorded them: what has to be known before they are read."""

    title: Annotated[str, Field(min_length=1, max_length=60, pattern=LATIN)]
    """What the report calls them; no result depends on it."""
    sha256: Annotated[str, Field(pattern=SHA256)]
    """See `vanishing.data.records.digest`."""
    train: Counts
    """Images of each class, validation included."""
    test: Counts
    """Images of each class."""
    seed: Seed | None = None
    """Which the test images were drawn by; None where they came as such."""
    mean: Channels
    std: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=3, max_length=3)]

    @model_validator(mode="after")
    def _have_the_same_classes(self) -> Self:
        if len(self.train) != len(self.test):
            raise KeyedError("test", self.test, f"a number for each of the {len(self.train)} classes of train")
        return self


class Data(Block):
    """Which images, and how many of them are held out; `recipe` is the version of how, as in `Train`."""

    recipe: Literal[1]
    set: Literal["cifar100", "generated", "folder"]
    sources: list[Source]
    validation_per_class: Positive
    seed: Seed
    """Of the validation split; that of the top-level block of the generated images too."""
    generated: Generated
    folder: Folder | None = None

    @property
    def own(self) -> Folder | None:
        """The record of the user's own images, None where they are not what is used."""
        return self.folder if self.set == "folder" else None

    @property
    def name(self) -> str:
        """What the images are called in print."""
        return self.own.title if self.own else {"cifar100": "CIFAR-100"}.get(self.set, "the generated set")

    @property
    def unused(self) -> dict[str, Any]:
        """What no result depends on, as pydantic's `exclude`.

        Where the images come from is left out: the content hash decides which they are.
        """
        folder = {"title"} if self.own else True
        return {"sources": True, "folder": folder} | ({} if self.set == "generated" else {"generated": True})

    @property
    def absent(self) -> list[str]:
        """Keys that a file need not have, and this one does not."""
        return [] if self.folder else ["folder"]

    def configuration(self) -> dict[str, Any]:
        """Everything that the arrays depend on, as plain values."""
        return self.model_dump(mode="json", exclude=self.unused)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self._counts[0])

    @property
    def train_counts(self) -> list[int]:
        """Images of each class left for training once validation has taken its share."""
        return [count - self.validation_per_class for count in self._counts[0]]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of training, validation and test images."""
        return sum(self.train_counts), self.classes * self.validation_per_class, sum(self._counts[1])

    @property
    def unequal(self) -> list[float]:
        """Loss and accuracy of chance in training, where its classes are not equally frequent."""
        return [] if len(set(self.train_counts)) == 1 else [*self.chance("train")]

    @property
    def prior_loss(self) -> float:
        """The loss of chance in training."""
        return self.chance("train").loss

    def chance(self, part: Literal["train", "val", "test"]) -> Chance:
        """Return entropy and largest share of the classes in a part of the data: ln K and 1/K where all are equal.

        Validation always has as many images of each class.
        """
        counts = {"train": self.train_counts, "val": [self.validation_per_class], "test": self._counts[1]}[part]
        if len(set(counts)) == 1:
            return Chance(math.log(self.classes), 1 / self.classes)
        shares = [count / sum(counts) for count in counts]
        return Chance(-sum(share * math.log(share) for share in shares), max(shares))

    @property
    def scaling(self) -> Scaling:
        """What images are normalised by: for the user's own the constants of all of their training images."""
        if self.own is None:
            return CIFAR10
        (r, g, b), (s, t, u) = self.own.mean, self.own.std
        return Scaling((r, g, b), (s, t, u))

    @property
    def path(self) -> Path:
        """Where `vanishing data` leaves the arrays; the same for every seed of a run."""
        return Path("data") / f"{self.set}.npz"

    @property
    def _counts(self) -> tuple[list[int], list[int]]:
        """Training images of each class, validation included, and test images."""
        if self.own:
            return self.own.train, self.own.test
        if self.set == "cifar100":
            return [500] * 100, [100] * 100
        size = self.generated
        return [size.train_per_class] * size.classes, [size.test_per_class] * size.classes

    @model_validator(mode="after")
    def _leave_training_images(self) -> Self:
        if self.set == "folder" and not self.own:
            raise KeyedError("folder", None, "the line that `vanishing images PATH` prints for your images")
        if min(self.train_counts) < 1:
            smallest = min(self._counts[0])
            raise KeyedError("validation_per_class", self.validation_per_class, f"less than the {smallest} of a class")
        return self


class Address(Block):
    """An archive on the network; `sha256` is enforced where it is given."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    sha256: Annotated[str, Field(pattern=SHA256)] | None = None


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
