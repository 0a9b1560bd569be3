"""Show a diagnosis: as text in a terminal, as a page with a figure in a notebook."""

from __future__ import annotations

import base64
import html
import io
import math
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn

from vanishing import files
from vanishing.analysis import diagnosis, probe
from vanishing.analysis.diagnosis import LIMIT, Finding
from vanishing.analysis.probe import OUTPUT, Measurement
from vanishing.analysis.vectors import Loss
from vanishing.console import aligned
from vanishing.errors import UserError
from vanishing.report import figures

ROWS = 40
"""Rows of the table that a text shows at most."""

WIDTH = 100
"""Characters in a line of text."""

FORMATS = ("pdf", "png", "svg")
"""Of a saved figure."""

SHOWN = ["activation", "example_share", "bits", "zeros", "dead", "gradient", "forward", "backward", "weight_gradient"]
"""Columns of the table in a text."""


@dataclass(frozen=True)
class Diagnosis:
    """What keeps a network from training, if anything; `print` it, or end a notebook's cell with it."""

    measurement: Measurement
    findings: list[Finding]
    """What is wrong, causes before their effects; each has a kind, a direction, its layers, a text and advice."""

    @property
    def table(self) -> pd.DataFrame:
        """A row for each call of a layer, in forward order; the columns are those of `vanishing.analysis.probe`."""
        return self.measurement.table

    @property
    def healthy(self) -> bool:
        """Whether nothing was found that keeps the network from training."""
        return not self.findings

    @property
    def limits(self) -> list[str]:
        """What could not be judged, and why."""
        return self.measurement.limits

    @property
    def span(self) -> float:
        """Largest factor between gradients of lower and upper layers, relative to the weights; 1 for one layer."""
        ratios = diagnosis.cuts(diagnosis.gradients_by_layer(self.measurement))
        if not len(ratios):
            return 1.0
        return float(max(1 / ratios.min() if ratios.min() else math.inf, ratios.max()))

    @property
    def verdict(self) -> str:
        """What is wrong, in words; for a healthy network the measured margins."""
        if self.findings:
            return " ".join(map(str, self.findings))
        bits = self.table.bits.min()
        signal = f" At least {bits:.0f} bits of the signal depend on the example." if bits > 0 else ""
        return (
            "Healthy at these weights. Relative to their weights, the gradients of lower and upper layers differ by a "
            f"factor of {self.span:.2g} at most; SGD can serve up to {LIMIT:,.0f}.{signal}"
        )

    def __str__(self) -> str:
        parts = [_text_table(self.table), textwrap.fill(f"Verdict: {self.verdict}", WIDTH)]
        parts += [_bullets(title, lines) for title, lines in self._notes()]
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        buffer = io.BytesIO()
        self._write(buffer, "svg")
        image = base64.b64encode(buffer.getvalue()).decode()
        lists = "".join(
            f"<p>{html.escape(title)}</p><ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"
            for title, lines in self._notes()
        )
        table = self.table.to_html(index=False, float_format="{:.3g}".format, na_rep="", border=0)
        return (
            f"<p><b>{html.escape(self.verdict)}</b></p>{lists}"
            f'<img alt="Signal and gradient by layer" src="data:image/svg+xml;base64,{image}">'
            f"<details><summary>All layers</summary>{table}</details>"
        )

    def _notes(self) -> Iterator[tuple[str, list[str]]]:
        """Yield the titles and lines of the advice and of what was not judged."""
        if advice := dict.fromkeys(str(each) for finding in self.findings for each in finding.advice):
            yield "What helps, and how this study knows:", list(advice)
        if self.limits:
            yield "Not judged, or judged with care:", self.limits

    def figure(self) -> Figure:
        """Draw signal and gradient over the calls of the layers."""
        with figures.style():
            figure = Figure(figsize=(6.3, 3.2))
            forward, backward = figure.subplots(1, 2)
            rows = self.table.assign(place=range(1, len(self.table) + 1))
            _forward(forward, rows)
            _backward(backward, rows)
            for axis in (forward, backward):
                axis.set(xlabel="call of a layer, from input to output", yscale="log")
                axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
                axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.1))
        return figure

    def save(self, path: Path | str) -> None:
        """Write the figure; the same diagnosis gives the same bytes.

        Args:
            path: ends in .pdf, .png or .svg.
        """
        path = Path(path)
        kind = path.suffix.removeprefix(".")
        if kind not in FORMATS:
            raise UserError(f"{path}: a figure ends in .{', .'.join(FORMATS)}")
        with files.replacing(path) as handle:
            self._write(handle, kind)

    def _write(self, handle: Any, kind: str) -> None:
        with figures.style():
            self.figure().savefig(handle, format=kind, metadata=figures.UNDATED.get(kind), dpi=150)


def diagnose(model: nn.Module, batches: Iterable[Any], loss: Loss | None = None) -> Diagnosis:
    """Measure a network and judge it; see `vanishing.diagnose`."""
    measurement = probe.measure(model, batches, loss)
    return Diagnosis(measurement, diagnosis.judge(measurement))


def _text_table(table: pd.DataFrame) -> str:
    """Lay out the calls of layers; of more than `ROWS`, normalisations first go, then evenly spaced rows."""
    kept = table
    if len(kept) > ROWS:
        kept = kept[kept.weight_gradient.notna() | (kept.name == OUTPUT)]
    if len(kept) > ROWS:
        kept = kept.iloc[np.unique(np.linspace(0, len(kept) - 1, ROWS).round().astype(int))]
    names = [f"{row.name_} #{row.call}" if row.call > 1 else row.name_ for row in _named(kept)]
    header = ["layer", *(column.replace("_", " ") for column in SHOWN)]
    cells = [[_number(value) for value in row] for row in kept[SHOWN].to_numpy()]
    lines = aligned([header, *([name, *row] for name, row in zip(names, cells, strict=True))], gap=2)
    left = len(table) - len(kept)
    return lines + (f"\n({left} more rows in .table)" if left else "")


def _named(table: pd.DataFrame) -> Iterator[Any]:
    return table.rename(columns={"name": "name_"}).itertuples()


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2g}"


def _bullets(title: str, lines: list[str]) -> str:
    shaped = (textwrap.fill(line, WIDTH, initial_indent="- ", subsequent_indent="  ") for line in lines)
    return "\n".join([title, *shaped])


def _forward(axis: Any, rows: pd.DataFrame) -> None:
    """Draw the size of the signal, and of the part of it that depends on the example, above the rounding."""
    part = rows.activation * rows.example_share
    rounding = part / 2.0**rows.bits
    axis.plot(rows.place, _positive(rows.activation), color="0.1", label="activation")
    axis.plot(rows.place, _positive(part), color="C0", linestyle="--", label="part that depends on the example")
    axis.plot(rows.place, _positive(rounding), color="0.5", linestyle=":", label="rounding of the activation")
    axis.set(title="forward", ylabel="RMS of the input")


def _backward(axis: Any, rows: pd.DataFrame) -> None:
    weights = rows[rows.weight_gradient > 0]
    axis.plot(rows.place, _positive(rows.gradient), color="0.1", label="gradient at the input")
    axis.plot(weights.place, weights.weight_gradient, ".", color="C1", label="gradient of the weights / weights")
    axis.set(title="backward", ylabel="L2 norm")


def _positive(values: pd.Series) -> pd.Series:
    """Blank what a logarithmic axis cannot show."""
    return values.where((values > 0) & np.isfinite(values))
