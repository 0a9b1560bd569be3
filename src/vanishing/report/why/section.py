"""The generated part of the section on causes: its layout, tables and values."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping
from types import ModuleType

from vanishing import config, files, paths
from vanishing.report import macros
from vanishing.report.why import measured

TITLES = {
    "signal": "Where the factors go",
    "trainable_depth": "How deep a plain network trains",
    "smoothness": "Is it the smoothness of the loss?",
    "landscape": "What the landscape looks like",
    "curvature": "Curvature and the edge of stability",
    "effective_depth": "How deep the networks are in effect",
}
"""Of the parts, in order, a part an analysis."""


def write(settings: config.Parameters) -> list[str]:
    """Write `why.tex`, `numbers.tex` and the tables; return the analyses that have measured anything."""
    found = {name: data for name in TITLES if (data := measured.read(name, settings))}
    numbers, layout = [macros.fact("why")] * bool(found), []
    for name, data in found.items():
        part = module(name)
        numbers += [macros.result(f"why/{name}/{key}", value, text) for key, value, text in part.numbers(data)]
        tables = part.tables(data)
        for table, text in tables.items():
            files.write(paths.WHY / "parts" / f"{name}-{table}.tex", text)
        layout.append(_part(name, part.CAPTIONS, list(tables)))
    files.write(paths.WHY / "numbers.tex", "".join(f"{line}\n" for line in numbers))
    files.write(paths.WHY / "why.tex", "\n".join(layout))
    return list(found)


def module(name: str) -> ModuleType:
    """Return the module that presents an analysis."""
    return importlib.import_module(f"vanishing.report.why.{name}")


def _part(name: str, captions: Mapping[str, str], tables: Collection[str]) -> str:
    """Lay out a part: its text, and tables and figures in the order of their captions."""
    floats = [
        f"  \\why{'table' if item in tables else 'figure'}{{{name}}}{{{item}}}{{{caption}}}%\n"
        for item, caption in captions.items()
    ]
    return f"\\whypart{{{name}}}{{{TITLES[name]}}}{{%\n{''.join(floats)}}}\n"
