"""How deep a plain network trains: predictions from its initialisation beside the sweep over depths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vanishing import config
from vanishing.report import figures
from vanishing.report.latex import number, tabular
from vanishing.report.why.measured import Measured
from vanishing.results import depth_prediction

CAPTIONS = {
    "depth": "Predicted and observed depth. Filled marks are networks that train in the sweep; open ones do not. A bar "
    "spans the greatest depth that a prediction allows, from averaged positions that are independent to ones that are "
    "alike; an arrow means no limit here. The tick stands at six depth scales.",
    "initialisation": "What the predictions rest on, at initialisation. Left: the part of the classifier's input that "
    "depends on the image over the part that does not. Right: the mean gradient of the entry convolution. Bands are "
    "predicted, marks measured in double precision; dotted lines are unit roundoffs and Adam's $\\epsilon$.",
    "loss": "Validation loss at the end of each training less that of chance, in standard errors. Networks below the "
    "dashed line count as trained, those below the dotted one by the stricter rule as well; training ends there.",
    "verdicts": "Most layers with which a network trains: predicted, and of those in the sweep observed (0: none).",
}

LOOKS = {
    ("default", "fp32"): ("0.1", "o"),
    ("default", "bf16"): ("C0", "s"),
    ("he", "fp32"): ("C1", "^"),
    ("he", "bf16"): ("C2", "v"),
}
"""Colour and mark of a sweep, by initialisation and precision."""

NAMES = {"default": "default", "he": "He"}

REASONS = {"rounding": ("rounding of the signal", "0.55"), "epsilon": ("Adam's epsilon", "0.8")}
"""Of the predictions with a range, in words, with the shade of their bar."""

BOTH = (False, True)
"""Whether averaged positions are alike: the ends of a prediction's range."""

Sweep = tuple[str, str]


def verdicts(table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Return for each network whether it trains, and by which step.

    Args:
        table: a row for each epoch of a network; see `vanishing.analysis.trainable_depth.COLUMNS`.
        threshold: standard errors below chance that an epoch must exceed.

    Returns:
        A row for each network, in the order of the table: `initialisation`, `precision`, `layers`, `steps` of the first
        such epoch (NaN without one), and `trained`.
    """
    keys = ["initialisation", "precision", "layers"]
    passed = table[table.standard_errors > threshold].drop_duplicates(keys)[[*keys, "steps"]]
    found = table[keys].drop_duplicates().merge(passed, how="left", on=keys)
    return found.assign(trained=found.steps.notna())


def predicted(settings: config.Parameters, sweep: Sweep) -> dict[str, tuple[float, float]]:
    """Return the most layers that each reason leaves a sweep: with independent positions, and with equal ones."""
    initialisation, precision = sweep
    model = depth_prediction.plain(settings.model, 2 + 2 * settings.model.stages, initialisation)
    size = settings.trainable_depth.batch_size
    scales = depth_prediction.correlated(model)
    return {
        "rounding": _pair(depth_prediction.rounded_away(model, precision, alike) for alike in BOTH),
        "epsilon": _pair(depth_prediction.stalled(model, size, alike) for alike in BOTH),
        "correlation": (scales, scales),
    }


def observed(table: pd.DataFrame, threshold: float, sweep: Sweep) -> int:
    """Return the layers of the deepest network of a sweep that trains; 0 if none does."""
    found = verdicts(table, threshold)
    trained = _rows(found[found.trained], sweep)
    return int(trained.layers.max()) if len(trained) else 0


def draw(data: Measured) -> dict[str, Figure]:
    """Draw every figure; the names are those of `CAPTIONS`."""
    with figures.style():
        return {"depth": _depth(data), "initialisation": _initialisation(data), "loss": _loss(data)}


def tables(data: Measured) -> dict[str, str]:
    """Return the table of predicted and observed depths."""
    head = [
        r" & & \multicolumn{3}{c}{predicted by} & \multicolumn{2}{c}{observed} \\",
        r"\cmidrule(lr){3-5} \cmidrule(lr){6-7}",
        r"initialisation & precision & rounding & Adam's $\epsilon$ & $6\,\xi$ & at the threshold & stricter \\",
    ]
    block, rows = data.settings.trainable_depth, []
    for sweep in _sweeps(data.table):
        limits = predicted(data.settings, sweep)
        ranges = [_range(limits[reason]) for reason in REASONS]
        seen = [observed(data.table, threshold, sweep) for threshold in (block.threshold, block.strict_threshold)]
        rows.append([NAMES[sweep[0]], sweep[1], *ranges, number(limits["correlation"][0], 0), *map(str, seen)])
    return {"verdicts": tabular("llccccc", head, rows)}


def numbers(data: Measured) -> Iterator[tuple[str, float, str]]:
    """Yield what the text quotes: of the sweep as a whole, then of each sweep."""
    block, table = data.settings.trainable_depth, data.table
    chance = math.erfc(block.threshold / math.sqrt(2)) / 2
    networks = verdicts(table, block.threshold)
    steps = math.ceil(block.images * data.settings.data.classes / block.batch_size)
    agree, starts = _agreeing(data)
    counts = {
        "networks": len(networks), "images": block.images, "held_out": block.held_out, "epochs": block.epochs,
        "steps": steps * block.epochs, "batch_size": block.batch_size, "agree": agree,
        "starts": starts,
    }  # fmt: skip
    for key, count in counts.items():
        yield key, count, number(count, 0)
    values = {key: getattr(block, key) for key in ("threshold", "strict_threshold", "learning_rate")}
    for key, value in (values | {"false": chance, "false_all": chance * len(networks) * block.epochs}).items():
        yield key, value, number(value)
    for sweep in _sweeps(table):
        stem, limits = "_".join(sweep), predicted(data.settings, sweep)
        for reason, (low, high) in limits.items():
            yield f"{stem}/{reason}", high, _range((low, high))
            yield f"{stem}/{reason}/least", low, number(low, 0)
        yield from _depths(data.settings.model, stem, rows := _rows(networks, sweep))
        depths = {
            "observed": observed(table, block.threshold, sweep),
            "strict": observed(table, block.strict_threshold, sweep),
            "deepest": rows.layers.max(),
            "failed": rows.layers[~rows.trained].min(),  # NaN where all train
        }
        for key, layers in depths.items():
            if not math.isnan(layers):
                yield f"{stem}/{key}", int(layers), str(int(layers))
        ends = _rows(table, sweep).drop_duplicates("layers", keep="last").set_index("layers")
        for key in ("observed", "failed"):
            for gradient in ends.entry_gradient[ends.index == depths[key]]:
                ratio = gradient / depth_prediction.EPSILON
                yield f"{stem}/{key}/epsilons", ratio, number(ratio, 0 if ratio >= 1 else None)
        for loss in ends.val_loss[ends.index == depths["failed"]]:
            gap = abs(loss - math.log(data.settings.data.classes))
            yield f"{stem}/gap", gap, number(gap)


def _depths(model: config.Model, stem: str, rows: pd.DataFrame) -> Iterator[tuple[str, float, str]]:
    """Yield which depths a sweep has, and which it lacks from no processing block up to those of `model`, if any."""
    shallowest = 2 + 2 * model.stages
    span = range(shallowest, shallowest + 2 * sum(model.blocks_by_stage) + 1, 2)
    depths = {"tried": sorted(map(int, rows.layers)), "missing": sorted(set(span) - set(rows.layers))}
    for key, layers in depths.items():
        if layers:
            yield f"{stem}/{key}", len(layers), _enumerate(layers)


def _enumerate(layers: Sequence[int]) -> str:
    """Write even numbers in order, three or more in succession as a range: 8 to 14, 20 and 38."""
    parts: list[str] = []
    for _, group in itertools.groupby(enumerate(layers), lambda item: item[1] - 2 * item[0]):
        members = [str(each) for _, each in group]
        parts += members if len(members) < 3 else [f"{members[0]} to {members[-1]}"]
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _agreeing(data: Measured) -> tuple[int, int]:
    """Count the initialisations whose signal lies within its prediction, and all: precisions share them."""
    start = data.table.drop_duplicates(["initialisation", "layers"])
    networks = zip(start.layers, start.initialisation, strict=True)
    models = (depth_prediction.plain(data.settings.model, *network) for network in networks)
    bounds = [[depth_prediction.signal(model, alike) for alike in BOTH] for model in models]
    return sum(low <= signal <= high for (low, high), signal in zip(bounds, start.signal, strict=True)), len(start)


def _depth(data: Measured) -> Figure:
    sweeps, found = _sweeps(data.table), verdicts(data.table, data.settings.trainable_depth.threshold)
    figure = Figure(figsize=(6.3, 0.9 + 0.6 * len(sweeps)))
    axis = figure.subplots()
    first, last = found.layers.min() - 2, found.layers.max() + 2
    for at, sweep in enumerate(sweeps):
        limits = predicted(data.settings, sweep)
        for place, (reason, (_, shade)) in enumerate(REASONS.items()):
            _bar(axis, limits[reason], at + 0.02 + 0.18 * place, (first, last), shade)
        scales = limits["correlation"][0]
        axis.plot(
            [min(scales, last)],
            [at + 0.36],
            color="0.1",
            marker="|" if scales <= last else ">",
            markersize=9 if scales <= last else 5,
        )
        rows = _rows(found, sweep)
        for trained, fill in ((True, "0.1"), (False, "white")):
            layers = rows[rows.trained == trained].layers
            axis.plot(layers, [at - 0.2] * len(layers), "o", color="0.1", markerfacecolor=fill, markersize=5)
    axis.set_yticks(range(len(sweeps)), [f"{NAMES[initial]}, {precision}" for initial, precision in sweeps])
    axis.set_xticks(sorted(found.layers.unique()))
    axis.set(xlabel="layers", xlim=(min(first, 4), last + 1), ylim=(len(sweeps) - 0.35, -0.5))
    axis.grid(axis="y", visible=False)
    _explain_marks(figure, axis)
    return figure


def _bar(axis: Axes, limits: tuple[float, float], place: float, span: tuple[float, float], shade: str) -> None:
    low, high = (min(max(limit, span[0]), span[1]) for limit in limits)
    axis.barh(place, high - low, left=low, height=0.14, color=shade, edgecolor="0.3", linewidth=0.5)
    if limits[1] > span[1]:
        axis.plot([span[1]], [place], color="0.3", marker=">", markersize=5, linestyle="")


def _explain_marks(figure: Figure, axis: Axes) -> None:
    handles = [axis.plot([], [], "o", color="0.1", markerfacecolor=fill, markersize=5)[0] for fill in ("0.1", "white")]
    handles += [axis.plot([], [], color=shade, linewidth=5)[0] for _, shade in REASONS.values()]
    handles += [axis.plot([], [], color="0.1", marker="|", markersize=9, linestyle="")[0]]
    labels = ["trains", "does not", *(words for words, _ in REASONS.values()), "six depth scales"]
    figure.legend(handles, labels, loc="outside upper center", ncols=5, columnspacing=1.2, handlelength=1.4)


def _initialisation(data: Measured) -> Figure:
    figure = Figure(figsize=(6.3, 2.8))
    left, right = figure.subplots(1, 2)
    size = data.settings.trainable_depth.batch_size
    table = data.table.drop_duplicates(["initialisation", "layers"])
    for initial, rows in table.groupby("initialisation", sort=False):
        colour, mark = LOOKS[str(initial), "fp32"]
        models = [depth_prediction.plain(data.settings.model, int(layers), str(initial)) for layers in rows.layers]
        look = {"color": colour, "marker": mark, "linestyle": "", "markersize": 3.5, "label": NAMES[str(initial)]}
        _band(
            left,
            rows,
            "signal",
            look,
            [[depth_prediction.signal(model, alike) for alike in BOTH] for model in models],
        )
        gradients = [[depth_prediction.entry_gradient(model, size, alike) for alike in BOTH] for model in models]
        _band(right, rows, "entry_gradient", look, gradients)
    for precision, unit in depth_prediction.ROUNDING.items():
        left.axhline(unit, color="0.4", linestyle=":", linewidth=0.8)
        left.annotate(precision, (1, unit), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
    right.axhline(depth_prediction.EPSILON, color="0.4", linestyle=":", linewidth=0.8)
    for axis, label in ((left, "signal over constant part"), (right, "mean |dL/dW|, entry")):
        axis.set(yscale="log", xlabel="layers", ylabel=label)
    left.legend(loc="lower left")
    return figure


def _band(axis: Axes, rows: pd.DataFrame, column: str, look: dict[str, Any], bounds: Sequence[Sequence[float]]) -> None:
    low, high = zip(*bounds, strict=True)
    axis.fill_between(rows.layers, low, high, color=look["color"], alpha=0.2, linewidth=0)
    axis.plot(rows.layers, rows[column], **look)


def _loss(data: Measured) -> Figure:
    block, figure = data.settings.trainable_depth, Figure(figsize=(6.3, 2.6))
    axis = figure.subplots()
    last = data.table.drop_duplicates(["initialisation", "precision", "layers"], keep="last")
    for sweep in _sweeps(data.table):
        rows = _rows(last, sweep).sort_values("layers")
        colour, mark = LOOKS[sweep]
        label = f"{NAMES[sweep[0]]}, {sweep[1]}"
        axis.plot(rows.layers, -rows.standard_errors, color=colour, marker=mark, markersize=4, label=label)
    axis.axhline(-block.threshold, color="0.3", linestyle="--", linewidth=0.8)
    axis.axhline(-block.strict_threshold, color="0.3", linestyle=":", linewidth=0.8)
    axis.set(xlabel="layers", ylabel="loss above chance\n(standard errors)")
    axis.legend()
    return figure


def _rows(table: pd.DataFrame, sweep: Sweep) -> pd.DataFrame:
    return table[(table.initialisation == sweep[0]) & (table.precision == sweep[1])]


def _sweeps(table: pd.DataFrame) -> list[Sweep]:
    return list(table[["initialisation", "precision"]].drop_duplicates().itertuples(index=False, name=None))


def _pair(limits: Iterator[float]) -> tuple[float, float]:
    low, high = limits
    return low, high


def _range(limits: tuple[float, float]) -> str:
    """Write a range of layers, or the one value that both ends have."""
    low, high = (number(limit, 0) for limit in limits)
    return low if low == high else f"{low} to {high}"
