"""What the loss looks like around snapshots and along trajectories."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, median, stdev
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

from vanishing.report import figures, latex
from vanishing.report.why.measured import Measured

CAPTIONS = {
    "summary": "The landscape around the initialisation (epoch 0) and the last snapshot. Loss: at the snapshot, nats. "
    "Curvature: second difference of the loss around it, in nats per squared filter norm, mean and standard deviation "
    "over the directions; a bound where both are within what a second difference of $10^{-5}$ nats, which may be "
    "rounding, gives. Half-width: distance at which the loss has risen by one nat, in filter norms, median and "
    "range over both sides of all cuts. Concave: second differences along the cuts below $-10^{-5}$ nats, in per cent. "
    "No better: points of the grid whose loss is not 0.1 nats below that of chance, in per cent.",
    "cuts": "Loss along the random directions, in units of each filter's norm: at the last snapshot in colour, at the "
    "initialisation in grey, and, dashed, along the first direction with the running statistics of the last snapshot. "
    "The dotted line is chance; losses above $2 \\ln K$ leave the panel.",
    "grid": "Loss in the plane of the first two random directions, around the last snapshot of the first seed. The "
    "thick line is 0.1 nats below chance; losses above $2 \\ln K$ have the lightest shade.",
    "plane": "Loss in the plane of the first two principal components of the trajectory, through the last snapshot of "
    "the first seed, with the snapshots projected on it, from the cross, the initialisation, to the large dot. The "
    "unit is length in the space of weights; in brackets the share of the variance. Shades and thick line are those of "
    "the figure above. A snapshot's own loss is not that of its projection.",
}
"""What each figure and table shows."""

RISE = 1.0
"""Nats by which the loss has risen at the half-width."""

BETTER = 0.1
"""Nats by which a loss is below that of chance to be better than it."""

FLAT = 1e-5
"""Nats; a smaller second difference may be rounding, as logits are in single precision."""

LEVELS = 15
"""Shades between 0 and twice the loss of a uniform guess; an odd number, so that this loss is within a shade."""


def draw(data: Measured) -> dict[str, Figure]:
    """Draw the figures."""
    with figures.style():
        return {"cuts": cuts(data), "grid": surfaces(data, "grid"), "plane": surfaces(data, "plane")}


def _scale(data: Measured) -> tuple[float, float]:
    """Return the loss of chance on training images, and twice that of a uniform guess, where axes end."""
    return data.settings.data.chance("train").loss, 2 * math.log(data.settings.data.classes)


def tables(data: Measured) -> dict[str, str]:
    """Write the table of what summarises the cuts and the grid."""
    head = ["Run & Epoch & Loss & Curvature & Half-width & Concave & No better" + r" \\"]
    guess, reach = _scale(data)[0], data.settings.analyses.landscape.reach
    bodies = []
    for run in data.networks.values():
        for epoch, rows in data.rows(run).groupby("epoch"):
            found = summarise(rows, guess)
            cells = [latex.number(found["loss"], 2), _curvature(found), _widths(found["half_widths"], reach)]
            shares = [latex.number(100 * found[key], 0) for key in ("concave", "no_better")]
            bodies.append([latex.code(run), f"{epoch}", *cells, *shares])
    return {"summary": latex.tabular("lrrrrrr", head, bodies)}


def numbers(data: Measured) -> Iterator[tuple[str, float, str]]:
    """Yield NETWORK/WHEN/KEY, where WHEN is start, the initialisation, or end, and NETWORK/KEY of the plane.

    Runs have their values by their own name too, so that trainings of equal length can be compared.
    """
    guess, block = _scale(data)[0], data.settings.analyses.landscape
    settings = {"images": block.batches * block.batch_size, "directions": block.directions, "reach": block.reach}
    for key, value in (settings | {"rise": RISE, "guess": guess, "better": BETTER, "flat": FLAT}).items():
        yield key, value, latex.number(value)
    for name, run in (data.networks | {run: run for run in data.table.run}).items():
        rows = data.rows(run)
        for when, epoch in (("start", 0), ("end", rows.epoch.max())):
            if len(at := rows[rows.epoch == epoch]):
                for key, value, text in _numbers(at, guess, block.reach):
                    yield f"{name}/{when}/{key}", value, text
        for key, value in _plane_numbers(rows).items():
            yield f"{name}/{key}", value, latex.number(value, 0)


def summarise(rows: pd.DataFrame, guess: float) -> dict[str, Any]:
    """Summarise the cuts and the grid at one epoch of a run, over its seeds and directions.

    Args:
        rows: of one run and epoch.
        guess: loss of chance, in nats.

    Returns:
        loss: at the snapshot, with recomputed statistics.
        running_loss: the same with running statistics; NaN without.
        curvatures: a value a cut.
        noise: the curvature of a second difference of `FLAT`.
        half_widths: two a cut, infinite where the loss does not rise that far.
        half_width: their median.
        half_width_first: the same along the first direction alone.
        running_half_width: the same with running statistics; NaN without.
        concave: share of second differences below `-FLAT`.
        range: of the loss over the cuts.
        no_better: share of the grid's points whose loss is not `BETTER` below `guess`; NaN without a grid.
    """
    batch, running = (rows[(rows.kind == "cut") & (rows.statistics == which)] for which in ("batch", "running"))
    found, first, stored = _arrays(batch), _arrays(batch[batch.direction == 1]), _arrays(running)
    bends = np.concatenate([np.diff(loss, 2) for _, loss in found])
    half_widths = [width for cut in found for width in _rises(*cut)]
    grid = rows[rows.kind == "grid"].loss
    return {
        "loss": batch[batch.x == 0].loss.mean(),
        "running_loss": running[running.x == 0].loss.mean(),
        "curvatures": [curvature(x, loss) for x, loss in found],
        "noise": FLAT / np.diff(found[0][0]).max() ** 2,
        "half_widths": half_widths,
        "half_width": median(half_widths),
        "half_width_first": median(width for cut in first for width in _rises(*cut)),
        "running_half_width": median(width for cut in stored for width in _rises(*cut)) if stored else math.nan,
        "concave": float((bends < -FLAT).mean()),
        "range": batch.loss.max() - batch.loss.min(),
        "no_better": float((grid > guess - BETTER).mean()) if len(grid) else math.nan,
    }


def _arrays(cuts: pd.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return steps and losses of each cut."""
    split = [cut.sort_values("x") for _, cut in cuts.groupby(["seed", "direction"])]
    return [(cut.x.to_numpy(), cut.loss.to_numpy()) for cut in split]


def curvature(x: np.ndarray, loss: np.ndarray) -> float:
    """Return the second difference of the loss around the middle of a cut, over the squared step."""
    middle = len(x) // 2
    step = x[middle + 1] - x[middle]
    return float((loss[middle - 1] - 2 * loss[middle] + loss[middle + 1]) / step**2)


def _rises(x: np.ndarray, loss: np.ndarray) -> list[float]:
    """Return where the loss has risen by `RISE` from the middle to either side, interpolated; infinity if nowhere."""
    middle = len(x) // 2
    return [
        _crossing(abs(x[side]), loss[side] - loss[middle] - RISE)
        for side in (slice(middle, None), slice(middle, None, -1))
    ]


def _crossing(x: np.ndarray, risen: np.ndarray) -> float:
    above = np.flatnonzero(risen >= 0)
    if not len(above):
        return math.inf
    last = above[0] + 1
    return float(np.interp(0, risen[last - 2 : last], x[last - 2 : last]))


def walk_shares(epochs: Sequence[float]) -> np.ndarray:
    """Return the shares of variance of a random walk's components, seen at these epochs, largest first.

    In very many dimensions its steps are orthogonal, and their squared length grows with the time between; most of the
    variance then lies in the first two components too (Antognini & Sohl-Dickstein 2018).
    """
    centring = np.eye(len(epochs)) - 1 / len(epochs)
    variances = np.linalg.eigvalsh(centring @ np.minimum.outer(epochs, epochs) @ centring)[::-1]
    shares: np.ndarray = variances / variances.sum()
    return shares


def cuts(data: Measured) -> Figure:
    """Draw the cuts, a panel a network."""
    runs, (guess, top) = data.networks.values(), _scale(data)
    figure, axes = figures.panels(len(runs), height=1.5, sharex=True, sharey=True)
    for axis, run in zip(axes, runs, strict=True):
        rows = data.rows(run)
        lines = rows[rows.kind == "cut"]
        for (epoch, statistics, *_), cut in lines.groupby(["epoch", "statistics", "seed", "direction"]):
            last = epoch == lines.epoch.max()
            if statistics == "batch":
                colour = data.look(run)["color"] if last else "0.65"
                axis.plot(cut.x, cut.loss, color=colour, linewidth=0.9, zorder=2 + last)
            elif last:
                axis.plot(cut.x, cut.loss, color="0.1", linestyle="--", linewidth=0.8, zorder=4)
        axis.axhline(guess, color="0.4", linestyle=":", linewidth=0.8)
        axis.set(title=run, ylim=(0, top))
    figure.supylabel("loss (nats)", fontsize=8)
    figure.supxlabel("step (filter norms)", fontsize=8)
    return figure


def surfaces(data: Measured, kind: str) -> Figure:
    """Draw the grid, or the plane of the trajectory with its path, a panel a network that has it."""
    found = {run: rows for run in data.networks.values() if len(rows := _first(data.rows(run), kind))}
    if not found:
        figure = Figure(figsize=(6.3, 0.6))
        figure.text(0.5, 0.5, "no trajectory has three snapshots", ha="center", va="center")
        return figure
    figure, axes = figures.panels(len(found), height=2.4 if kind == "grid" else 2.0)
    for axis, (run, rows) in zip(axes, found.items(), strict=True):
        shown = _surface(axis, rows, *_scale(data))
        axis.set_title(run)
        if kind == "plane":
            _path(axis, data.rows(run))
        else:
            axis.set_aspect("equal")
    ticks = range(0, int(_scale(data)[1]) + 1, 2)
    figure.colorbar(shown, ax=axes, label="loss (nats)", aspect=40, location="bottom", shrink=0.8, ticks=ticks)
    return figure


def _surface(axis: Axes, rows: pd.DataFrame, guess: float, top: float) -> QuadContourSet:
    surface = rows.pivot_table(index="y", columns="x", values="loss")
    levels = np.linspace(0, top, LEVELS + 1)
    drawn = axis.contourf(surface.columns, surface.index, surface, levels=levels, cmap="viridis", extend="max")
    axis.contour(surface.columns, surface.index, surface, levels=[guess - BETTER], colors="black", linewidths=1.2)
    axis.grid(visible=False)
    return drawn


def _path(axis: Axes, rows: pd.DataFrame) -> None:
    path, shares = _first(rows, "path"), _first(rows, "component").set_index("direction").share
    axis.plot(path.x, path.y, color="white", linewidth=2.2)
    axis.plot(path.x, path.y, color="black", linewidth=0.9, marker=".", markersize=3)
    axis.plot(*path[["x", "y"]].iloc[0], marker="x", color="black", markersize=6)
    axis.plot(*path[["x", "y"]].iloc[-1], marker="o", color="black", markersize=5)
    axis.set_xlabel(f"component 1 ({100 * shares[1]:.0f} %)")
    axis.set_ylabel(f"component 2 ({100 * shares[2]:.0f} %)")


def _first(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return the rows of a kind of the first seed."""
    first: pd.DataFrame = rows[(rows.kind == kind) & (rows.seed == rows.seed.min())]
    return first


def _numbers(rows: pd.DataFrame, guess: float, reach: float) -> Iterator[tuple[str, float, str]]:
    found = summarise(rows, guess)
    yield "epoch", rows.epoch.max(), latex.number(rows.epoch.max(), 0)
    yield "loss", found["loss"], latex.number(found["loss"], 2)
    yield "range", found["range"], latex.number(found["range"])
    yield "curvature", fmean(found["curvatures"]), _curvature(found)
    yield "half_width", found["half_width"], _widths(found["half_widths"], reach)
    yield "concave", 100 * found["concave"], latex.number(100 * found["concave"], 0)
    if not math.isnan(found["running_loss"]):
        yield "running_loss", found["running_loss"], latex.number(found["running_loss"], 2)
        for key in ("half_width_first", "running_half_width"):
            yield key, found[key], _width(found[key], reach)
    if not math.isnan(found["no_better"]):
        yield "no_better", 100 * found["no_better"], latex.number(100 * found["no_better"], 0)


def _plane_numbers(rows: pd.DataFrame) -> dict[str, float]:
    """Return the share of the first two components and that of a random walk, in per cent; nothing without a plane."""
    components, path = _first(rows, "component"), _first(rows, "path")
    if components.empty:
        return {}
    share = components[components.direction <= 2].share.sum()
    return {"share": 100 * share, "walk": 100 * walk_shares(path["at"].tolist())[:2].sum(), "snapshots": len(path)}


def _curvature(found: dict[str, Any]) -> str:
    """Write mean and standard deviation over the cuts, or the noise where both are within it."""
    mean, deviation = fmean(found["curvatures"]), stdev(found["curvatures"])
    if max(abs(mean), deviation) < found["noise"]:
        return f"$<${latex.number(found['noise'])}"
    return f"{latex.number(mean)} $\\pm$ {latex.number(deviation)}"


def _width(width: float, reach: float) -> str:
    return f"$>${latex.number(reach)}" if math.isinf(width) else latex.number(width)


def _widths(widths: Sequence[float], reach: float) -> str:
    """Write the median, and in brackets the range, of widths that are not all beyond the reach."""
    middle, low, high = (_width(width, reach) for width in (median(widths), min(widths), max(widths)))
    return low if math.isinf(min(widths)) else f"{middle} ({low} to {high})"
