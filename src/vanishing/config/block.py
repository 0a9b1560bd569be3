"""What every block of `params.yaml` shares: its base class, its types, and how a mistake is told."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from vanishing.errors import UserError

IMAGE_SIZE = 32
"""Height and width of the images in pixels."""

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


class KeyedError(ValueError):
    """A check across keys failed: `key`, its value, and what is allowed."""

    def __init__(self, key: str, value: object, allowed: str) -> None:
        super().__init__(key, value, allowed)
        self.key, self.value, self.allowed = key, value, allowed


class Block(BaseModel):
    """A block of `params.yaml`: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def dotted(location: tuple[int | str, ...]) -> str:
    """Write a key with its path, in one line whatever the user has named it."""
    return ".".join(part if part.isprintable() and len(part) <= 60 else short(part) for part in map(str, location))


def short(value: object) -> str:
    """Write a value in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
