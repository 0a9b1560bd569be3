"""The block `data`: which images, from where, and how many are held out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from vanishing.config.block import Block, KeyedError, Positive, Seed


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
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of training, validation and test images."""
        per_class = self.train_per_class, self.validation_per_class, self.test_per_class
        train, val, test = (self.classes * count for count in per_class)
        return train, val, test

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
