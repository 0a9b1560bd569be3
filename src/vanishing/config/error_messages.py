"""Mistakes in the parameters, told in one line each: key = value: what is allowed."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ValidationError

from vanishing.config.block import LATIN, KeyedError, dotted, short
from vanishing.config.data import Address, Folder
from vanishing.config.study import Study


def explain(error: ValidationError, root: type[BaseModel]) -> str:
    """Turn the first of pydantic's findings into a line: key = value: what is allowed."""
    # a misspelt key is missing too; the spelling tells more
    first, *others = sorted(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    location, value, allowed = first["loc"], first["input"], first["msg"]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, KeyedError):
        location, value, allowed = (*location, cause.key), cause.value, cause.allowed
    location = tuple(part for part in location if part not in NOT_KEYS)
    key = dotted(location)
    more = f"; {len(others)} more mistake{'' if len(others) == 1 else 's'}" if others else ""
    if first["type"] == "missing":
        return f"{key}: missing{more}"
    if first["type"] == "extra_forbidden":
        return f"{key} = {short(value)}: unknown key; allowed: {_siblings(root, location)}{more}"
    for pattern, wording in WORDINGS.items():
        allowed = re.sub(pattern, wording, allowed)
    return f"{key} = {short(value)}: allowed: {allowed}{more}"


NOT_KEYS = {"[key]", "[integer]", "[list]"}
"""Parts of pydantic's locations that no user has written: of a mapping's keys, and of the kinds of `model.blocks`."""

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

ITEMS = {"studies": Study, "sources": Address, "folder": Folder}
"""Blocks that stand in a list or under names of the user's, or need not be there."""


def _siblings(root: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Name the keys that may stand where `location` ends."""
    block: Any = root
    for part in location[:-1]:
        field = block.model_fields.get(str(part))
        annotation = field.annotation if field else None
        is_block = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        block = annotation if is_block else ITEMS.get(str(part), block)
    return ", ".join(block.model_fields)
