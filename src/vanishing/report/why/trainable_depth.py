"""How deep a plain network trains: predictions from its initialisation beside the sweep over depths."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vanishing import config
from vanishing.console import counted
from vanishing.report import figures
from vanishing.report.latex import number, tabular
from vanishing.report.why.measured import Measured
from vanishing.results import depth_prediction, statistics

CAPTIONS = {
    "depth": "Predicted and observed depth. Each mark is a seed, the first the lowest: filled where the network trains "
    "in the sweep, open where it does not. A bar spans the greatest depth that a prediction allows, from averaged "
    "positions that are independent to ones that are alike; an arrow means no limit here. The tick stands at six depth "
    "scales.",
    "initialisation": "What the predictions rest on, at initialisation. Left: the part of the classifier's input that "
    "depends on the image over the part that does not. Right: the mean gradient of the entry convolution. Bands are "
    "predicted; marks, one a seed, are measured in double precision; dotted lines are unit roundoffs and Adam's "
    "$\\epsilon$.",
    "loss": "Lowest validation loss of each training less that of chance, in standard errors: a mark a seed, lines "
    "through their means. Networks below the dashed line count as trained, those below the dotted one by the stricter "
    "rule as well; training ends there.",
    "verdicts": "Layers of the deepest network that trains: predicted, and observed in the sweep, by the threshold and "
    "by the stricter one. Any: with at least one seed. Every: up to which each seed of each depth in the sweep trains. "
    "A depth may have one seed only; 0: none.",
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

START = ["initialisation", "layers", "seed"]
"""What an initialised network is known by: precisions share it."""

Sweep = tuple[str, str]

Numbers = Iterator[tuple[str, float, str]]


def verdicts(table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Return the last epoch of each network and seed, in the order of the table, and whether it `trained`.

    Args:
        table: a row for each epoch of a network; see `vanishing.analysis.trainable_depth.COLUMNS`.
        threshold: standard errors below chance that any of its epochs must exceed.
    """
    keys = ["precision", *START]
    passed = table.assign(trained=table.standard_errors > threshold)
    passed["trained"] = passed.groupby(keys).trained.transform("any")
    return passed.drop_duplicates(keys, keep="last")


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


def observed(found: pd.DataFrame) -> dict[str, float]:
    """Return between which depths the networks of a sweep cease to train, in layers.

    Args:
        found: their verdicts; a depth may have several seeds.

    Returns:
        `any`: of the deepest network that trains, with whatever seed (0 without one);
        `every`: of the deepest up to which each seed of each depth trains (0 without one);
        `failed`: of the shallowest with a seed that fails (infinite without one);
        `none`: from which on no network trains (infinite where the deepest does).
    """
    layers = found.layers
    deepest, failed = max([0, *layers[found.trained]]), min([math.inf, *layers[~found.trained]])
    every, none = max([0, *layers[layers < failed]]), min([math.inf, *layers[layers > deepest]])
    return {"any": deepest, "every": every, "failed": failed, "none": none}


def draw(data: Measured) -> dict[str, Figure]:
    """Draw every figure; the names are those of `CAPTIONS`."""
    with figures.style():
        return {"depth": _depth(data), "initialisation": _initialisation(data), "loss": _loss(data)}


def tables(data: Measured) -> dict[str, str]:
    """Return the table of predicted and observed depths."""
    head = [
        r" & & & & & \multicolumn{2}{c}{observed} & \multicolumn{2}{c}{stricter} \\",
        r"\cmidrule(lr){6-7} \cmidrule(lr){8-9}",
        r"initialisation & precision & rounding & Adam's $\epsilon$ & $6\,\xi$ & any & every & any & every \\",
    ]
    block, rows = data.settings.trainable_depth, []
    for sweep in _sweeps(data.table):
        limits = predicted(data.settings, sweep)
        ranges = [_range(limits[reason]) for reason in REASONS]
        ends = [
            observed(verdicts(_rows(data.table, sweep), threshold))
            for threshold in (block.threshold, block.strict_threshold)
        ]
        seen = [number(end[key], 0) for end in ends for key in ("any", "every")]
        rows.append([NAMES[sweep[0]], sweep[1], *ranges, number(limits["correlation"][0], 0), *seen])
    return {"verdicts": tabular("llccccccc", head, rows)}


def numbers(data: Measured) -> Numbers:
    """Yield what the text quotes: of the sweep as a whole, then of each initialisation and precision."""
    block, found = data.settings.trainable_depth, verdicts(data.table, data.settings.trainable_depth.threshold)
    chance = statistics.student(block.threshold, math.inf) / 2
    steps = math.ceil(block.images * data.settings.data.classes / block.batch_size)
    agree, starts = _agreeing(data)
    seeds = found.groupby(["precision", "initialisation", "layers"]).size()
    counts = {
        "networks": len(found), "images": block.images, "held_out": block.held_out, "epochs": block.epochs,
        "steps": steps * block.epochs, "batch_size": block.batch_size, "agree": agree, "starts": starts,
        "seeds": seeds.max(), "fewest_seeds": seeds.min(),
    }  # fmt: skip
    for key, count in counts.items():
        yield key, count, number(count, 0)
    values = {key: getattr(block, key) for key in ("threshold", "strict_threshold", "learning_rate")}
    for key, value in (values | {"false": chance, "false_all": chance * len(found) * block.epochs}).items():
        yield key, value, number(value)
    for sweep in _sweeps(found):
        rows, other = _rows(found, sweep), _rows(found, (sweep[0], "fp32"))
        for part in (
            _limits(data, sweep),
            _tried(data, rows),
            _ends(data, rows),
            _failing(data, rows),
            _shared(rows, other),
        ):
            yield from ((f"{'_'.join(sweep)}/{key}", value, text) for key, value, text in part)


def _limits(data: Measured, sweep: Sweep) -> Numbers:
    for reason, (low, high) in predicted(data.settings, sweep).items():
        yield reason, high, _range((low, high))
        yield f"{reason}/least", low, number(low, 0)


def _tried(data: Measured, rows: pd.DataFrame) -> Numbers:
    """Yield which depths a sweep has with how many seeds, and which it lacks up to those of the model, if any."""
    model, seeds = data.settings.model, rows.groupby("layers").size()
    shallowest = 2 + 2 * model.stages
    span = range(shallowest, shallowest + 2 * sum(model.blocks_by_stage) + 1, 2)
    groups = [(count, sorted(seeds.index[seeds == count])) for count in sorted(set(seeds), reverse=True)]
    words = [
        f"{_enumerate(group)} layers with {'one seed' if n == 1 else f'{n} seeds'}{' each' if len(group) > 1 else ''}"
        for n, group in groups
    ]
    yield "tried", len(seeds), ", and ".join(words)
    yield "deepest", max(seeds.index), str(max(seeds.index))
    if missing := sorted(set(span) - set(seeds.index)):
        yield "missing", len(missing), _enumerate(missing)


def _ends(data: Measured, rows: pd.DataFrame) -> Numbers:
    """Yield between which depths a sweep ceases to train, and how many seeds train at each of them.

    Where a deeper network than the first that fails trains, `reversal` compares the two by Fisher's exact test.
    """
    ends, trained = observed(rows), rows.groupby("layers").trained.agg(["sum", "size"])
    shares = {layers: f"{k} of {counted(n, 'seed')}" for layers, k, n in trained.itertuples()}
    for key, layers in ends.items():
        if math.isfinite(layers):
            yield key, layers, str(layers)
        if layers in shares:
            yield f"{key}/trained", int(trained["sum"][layers]), shares[layers]
            blocks = depth_prediction.blocks(int(layers), data.settings.model.stages)
            yield f"{key}/blocks", sum(blocks), f"({', '.join(map(str, blocks))})"
            signal = statistics.geometric_mean(rows.signal[rows.layers == layers])
            yield f"{key}/signal", signal, number(signal)
    if hopeless := int((rows.layers >= ends["none"]).sum()):
        yield "none/networks", hopeless, str(hopeless)
    if ends["any"] > ends["failed"]:
        (few, n), (many, m) = trained.loc[[ends["failed"], ends["any"]]].to_numpy().tolist()
        if few / n < many / m:
            chance = statistics.fisher_exact(few, n, many, m)
            yield "reversal", chance, number(chance)
    split = trained.index[(trained["sum"] > 0) & (trained["sum"] < trained["size"])]
    if len(split):
        yield "split", len(split), _listed([f"{shares[layers]} at {layers} layers" for layers in split])


def _failing(data: Measured, rows: pd.DataFrame) -> Numbers:
    """Yield between which gradients, in Adam's epsilons, networks cease to train, and how far from chance they end."""
    ratios = rows.entry_gradient / depth_prediction.EPSILON
    ends = {"trained": ratios[rows.trained].min(), "failed": ratios[~rows.trained].max()}
    gap = (rows.val_loss[~rows.trained] - math.log(data.settings.data.classes)).abs().max(skipna=False)
    for key, ratio in ends.items():
        if ratio > 0:
            yield f"{key}/epsilons", ratio, number(ratio, 0 if ratio >= 1 else None)
    if math.isfinite(gap):
        yield "gap", gap, number(gap)


def _shared(rows: pd.DataFrame, other: pd.DataFrame) -> Numbers:
    """Yield how many networks another precision has with the same seed, and how many of them have another verdict."""
    both = rows.merge(other, on=START, suffixes=("", "_other"))
    for key, count in (("shared", len(both)), ("changed", int((both.trained != both.trained_other).sum()))):
        yield key, count, str(count)


def _enumerate(layers: Sequence[int]) -> str:
    """Write even numbers in order, three or more in succession as a range: 8 to 14, 20 and 38."""
    parts: list[str] = []
    for _, group in itertools.groupby(enumerate(layers), lambda item: item[1] - 2 * item[0]):
        members = [str(each) for _, each in group]
        parts += members if len(members) < 3 else [f"{members[0]} to {members[-1]}"]
    return _listed(parts)


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _agreeing(data: Measured) -> tuple[int, int]:
    """Count the initialised networks whose signal lies within its prediction, and all."""
    start = data.table.drop_duplicates(START)
    networks = zip(start.layers, start.initialisation, strict=True)
    models = (depth_prediction.plain(data.settings.model, *network) for network in networks)
    bounds = [[depth_prediction.signal(model, alike) for alike in BOTH] for model in models]
    return sum(low <= signal <= high for (low, high), signal in zip(bounds, start.signal, strict=True)), len(start)


def _depth(data: Measured) -> Figure:
    sweeps, found = _sweeps(data.table), verdicts(data.table, data.settings.trainable_depth.threshold)
    found["height"] = (found.seed.rank(method="dense") - 1) / found.seed.nunique()
    figure = Figure(figsize=(6.3, 0.9 + 0.75 * len(sweeps)))
    axis = figure.subplots()
    first, last = found.layers.min() - 2, found.layers.max() + 2
    for at, sweep in enumerate(sweeps):
        limits = predicted(data.settings, sweep)
        for place, (reason, (_, shade)) in enumerate(REASONS.items()):
            _bar(axis, limits[reason], at + 0.06 + 0.16 * place, (first, last), shade)
        scales = limits["correlation"][0]
        axis.plot(
            [min(scales, last)],
            [at + 0.36],
            color="0.1",
            marker="|" if scales <= last else ">",
            markersize=9 if scales <= last else 5,
        )
        for trained, rows in _rows(found, sweep).groupby("trained"):
            axis.plot(rows.layers, at - 0.1 - 0.4 * rows.height, **_mark(bool(trained)))
    axis.set_yticks(range(len(sweeps)), [f"{NAMES[initial]}, {precision}" for initial, precision in sweeps])
    axis.set_xticks(sorted(found.layers.unique()))
    axis.set(xlabel="layers", xlim=(min(first, 4), last + 1), ylim=(len(sweeps) - 0.5, -0.6))
    axis.grid(axis="y", visible=False)
    _explain_marks(figure, axis)
    return figure


def _bar(axis: Axes, limits: tuple[float, float], place: float, span: tuple[float, float], shade: str) -> None:
    low, high = (min(max(limit, span[0]), span[1]) for limit in limits)
    axis.barh(place, high - low, left=low, height=0.14, color=shade, edgecolor="0.3", linewidth=0.5)
    if limits[1] > span[1]:
        axis.plot([span[1]], [place], color="0.3", marker=">", markersize=5, linestyle="")


def _mark(trained: bool) -> dict[str, Any]:
    fill = "0.1" if trained else "white"
    return {"linestyle": "", "marker": "o", "color": "0.1", "markerfacecolor": fill, "markersize": 4}


def _explain_marks(figure: Figure, axis: Axes) -> None:
    handles = [axis.plot([], [], **_mark(trained))[0] for trained in (True, False)]
    handles += [axis.plot([], [], color=shade, linewidth=5)[0] for _, shade in REASONS.values()]
    handles += [axis.plot([], [], color="0.1", marker="|", markersize=9, linestyle="")[0]]
    labels = ["trains", "does not", *(words for words, _ in REASONS.values()), "six depth scales"]
    figure.legend(handles, labels, loc="outside upper center", ncols=5, columnspacing=1.2, handlelength=1.4)


def _initialisation(data: Measured) -> Figure:
    figure = Figure(figsize=(6.3, 2.8))
    left, right = figure.subplots(1, 2)
    gradient = partial(depth_prediction.entry_gradient, batch_size=data.settings.trainable_depth.batch_size)
    for initial, rows in data.table.drop_duplicates(START).groupby("initialisation", sort=False):
        colour, mark = LOOKS[str(initial), "fp32"]
        layers = sorted(map(int, rows.layers.unique()))
        models = [depth_prediction.plain(data.settings.model, each, str(initial)) for each in layers]
        for axis, column, bound in ((left, "signal", depth_prediction.signal), (right, "entry_gradient", gradient)):
            low, high = ([bound(model, alike=alike) for model in models] for alike in BOTH)
            axis.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
            axis.plot(rows.layers, rows[column], mark, color=colour, markersize=3, label=NAMES[str(initial)])
    for precision, unit in depth_prediction.ROUNDING.items():
        left.axhline(unit, color="0.4", linestyle=":", linewidth=0.8)
        left.annotate(precision, (1, unit), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
    right.axhline(depth_prediction.EPSILON, color="0.4", linestyle=":", linewidth=0.8)
    for axis, label in ((left, "signal over constant part"), (right, "mean |dL/dW|, entry")):
        axis.set(yscale="log", xlabel="layers", ylabel=label)
    left.legend(loc="lower left")
    return figure


def _loss(data: Measured) -> Figure:
    block, figure = data.settings.trainable_depth, Figure(figsize=(6.3, 2.6))
    axis = figure.subplots()
    found = data.table.groupby(["precision", *START], sort=False)[["standard_errors"]].max().reset_index()
    for sweep in _sweeps(found):
        rows, (colour, mark) = _rows(found, sweep), LOOKS[sweep]
        mean = -rows.groupby("layers").standard_errors.mean()
        axis.plot(mean.index, mean, color=colour, linewidth=0.8)
        label = f"{NAMES[sweep[0]]}, {sweep[1]}"
        axis.plot(rows.layers, -rows.standard_errors, mark, color=colour, markersize=4, fillstyle="none", label=label)
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
