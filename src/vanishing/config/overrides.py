"""Settings that a command line lays over the parameter file, each `KEY=VALUE` with a key as DVC writes it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import yaml

from vanishing.config.block import ParameterError, short
from vanishing.config.strict_yaml import Dumper, StrictLoader, merge, parse

NAMED = {"runs": "run", "studies": "study"}
"""Blocks whose keys are names, and what they name: a misspelt one would be another of them."""


def read_settings(typed: Sequence[str]) -> dict[str, Any]:
    """Return nested plain values of settings such as `runs.vgg38_bn.train.learning_rate=0.003`; a later one wins.

    Values are YAML as in the parameter file. `ParameterError` for one that is neither.
    """
    return reduce(merge, map(_read_setting, typed), {})


def _read_setting(text: str) -> dict[str, Any]:
    key, equals, written = text.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ParameterError(f"--set {short(text)}: allowed: KEY=VALUE, such as train.epochs=50")
    value = parse(written, f"--set {key}")
    for part in reversed(parts):
        value = {part: value}
    return dict(value)


def write_settings(overrides: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield nested plain values as settings that `read_settings` reads as they are."""
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            yield from write_settings(value, f"{above}{key}.")
        else:
            written = yaml.dump(value, Dumper=Dumper, default_flow_style=True, allow_unicode=True, width=math.inf)
            yield f"{above}{key}=" + written.removesuffix("\n").removesuffix("\n...")


def plain(value: Any) -> Any:
    """Return nested values with every text in them read as the parameter file would: Snakemake leaves numbers text."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    if not isinstance(value, str):
        return value
    loader = StrictLoader("")
    tag = loader.resolve(yaml.ScalarNode, value, (True, False))  # type: ignore[no-untyped-call]
    return loader.construct_object(yaml.ScalarNode(tag, value))


def lay_over(content: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Lay overrides over plain values; `ParameterError` if they name a run or study that is not among these."""
    for block, kind in NAMED.items():
        there, named = content.get(block), overrides.get(block)
        if isinstance(there, Mapping) and isinstance(named, Mapping):
            for name in named:
                if name not in there:
                    raise ParameterError(f"{block}.{name}: no such {kind}; allowed: {', '.join(there)}")
    return merge(content, overrides)
