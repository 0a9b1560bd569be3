"""How much of its depth a network uses: figures, table and values of the report."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from vanishing.report import figures
from vanishing.report.latex import code, number, tabular
from vanishing.report.why.measured import Measured
from vanishing.results import initial_gradients

Network = tuple[str, dict[str, pd.DataFrame]]
"""A run, and its rows by moment."""

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

ENDINGS = [ending for ending in initial_gradients.SIMILAR if ending]
"""Of the names of shorter trainings of a network."""

MOMENTS = {"start": "at initialisation", "end": "at the last epoch"}


def networks(data: Measured) -> dict[str, Network]:
    """Choose for each network the run whose trajectory is longest.

    Returns:
        By network: the run, and its rows at the `start` and at the `end` of its trajectory, mean over the seeds.
    """
    last = data.table.groupby("run").epoch.max()
    found = {}
    for run in sorted(data.runs, key=lambda run: int(last[run])):  # later ones replace earlier ones
        rows = data.table[data.table.run == run].fillna({"name": ""})
        ends = {"start": rows.epoch.min(), "end": rows.epoch.max()}
        found[_network(run)] = run, {moment: _mean(rows[rows.epoch == epoch]) for moment, epoch in ends.items()}
    order = list(dict.fromkeys(map(_network, data.runs)))
    return {name: found[name] for name in order}


def draw(data: Measured) -> dict[str, Figure]:
    """Draw the figures of `CAPTIONS`: of the networks with processing blocks, if any; the last two of residual ones."""
    chosen = networks(data)
    deep = {name: item for name, item in chosen.items() if len(_processing(item[1]["end"]))} or chosen
    residual = {name: item for name, item in deep.items() if item[1]["end"].shortcut_variance.notna().any()}
    with figures.style():
        return {"cuts": _cuts(data, deep), "paths": _paths(data, residual), "branches": _branches(data, residual)}


def tables(data: Measured) -> dict[str, str]:
    """Write the table of `CAPTIONS`: a row for each network and moment."""
    head = [
        r"& & & \multicolumn{2}{c}{one block out (\%)} & \multicolumn{2}{c}{path length} & \\",
        r"\cmidrule(lr){4-5}\cmidrule(lr){6-7}",
        r"run & epoch & accuracy (\%) & mean & lowest & each & together & branch \\",
    ]
    bodies = []
    for run, moments in networks(data).values():
        bodies.append([[code(run), *(text for _, text in summary(rows).values())] for rows in moments.values()])
    return {"summary": tabular("lrrrrrrr", head, *bodies)}


def numbers(data: Measured) -> Iterator[tuple[str, float, str]]:
    """Yield the values of the table by network and moment, and what the text says of blocks beside them."""
    block = data.settings.analyses.effective_depth
    yield "images", block.batches * block.batch_size, number(block.batches * block.batch_size, 0)
    yield "draws", block.gradient_batches, number(block.gradient_batches, 0)
    for name, (run, moments) in networks(data).items():
        yield f"{name}/run", 0, code(run)
        seeds = data.table.seed[data.table.run == run].nunique()
        yield f"{name}/seeds", seeds, number(seeds, 0)
        for moment, rows in moments.items():
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
        "branch_ratio": (float(np.exp(np.log(shares / predicted(rows)).mean())), 2),
    }
    return {key: (value, number(value, digits)) for key, (value, digits) in values.items()}


def _cuts(data: Measured, chosen: dict[str, Network]) -> Figure:
    lines = -(-len(chosen) // 2)
    figure = Figure(figsize=(6.3, 1.6 * lines + 0.3))
    grid = figure.subplots(lines, 2, squeeze=False, sharex=True, sharey=True)
    for axis, (name, (run, moments)) in zip(grid.flat, chosen.items(), strict=False):
        rows, (colour, _) = moments["end"], _look(data, name, run)
        blocks = rows[rows.kind == "block"]
        hollow = blocks["name"].str.endswith("reduction")
        axis.axhline(rows.accuracy.iloc[0], color=colour, linewidth=1)
        axis.axhline(1 / data.settings.data.classes, color="0.4", linestyle=":", linewidth=0.8)
        axis.plot(blocks.number, blocks.running_accuracy, "x", color="0.55", markersize=4)
        axis.plot(blocks.number[~hollow], blocks.accuracy[~hollow], "o", color=colour, markersize=4)
        axis.plot(
            blocks.number[hollow], blocks.accuracy[hollow], "o", color=colour, markersize=5, markerfacecolor="white"
        )
        axis.set_title(f"{run}, epoch {rows.epoch.iloc[0]:.0f}")
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    for spare in grid.flat[len(chosen) :]:
        spare.remove()
    figure.supxlabel("block cut out", fontsize=8)
    figure.supylabel("accuracy", fontsize=8)
    return figure


def _paths(data: Measured, chosen: dict[str, Network]) -> Figure:
    figure, axes = _pair()
    for axis, moment in zip(axes, MOMENTS, strict=True):
        for name, (run, moments) in chosen.items():
            rows = moments[moment][moments[moment].kind == "path"]
            weights = rows.paths * rows.path_gradient
            colour, dashes = _look(data, name, run)
            axis.fill_between(rows.number, rows.paths / rows.paths.sum(), color="0.88", linewidth=0)
            axis.plot(rows.number, weights / weights.sum(), color=colour, linestyle=dashes, label=run)
        axis.set(title=MOMENTS[moment], xlabel="blocks whose branches the path takes")
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes[0].set_ylabel("share of the gradient")
    _legend(figure, axes[0])
    return figure


def _branches(data: Measured, chosen: dict[str, Network]) -> Figure:
    figure, axes = _pair()
    for axis, moment in zip(axes, MOMENTS, strict=True):
        for name, (run, moments) in chosen.items():
            shares, walk = share(moments[moment]), predicted(moments[moment])
            shares = shares.reindex(range(1, walk.index.max() + 1))  # a gap at each reduction block
            axis.plot(walk.index, walk, "x", color="0.2", markersize=5)
            colour, dashes = _look(data, name, run)
            axis.plot(shares.index, shares, color=colour, linestyle=dashes, marker="o", markersize=3, label=run)
        axis.set(title=MOMENTS[moment], xlabel="block")
        axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes[0].set_ylabel("share of the branch")
    axes[0].set_ylim(bottom=0)
    _legend(figure, axes[0])
    return figure


def _pair() -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(6.3, 2.6))
    return figure, list(figure.subplots(1, 2, sharey=True))


def _legend(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, handlelength=3)


def _look(data: Measured, name: str, run: str) -> tuple[figures.Colour, str]:
    """Return the look of a network's full training, which differs from the others', where that is configured."""
    return data.looks.get(name, data.looks[run])


def _network(run: str) -> str:
    """Return the network that a run trains, by its name: that of the full training."""
    return next((run.removesuffix(ending) for ending in ENDINGS if run.endswith(ending)), run)


def _average(values: pd.Series, weights: pd.Series) -> float:
    """Return the weighted mean; NaN without any weight, as where all gradients have underflowed."""
    return float(np.average(values, weights=weights)) if weights.sum() > 0 else np.nan


def _mean(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a snapshot, mean over the seeds, in their order."""
    return rows.drop(columns=["run", "seed"]).groupby(["kind", "name", "number"], sort=False).mean().reset_index()


def _processing(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[(rows.kind == "block") & ~rows["name"].str.endswith("reduction")]
