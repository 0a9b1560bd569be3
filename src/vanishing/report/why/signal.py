"""What the report shows of the signal: by depth, the part that depends on the image, its factors, and the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from vanishing.report import figures
from vanishing.report.latex import code, number, tabular
from vanishing.report.why.measured import Measured
from vanishing.results import initial_gradients, statistics
from vanishing.results.depth_prediction import ROUNDING

NETWORKS = ("vgg38", "vgg38_bn", "vgg38_rc", "vgg38_bn_rc")
"""Networks that stand side by side in the figures."""

DECIMALS = dict.fromkeys(("forward", "backward", "predicted", "one_sided", "noise", "near", "far"), 2)
"""Of the values that vary around 1; the others have three digits."""

TABLE = {
    "forward": "forward", "backward": "backward", "predicted": "predicted", "share": "share", "below_bf16": "bf16",
    "below_fp32": "fp32", "one_sided": "one-sided", "noise": "S/N", "near": "alike",
}  # fmt: skip
"""Columns of the table: values of `summarise`, and `predicted`, with their heads."""

CAPTIONS = {
    "summary": r"Signal and gradient, at initialisation and at the last snapshot. Forward: what a layer of the "
    r"processing blocks multiplies the image-dependent part of the signal by; backward: the same for the error "
    r"(geometric means); predicted: the error's factor at initialisation, by Sections~\ref{sec:theory} "
    r"and~\ref{sec:cures}. Share: of the image-dependent part in the signal of the last hidden layer. bf16, fp32: the "
    r"first layer whose share is below that unit roundoff. One-sided: units whose activation's input has one sign for "
    r"all images, in the last hidden layer. S/N: gradient signal-to-noise, median over the layers. Alike: cosine of "
    r"the input's gradients at the shortest distance between two inputs that we measure.",
    "share": "The part of the signal that depends on the image, as a share of the whole (root mean squares). Below the "
    "dotted line of a precision, its unit roundoff, rounding is larger than what distinguishes the images.",
    "factors": "What each layer multiplies the image-dependent part of the signal by (forward), and the error "
    r"(backward), at initialisation (top) and at the last snapshot (bottom). Grey: $\sqrt{\rho}\,\kappa_n$, which "
    "Section~\\ref{sec:prediction} predicts for the plain network. The dips of the error are average pooling, which "
    "hands a quarter of it to each of four positions. With shortcuts, the factors alternate between the layers inside "
    "a branch and those behind a sum.",
    "signal_to_noise": r"The norm of the mean of $\partial \mathcal{L} / \partial W$ over the minibatches, by its "
    "standard error. The dotted line is what noise alone gives.",
    "shattering": "The cosine of the gradients with respect to the input at two points of the line from one image to "
    "another, against their distance as a share of the line; mean over the lines. A linear network has 1 throughout, "
    "and white noise 0.",
}


def draw(data: Measured) -> dict[str, Figure]:
    """Draw the figures of `CAPTIONS` with the networks of `NETWORKS` that are measured; with all if none of them is."""
    every = data.networks
    shown = {name: every[name] for name in NETWORKS if name in every} or every
    tables = {run: _means(data, run) for run in shown.values()}
    with figures.style():
        return {
            "share": _by_depth(tables, data, _share, "image-dependent share", _roundings),
            "factors": _factors(tables),
            "signal_to_noise": _by_depth(tables, data, lambda rows: rows.signal_to_noise, "signal-to-noise", _noise),
            "shattering": _shattering(tables, data),
        }


def tables(data: Measured) -> dict[str, str]:
    """Write the table of all networks."""
    head = " & ".join(("network", "epoch", *TABLE.values())) + r" \\"
    bodies = []
    for run in data.networks.values():
        rows = []
        for epoch, layers, lines in _ends(_means(data, run)):
            found = summarise(layers, lines)
            found["predicted"] = predicted(data, run) if epoch == 0 else math.nan
            rows.append([code(run), str(epoch), *(number(found[key], DECIMALS.get(key)) for key in TABLE)])
        bodies.append(rows)
    return {"summary": tabular("lr" + "r" * len(TABLE), [head], *bodies)}


def numbers(data: Measured) -> Iterator[tuple[str, float, str]]:
    """Yield the values that the text quotes: NETWORK/start/... at initialisation, NETWORK/end/... at the last epoch."""
    block = data.settings.analyses.signal
    counts = {"batches": block.batches, "batch_size": block.batch_size, "lines": block.lines}
    for key, value in (counts | ROUNDING).items():
        yield key, value, number(value)
    for name, run in data.networks.items():
        for when, (epoch, layers, lines) in zip(("start", "end"), _ends(_means(data, run)), strict=False):
            found = summarise(layers, lines) | {"epoch": float(epoch)}
            if when == "start":
                found["predicted"] = predicted(data, run)
            for key, value in found.items():
                if not math.isnan(value):
                    yield f"{name}/{when}/{key}", value, number(value, DECIMALS.get(key))


def summarise(layers: pd.DataFrame, lines: pd.DataFrame) -> dict[str, float]:
    """Summarise a snapshot; NaN where a network has no processing blocks, or no layer of that kind.

    The factors are those of eq:additional: within the processing blocks, so that pooling plays no part. Below: the
    first layer whose share is below a precision's rounding; lost: the first whose agreement is below a half. Linear:
    the number of layers in which all but a hundredth of the units are one-sided.
    """
    share = _share(layers)
    last = layers.iloc[-2]  # the last hidden layer
    inside = layers.name.str.contains(".block", regex=False)
    return {
        "forward": statistics.geometric_mean(layers.forward_factor[inside]),
        "backward": statistics.geometric_mean(layers.backward_factor[inside.shift(-1, fill_value=False)]),
        "share": share.iloc[-2],
        **{f"below_{name}": _first(layers.layer[share < unit]) for name, unit in ROUNDING.items()},
        **{f"lost_{name}": _first(layers.layer[layers[f"agreement_{name}"] < 0.5]) for name in ROUNDING},
        "constant": last.constant_units,
        "one_sided": last.one_sided,
        "linear": float((layers.one_sided > 0.99).sum()),
        "cosine_distance": last.cosine_distance,
        "noise": layers.signal_to_noise.median(),
        "near": lines.gradient_cosine.iloc[0],
        "far": lines.gradient_cosine.iloc[-1],
        "nearest": lines.distance.iloc[0],
    }


def predicted(data: Measured, run: str) -> float:
    """Return what a layer multiplies the error by at initialisation, where the report predicts it.

    The factor of eq:both includes what the reduction block behind the blocks does; here that is divided out.
    """
    network, model = initial_gradients.network_of(run), data.settings.run(run).model
    if network not in initial_gradients.NETWORKS:
        return math.nan
    factor = initial_gradients.NETWORKS[network][1](model)
    if model.norm == "batch" and model.shortcut == "identity":
        blocks = model.blocks_by_stage[0]
        reduction = initial_gradients.walk_variance(1) / initial_gradients.walk_variance(blocks + 1)
        factor /= math.pow(reduction, 1 / (2 * model.convolutions * blocks))
    return factor


def _means(data: Measured, run: str) -> pd.DataFrame:
    return data.means(run, "epoch", "kind", "layer", "name", "distance")


def _ends(table: pd.DataFrame) -> list[tuple[int, pd.DataFrame, pd.DataFrame]]:
    """Return the first and the last epoch, each with its layers and lines; one where they are the same."""
    epochs = dict.fromkeys([table.epoch.min(), table.epoch.max()])
    return [(epoch, _rows(table, epoch, "layer"), _rows(table, epoch, "line")) for epoch in epochs]


def _rows(table: pd.DataFrame, epoch: int, kind: str) -> pd.DataFrame:
    return table[(table.epoch == epoch) & (table.kind == kind)].reset_index(drop=True)


def _share(layers: pd.DataFrame) -> pd.Series:
    """Return the image-dependent part of the signal over the whole, as root mean squares."""
    square: pd.Series = layers.image_variance / (layers.image_variance + layers.common_square)
    return square**0.5


def _first(layers: pd.Series) -> float:
    return float(layers.iloc[0]) if len(layers) else math.nan


def _by_depth(
    tables: dict[str, pd.DataFrame], data: Measured, quantity: Callable[[pd.DataFrame], pd.Series], label: str,
    reference: Callable[[Axes], None],
) -> Figure:  # fmt: skip
    """Draw a quantity over the layers, a panel a run: initialisation in grey, the last snapshot in the run's colour."""
    figure, axes = figures.panels(len(tables), len(tables), height=1.5, sharex=True, sharey=True)
    for axis, (run, table) in zip(axes, tables.items(), strict=True):
        for at, (epoch, layers, _) in enumerate(_ends(table)):
            look = {"color": data.look(run)["color"]} if at else {"color": "0.3", "linestyle": "--"}
            axis.plot(layers.layer, quantity(layers), label=f"epoch {epoch}", **look)
        axis.legend(loc="best", handlelength=2)
        axis.set_title(run, fontsize=7)
        axis.set(xlabel="layer", yscale="log")
        reference(axis)
    _finish(axes)
    axes[0].set_ylabel(label)
    return figure


def _roundings(axis: Axes) -> None:
    for name, unit in ROUNDING.items():
        axis.axhline(unit, color="0.5", linestyle=":", linewidth=0.8)
        axis.text(1, unit, name, fontsize=6, color="0.3", va="bottom")


def _noise(axis: Axes) -> None:
    axis.axhline(1, color="0.5", linestyle=":", linewidth=0.8)
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, 0.1), max(high, 10))  # scatter around 1 is not to fill the panel


def _factors(tables: dict[str, pd.DataFrame]) -> Figure:
    """Draw both factors over the layers: a column a run, initialisation above the last snapshot."""
    count = len(tables)
    figure, axes = figures.panels(2 * count, count, height=1.55, sharex=True, sharey=True)
    for at, (run, table) in enumerate(tables.items()):
        for axis, (epoch, layers, _) in zip(axes[at::count], _ends(table), strict=False):
            plain = [math.sqrt((1 + initial_gradients.SLOPE**2) / 6) * initial_gradients.kept(n) for n in layers.width]
            axis.plot(layers.layer[:-1], plain[:-1], color="0.6", linewidth=2.5, label="plain, predicted")
            axis.plot(layers.layer, layers.forward_factor, color="C0", linewidth=0.9, label="forward")
            axis.plot(layers.layer, layers.backward_factor, color="C3", linestyle="--", linewidth=0.9, label="backward")
            axis.set_title(f"{run}, epoch {epoch}", fontsize=7)
            axis.set_yscale("log")
    _finish(axes)
    for axis in axes[count:]:
        axis.set_xlabel("layer")
    figure.supylabel("factor of a layer", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _finish(axes: list[Axes]) -> None:
    """Thin out the ticks of panels over the layers."""
    for axis in axes:
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.yaxis.set_major_locator(LogLocator(numticks=6))
        axis.yaxis.set_minor_locator(NullLocator())


def _shattering(tables: dict[str, pd.DataFrame], data: Measured) -> Figure:
    """Draw the cosine of the input's gradients over the distance: initialisation left, the last snapshot right."""
    figure, axes = figures.panels(2, height=2, sharey=True)
    for run, table in tables.items():
        for axis, (_, _, lines) in zip(axes, _ends(table), strict=False):
            axis.plot(lines.distance, lines.gradient_cosine, label=run, **data.look(run))
    for axis, title in zip(axes, ("initialisation", "last snapshot"), strict=True):
        axis.set(title=title, xlabel="distance, as a share of the line", xscale="log", ylim=(-0.1, 1.05))
    axes[0].set_ylabel("cosine of the gradients")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, handlelength=3)
    return figure
