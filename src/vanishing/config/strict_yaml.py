"""YAML without anchors, tags, repeated keys, and values that YAML 1.1 and 1.2 read differently."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vanishing.config.block import ParameterError, short


class StrictLoader(yaml.SafeLoader):
    """YAML with plain numbers, 1e-3 among them, and with repeated keys, anchors, aliases and tags refused.

    What YAML 1.1 and 1.2 read differently is text here: octal numbers (0144), base 60 (1:40), dates, and `yes`, `no`,
    `on` and `off`. DVC writes 1.2, in which a run called `no` needs no quotes.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse anchors, aliases and tags."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        for refused in ("anchor", "tag"):
            if getattr(event, refused, None):
                problem = f"anchors, aliases and tags are not allowed, found {short(getattr(event, refused))}"
                raise yaml.constructor.ConstructorError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse keys that are no text, or repeated."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {short(key)} is not text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {short(key)} is repeated", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


StrictLoader.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0] == "tag:yaml.org,2002:null"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


class Dumper(yaml.SafeDumper):
    """YAML in which text that either version, or the loader above, would read as something else is quoted."""


for _kind, _pattern in (
    ("int", r"[-+]?(0|[1-9]\d{0,17})"),
    ("float", r"[-+]?(\d+\.\d*|\.\d+)|[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
):
    for _side in (StrictLoader, Dumper):
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


def read_yaml(path: Path, most: int, kind: str) -> Any:
    """Read YAML of at most so many bytes as plain values; `ParameterError` if it is missing, larger or not such."""
    try:
        if not (path.is_file() or path.is_dir()) and path.exists():
            raise ParameterError(f"{path}: not a regular file")
        if path.stat().st_size > most:
            raise ParameterError(f"{path}: larger than {most:,} bytes; that is no {kind}")
        written = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ParameterError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ParameterError(f"{path}: not UTF-8 text") from None
    return parse(written, path)


def parse(written: str, where: Path | str) -> Any:
    """Return YAML as plain values; `ParameterError`, which names `where` it stands, if it is not such."""
    try:
        return yaml.load(written, Loader=StrictLoader)  # noqa: S506 - a SafeLoader
    except RecursionError:
        raise ParameterError(f"{where}: nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ParameterError(f"{where}{place}: {problem}") from None
    except (ValueError, OverflowError):  # PyYAML's, for an escape such as "\\UFFFFFFFF"
        raise ParameterError(f"{where}: cannot be read as YAML") from None


def text(content: Mapping[str, Any]) -> str:
    """Write plain values as a parameter file that `read` reads as they are."""
    return yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True)


def inline(value: Any) -> str:
    """Write a value in one line, as it may stand behind a key of a parameter file."""
    written = yaml.dump(
        [value], Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=True, width=float("inf")
    )
    return written.strip()[1:-1]
