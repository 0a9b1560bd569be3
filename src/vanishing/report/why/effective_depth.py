"""How much of its depth a network uses: figures, table and values of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from vanishing.report import figures
from vanishing.report.latex import code, number, tabular
from vanishing.report.why.measured import Measured
from vanishing.results import initial_gradients, statistics

Moments = dict[str, pd.DataFrame]
"""Rows of a run at the `start` and at the `end` of its trajectory, means over the seeds."""

CAPTIONS = {
    "summary": "Depth in use, on the same training images, normalised by minibatch. One block out: mean and lowest "
    "accuracy over the processing blocks. Path length: mean number of blocks whose branches a path takes, weighted by "
    "the number of paths of a length times the root mean square of the gradient along one (each; one draw of signs a "
    "minibatch), or by that along all of a length together. Branch: its share of the variance before a processing "
    "block's last activation, mean over the blocks.",
    "cuts": "Accuracy with one block cut out, at the last snapshot: processing blocks (filled) and reduction blocks "
    "(hollow), normalised by minibatch; crosses: by running statistics. The solid line is the whole network, the "
    "dotted one chance.",
    "paths": "Share of the gradient by the number of blocks whose branches its path takes: the number of paths of that "
    "length times the root mean square of the gradient along one, by one draw of signs a minibatch. Grey: the share if "
    "all paths carried the same.",
    "branches": "Share of the branch in the variance before a processing block's last activation. Crosses: $1 / (1 + "
    r"v_k)$ by equation~\eqref{eq:walk}, which holds at initialisation with BN.",
}
"""Of the table and the figures, in their order."""

MOMENTS = {"start": "at initialisation", "end": "at the last epoch"}


def ends(data: Measured, run: str) -> Moments:
    """Return the rows of a run at the first and at the last epoch of its trajectory."""
    rows = data.means(run, "epoch", "kind", "name", "number").fillna({"name": ""})
    epochs = {"start": rows.epoch.min(), "end": rows.epoch.max()}
    return {moment: rows[rows.epoch == epoch] for moment, epoch in epochs.items()}


def draw(data: Measured) -> dict[str, Figure]:
    """Draw the figures of `CAPTIONS`: of the networks with processing blocks, if any; the last two of residual ones."""
    chosen = {run: ends(data, run) for run in data.networks.values()}
    deep = {run: moments for run, moments in chosen.items() if len(_processing(moments["end"]))} or chosen
    residual = {run: moments for run, moments in deep.items() if moments["end"].shortcut_variance.notna().any()}
    with figures.style():
        paths = _at_both_ends(data, residual, _path, "blocks whose branches the path takes", "share of the gradient")
        branches = _at_both_ends(data, residual, _branch, "block", "share of the branch")
        branches.axes[0].set_ylim(bottom=0)
        return {"cuts": _cuts(data, deep), "paths": paths, "branches": branches}


def tables(data: Measured) -> dict[str, str]:
    """Write the table of `CAPTIONS`: a row for each network and moment."""
    head = [
        r"& & & \multicolumn{2}{c}{one block out (\%)} & \multicolumn{2}{c}{path length} & \\",
        r"\cmidrule(lr){4-5}\cmidrule(lr){6-7}",
        r"run & epoch & accuracy (\%) & mean & lowest & each & together & branch \\",
    ]
    bodies = [
        [[code(run), *(text for _, text in summary(rows).values())] for rows in ends(data, run).values()]
        for run in data.networks.values()
    ]
    return {"summary": tabular("lrrrrrrr", head, *bodies)}


def numbers(data: Measured) -> Iterator[tuple[str, float, str]]:
    """Yield the values of the table by network and moment, and what the text says of blocks beside them."""
    block = data.settings.analyses.effective_depth
    yield "images", block.batches * block.batch_size, number(block.batches * block.batch_size, 0)
    yield "draws", block.gradient_batches, number(block.gradient_batches, 0)
    for name, run in data.networks.items():
        yield f"{name}/run", 0, code(run)
        seeds = data.rows(run).seed.nunique()
        yield f"{name}/seeds", seeds, number(seeds, 0)
        for moment, rows in ends(data, run).items():
            for key, (value, text) in (summary(rows) | _details(rows)).items():
                if np.isfinite(value):
                    yield f"{name}/{moment}/{key}", value, text


def summary(rows: pd.DataFrame) -> dict[str, tuple[float, str]]:
    """Return the values of a snapshot, each with its text."""
    cut, paths = 100 * _processing(rows).accuracy, rows[rows.kind == "path"]
    shares = share(rows)
    values = {
        "epoch": (float(rows.epoch.iloc[0]), 0),
        "accuracy": (100 * float(rows.accuracy[rows.kind == "network"].iloc[0]), 1),
        "without": (float(cut.mean()), 1),
        "without_lowest": (float(cut.min()), 1),
        "length": (_average(paths.number, paths.paths * paths.path_gradient), 1),
        "length_together": (_average(paths.number, paths.gradient), 1),
        "branch": (float(shares.mean()), 2),
    }
    return {key: (value, number(value, digits)) for key, (value, digits) in values.items()}


def share(rows: pd.DataFrame) -> pd.Series:
    """Return the branch's share of the variance of each processing block with a shortcut, by number of the block."""
    blocks = _processing(rows).set_index("number")
    return (blocks.branch_variance / (blocks.branch_variance + blocks.shortcut_variance)).dropna()


def predicted(rows: pd.DataFrame) -> pd.Series:
    """Return the same for branches of unit variance, by the random walk of equation eq:walk."""
    blocks = _processing(rows)
    steps = blocks.groupby(blocks["name"].str.split(".").str[0]).cumcount() + 1
    return pd.Series([1 / (1 + initial_gradients.walk_variance(step)) for step in steps], blocks.number)


def _details(rows: pd.DataFrame) -> dict[str, tuple[float, str]]:
    """Return what the text says beside: accuracies in per cent, lengths of paths, and shares by their prediction."""
    blocks, paths, shares = rows[rows.kind == "block"], rows[rows.kind == "path"], share(rows)
    reduction = blocks[blocks["name"].str.endswith("reduction")]
    ends = paths.path_gradient.iloc[[0, -1]].tolist()
    values = {
        "blocks": (float(len(blocks)), 0),
        "without_reduction": (100 * float(reduction.accuracy.mean()), 1),
        "without_running": (100 * float(_processing(rows).running_accuracy.mean()), 1),
        "shortest": (float(paths.number.min()), 0),
        "longest": (float(paths.number.max()), 0),
        "length_even": (_average(paths.number, paths.paths), 1),
        "gradient_of_longest": (ends[1] / ends[0] if ends[0] > 0 else np.nan, None),
        "branch_first": (float(shares.iloc[0]) if len(shares) else np.nan, 2),
        "branch_least": (float(shares.min()), 2),
        "branch_ratio": (statistics.geometric_mean(shares / predicted(rows)), 2),
    }
    return {key: (value, number(value, digits)) for key, (value, digits) in values.items()}


def _cuts(data: Measured, chosen: dict[str, Moments]) -> Figure:
    figure, axes = figures.panels(len(chosen), 2, height=1.45, sharex=True, sharey=True)
    for axis, (run, moments) in zip(axes, chosen.items(), strict=True):
        rows, colour = moments["end"], data.look(run)["color"]
        blocks = rows[rows.kind == "block"]
        hollow = blocks["name"].str.endswith("reduction")
        axis.axhline(rows.accuracy.iloc[0], color=colour, linewidth=1)
        axis.axhline(data.settings.data.chance("train").accuracy, color="0.4", linestyle=":", linewidth=0.8)
        axis.plot(blocks.number, blocks.running_accuracy, "x", color="0.55", markersize=4)
        axis.plot(blocks.number[~hollow], blocks.accuracy[~hollow], "o", color=colour, markersize=4)
        axis.plot(
            blocks.number[hollow], blocks.accuracy[hollow], "o", color=colour, markersize=5, markerfacecolor="white"
        )
        axis.set_title(f"{run}, epoch {rows.epoch.iloc[0]:.0f}")
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    figure.supxlabel("block cut out", fontsize=8)
    figure.supylabel("accuracy", fontsize=8)
    return figure


def _at_both_ends(
    data: Measured, chosen: dict[str, Moments], draw_one: Callable[..., None], xlabel: str, ylabel: str
) -> Figure:
    """Draw each network with `draw_one`, at initialisation on the left and at the last epoch on the right."""
    figure, axes = figures.panels(2, height=2, sharey=True)
    for axis, (moment, title) in zip(axes, MOMENTS.items(), strict=True):
        for run, moments in chosen.items():
            draw_one(axis, moments[moment], label=run, **data.look(run))
        axis.set(title=title, xlabel=xlabel)
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes[0].set_ylabel(ylabel)
    if chosen:
        figures.legend(figure, axes, list(chosen))
    return figure


def _path(axis: Axes, rows: pd.DataFrame, **look: Any) -> None:
    rows = rows[rows.kind == "path"]
    weights = rows.paths * rows.path_gradient
    axis.fill_between(rows.number, rows.paths / rows.paths.sum(), color="0.88", linewidth=0)
    axis.plot(rows.number, weights / weights.sum(), **look)


def _branch(axis: Axes, rows: pd.DataFrame, **look: Any) -> None:
    shares, walk = share(rows), predicted(rows)
    shares = shares.reindex(range(1, walk.index.max() + 1))  # a gap at each reduction block
    axis.plot(walk.index, walk, "x", color="0.2", markersize=5)
    axis.plot(shares.index, shares, marker="o", markersize=3, **look)


def _average(values: pd.Series, weights: pd.Series) -> float:
    """Return the weighted mean; NaN without any weight, as where all gradients have underflowed."""
    return float(np.average(values, weights=weights)) if weights.sum() > 0 else np.nan


def _processing(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows.kind == "block") & ~rows["name"].str.endswith("reduction")]
