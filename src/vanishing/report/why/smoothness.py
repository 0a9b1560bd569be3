"""How smooth the loss is along its gradient: with and without batch normalisation, and by the size of the minibatch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vanishing.report import figures, latex
from vanishing.report.why.measured import Measured
from vanishing.results.initial_gradients import network_of
from vanishing.results.statistics import Interval, cosine, ratio, ratio_of_sums

CAPTIONS = {
    "paths": "Along the negative gradient of one minibatch, over the distance relative to the norm of the kernels: the "
    "range of the loss up to there, the change of the gradient relative to its length at the start, and the effective "
    "$\\beta$. Lines are geometric means over the groups of images, bands their 95\\,\\% intervals.",
    "ratios": "What BN changes at equal distance: the network with BN over the network without, paired by minibatch. "
    "Geometric means with 95\\,\\% intervals over the $n$ groups of images, each a mean over the seeds.",
    "adam": "The first step of Adam from a fresh state, at two rates: its distance relative to the norm of the "
    "kernels, and the range of the loss (nats). Geometric means with 95\\,\\% intervals over the groups of images.",
    "sizes": "Minibatches of several sizes, at the same weights and on the same images, relative to the landscape of "
    "the whole group: landscapes (solid), and one minibatch alone (dashed). Agreement is the cosine between the "
    "gradient and that of the whole group. Bars are 95\\,\\% intervals over the groups of images.",
    "size_ratios": "Small minibatches relative to the landscape of the whole group, on the same images. Geometric "
    "means of ratios with 95\\,\\% intervals over the $n$ groups of images; agreement is a mean.",
}
"""What each figure and table shows."""

NETWORKS = {"vgg08_bn": "vgg08", "vgg38_bn": "vgg38", "vgg38_bn_rc": "vgg38_rc"}
"""Networks with batch normalisation, each with the same without."""

PAIRS = {f"{network}{ending}": f"{plain}{ending}" for ending in ("", "_short") for network, plain in NETWORKS.items()}
"""The same for their names in `networks`."""

QUANTITIES = {"loss_range": "range of the loss", "relative_change": "relative change", "beta": r"effective $\beta$"}
"""What networks are compared in."""

OF_SIZES = {"start_loss": "loss", "gradient_norm": "gradient norm", "relative_change": "relative change"}
"""What sizes are compared in, beside the agreement of their gradients."""

PAIRED = ["seed", "epoch", "group", "direction", "step"]


def networks(table: pd.DataFrame) -> pd.DataFrame:
    """Add the column `network`, and keep each of its snapshots once.

    Trainings of 1, 15 and 100 epochs start from the same weights, and their first epochs have the same settings: they
    differ there by the rounding of the device that trained them. The first in the order of the block is kept. Later
    epochs have other learning rates, and keep the name of their run.
    """
    named = table.assign(network=table.run.map(network_of).where(table.epoch <= 1, table.run))
    return named[named.run == named.groupby(["network", "seed", "epoch"]).run.transform("first")]


def _alone(data: Measured) -> pd.DataFrame:
    """Return the rows of the minibatches on which every network is measured."""
    block, table = data.settings.analyses.smoothness, networks(data.table)
    table = table[(table.kind == "minibatch") & (table["size"] == min(block.minibatch, block.batch_size))]
    return table.drop_duplicates(["network", *PAIRED])  # `sizes` may hold that size too


def _sized(data: Measured) -> pd.DataFrame:
    """Return the rows that compare sizes: of each, the landscape and one minibatch."""
    block, table = data.settings.analyses.smoothness, networks(data.table)
    table = table[(table.direction == "gradient") & (table.step == block.size_distance)]
    table = table[(table.kind == "landscape") | table["size"].isin(block.sizes)]
    return table.drop_duplicates(["network", "kind", "size", *PAIRED], keep="last")  # the first may be of `_alone`


def compare(data: Measured) -> Iterator[tuple[str, str, int, dict[str, Interval]]]:
    """Yield each network with batch normalisation, its counterpart without, the epoch, and the ratios."""
    settings = data.settings.analyses.smoothness
    at = _alone(data)
    at = at[(at.direction == "gradient") & (at.step == settings.size_distance)]
    for network, plain in PAIRS.items():
        both = at[at.network == network].merge(at[at.network == plain], on=PAIRED, suffixes=("", "_plain"))
        for (epoch,), rows in _split(both.sort_values("epoch"), ["epoch"]):
            yield network, plain, int(epoch), {name: ratio(rows[name], rows[f"{name}_plain"]) for name in QUANTITIES}


def compare_sizes(data: Measured) -> Iterator[tuple[str, int, str, int, dict[str, Interval]]]:
    """Yield network, epoch, kind and size, and the ratios of `OF_SIZES` to the whole group, with the `agreement`."""
    table = _sized(data)
    whole = table[(table.kind == "landscape") & (table["size"] == data.settings.analyses.smoothness.batch_size)]
    both = table.merge(whole, on=["network", *PAIRED], suffixes=("", "_whole"))
    for key, rows in _split(both, ["network", "epoch", "kind", "size"]):
        found = {name: ratio(rows[name], rows[f"{name}_whole"]) for name in OF_SIZES}
        network, epoch, kind, size = key
        yield network, epoch, kind, size, found | {"agreement": cosine(rows.agreement)}


def common(data: Measured) -> Iterator[tuple[str, int, int, dict[str, Interval]]]:
    """Yield network, epoch, size, and what all minibatches of that size have in common of squared gradients.

    `common` is its share in that of one minibatch, `signal` in that of the landscape, their mean over a group; the rest
    is noise. With K minibatches in a group it is estimated as (K |mean of g|^2 - |g|^2) / (K - 1), by chance also below
    0 (McCandlish et al. 2018, appendix A.1). Both are summed over the groups first, since a ratio to a single length
    errs upwards.
    """
    table = _sized(data)
    alone, averaged = (table[table.kind == kind] for kind in ("minibatch", "landscape"))
    both = averaged.merge(alone, on=["network", "size", *PAIRED], suffixes=("", "_alone"))
    for (network, epoch, size), rows in _split(both, ["network", "epoch", "size"]):
        count = data.settings.analyses.smoothness.batch_size / size
        one, mean = rows.gradient_norm_alone**2, rows.gradient_norm**2
        shared = (count * mean - one) / (count - 1)
        yield network, epoch, size, {"common": ratio_of_sums(shared, one), "signal": ratio_of_sums(shared, mean)}


def _split(table: pd.DataFrame, columns: list[str]) -> Iterator[tuple[list[Any], pd.DataFrame]]:
    """Yield the values of the columns, in the order of the table, with the rows that have them, indexed by group."""
    for key in table[columns].drop_duplicates().to_numpy(object).tolist():
        yield key, table[(table[columns] == key).all(axis=1)].set_index("group", drop=False)


def numbers(data: Measured) -> Iterator[tuple[str, float, str]]:
    """Yield what the text quotes, by network and epoch: the mean as NAME, its bounds as NAME/low and NAME/high.

    Ratios stand under the two networks or under the size, the quantities themselves under direction and step. What two
    networks differ by at the last snapshot that both have, if it is later than epoch 1, also stands under `end`.
    """
    settings = data.settings.analyses.smoothness
    yield "distance", settings.size_distance, latex.number(settings.size_distance)
    yield "groups", settings.batches, str(settings.batches)
    yield "images", settings.batch_size, str(settings.batch_size)
    yield "minibatch", settings.minibatch, str(settings.minibatch)
    smaller = [str(size) for size in settings.sizes if size < settings.batch_size]
    yield "sizes", 1 + len(smaller), " and ".join(filter(None, [", ".join(smaller), str(settings.batch_size)]))
    compared = list(compare(data))
    for network, plain, epoch, found in compared:
        yield from _bounds(f"{network}-{plain}/{epoch}", found)
    ends = {network_of(each[0]): each for each in sorted(compared, key=lambda each: each[2]) if each[2] > 1}
    for network, plain, epoch, found in ends.values():
        key = f"{network_of(network)}-{network_of(plain)}/end"
        yield f"{key}/epoch", epoch, str(epoch)
        yield from _bounds(key, found)
    for network, epoch, kind, size, found in compare_sizes(data):
        yield from _bounds(f"{network}/{epoch}/{kind}/{size}", found)
    for network, epoch, size, shares in common(data):
        yield from _bounds(f"{network}/{epoch}/landscape/{size}", shares)
    for (network, epoch, direction, step), rows in _split(_alone(data), ["network", "epoch", "direction", "step"]):
        key = f"{network}/{epoch}/{direction}/{step:g}"
        distance = ratio(rows.relative_distance).mean
        yield f"{key}/relative_distance", distance, latex.number(distance)
        found = {name: ratio(rows[name]) for name in QUANTITIES}
        yield from _bounds(key, found | {"cosine": cosine(rows.cosine)})


def _bounds(key: str, found: dict[str, Interval]) -> Iterator[tuple[str, float, str]]:
    for name, each in found.items():
        yield f"{key}/{name}", each.mean, _text(each)
        yield f"{key}/{name}/low", each.low, _number(each.low)
        yield f"{key}/{name}/high", each.high, _number(each.high)


def _text(found: Interval) -> str:
    """Write a mean with its interval, or alone where it has none, such as that of a single group."""
    mean, low, high = map(_number, (found.mean, found.low, found.high))
    return mean if math.isnan(found.low) else f"{mean} [{low}, {high}]"


def _number(value: float) -> str:
    """Write a number; near 1 with a digit more, by which a ratio differs from it."""
    return latex.number(value, 3 if 0.9 < value < 1.1 and value != 1 else None)


def tables(data: Measured) -> dict[str, str]:
    """Write the ratios of networks with batch normalisation, and those of the sizes of the minibatch."""
    head = " & ".join(["", "without", "epoch", *(f"{name}" for name in QUANTITIES.values()), "$n$"]) + r" \\"
    rows = [
        [latex.code(network), latex.code(plain), str(epoch), *map(_text, found.values()), str(found["beta"].count)]
        for network, plain, epoch, found in compare(data)
    ]
    of_sizes = " & ".join(["", "epoch", "", "size", *OF_SIZES.values(), "agreement", "$n$"]) + r" \\"
    sizes = [
        [latex.code(network), str(epoch), kind, str(size), *map(_text, found.values()), str(found["agreement"].count)]
        for network, epoch, kind, size, found in compare_sizes(data)
        if size < data.settings.analyses.smoothness.batch_size  # not the whole group against itself
    ]
    return {
        "ratios": latex.tabular("llrrrrr", [head], rows),
        "adam": _adam(data),
        "size_ratios": latex.tabular("lrlrrrrrr", [of_sizes], sizes),
    }


def _adam(data: Measured) -> str:
    """Write how far Adam's first step leads at each rate, and how much it changes the loss."""
    rates = data.settings.analyses.smoothness.rates
    table = _alone(data)
    rows = []
    for (network, epoch), each in _split(table[table.direction == "adam"], ["network", "epoch"]):
        at = [each[each.step == rate] for rate in rates]
        cells = [
            text
            for step in at
            for text in (latex.number(ratio(step.relative_distance).mean), _text(ratio(step.loss_range)))
        ]
        rows.append([latex.code(network), str(epoch), *cells])
    over = "".join(f" & \\multicolumn{{2}}{{c}}{{rate {latex.number(rate)}}}" for rate in rates)
    rules = [rf"\cmidrule(lr){{{3 + 2 * at}-{4 + 2 * at}}}" for at in range(len(rates))]
    head = [f" & {over} \\\\", " ".join(rules), " & epoch" + " & distance & loss" * len(rates) + r" \\"]
    return latex.tabular("lr" + "rr" * len(rates), head, rows)


def draw(data: Measured) -> dict[str, Figure]:
    """Draw the paths of all networks, and what the size of the minibatch changes."""
    with figures.style():
        return {"paths": paths(data), "sizes": sizes(data)}


def paths(data: Measured) -> Figure:
    """Draw the quantities over the distance, a line of panels for each epoch that networks share."""
    table = _alone(data)
    table = table[(table.direction == "gradient") & table.network.isin([*PAIRS, *PAIRS.values()])]
    shared = table.groupby("epoch").network.nunique()
    epochs = sorted(shared[shared == shared.max()].index if shared.max() == 1 else shared[shared > 1].index)
    figure = Figure(figsize=(6.3, 1.6 * max(1, len(epochs)) + 0.7))
    grid = figure.subplots(max(1, len(epochs)), len(QUANTITIES), squeeze=False, sharex=True, sharey="col")
    lines = {}
    for at, (line, epoch) in enumerate(zip(grid, epochs, strict=False)):
        for axis, (quantity, label) in zip(line, QUANTITIES.items(), strict=True):
            for network in [*PAIRS.values(), *PAIRS]:
                rows = table[(table.epoch == epoch) & (table.network == network)].set_index("group")
                if rows.empty:
                    continue
                steps = {step: ratio(each[quantity]) for step, each in rows.groupby("step")}
                lines[network] = _band(axis, steps, data.look(rows.run.iloc[0]))
            axis.set(xscale="log", yscale="log", title="" if at else label)
            axis.minorticks_off()
        line[0].set_ylabel("initialisation" if epoch == 0 else f"epoch {epoch}")
    figure.supxlabel("distance / norm of the kernels", fontsize=8)
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=4, handlelength=3)
    return figure


def sizes(data: Measured) -> Figure:
    """Draw the quantities over the size of the minibatch, a colour for each snapshot."""
    names = OF_SIZES | {"agreement": "agreement"}
    figure, axes = figures.panels(len(names), len(names), height=1.7)
    lines: dict[tuple[str, int, str], dict[int, dict[str, Interval]]] = {}
    for network, epoch, kind, size, found in compare_sizes(data):
        lines.setdefault((network, epoch, kind), {})[size] = found
    palette = dict(zip(dict.fromkeys(key[:2] for key in lines), sns.color_palette("colorblind"), strict=False))
    places = list(palette)
    for (network, epoch, kind), by_size in lines.items():
        aside = 1.1 ** places.index((network, epoch))  # bars of several snapshots do not hide one another
        whole = lines[network, epoch, "landscape"]  # whose largest minibatch is both
        dashes, label = ("-", f"{network}, epoch {epoch}") if kind == "landscape" else ("--", None)
        for axis, name in zip(axes, names, strict=True):
            points = sorted((by_size | {max(whole): whole[max(whole)]}).items())
            values = {aside * size: found[name] for size, found in points}
            _bars(axis, values, palette[network, epoch], dashes, label)
    shown = sorted({size for by_size in lines.values() for size in by_size})
    for axis, title in zip(axes, names.values(), strict=True):
        axis.set(xscale="log", title=title)
        axis.minorticks_off()
        axis.set_xticks(shown, [str(size) for size in shown])
    figure.supxlabel("images in a minibatch", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _band(axis: Axes, found: dict[float, Interval], look: dict[str, Any]) -> Line2D:
    """Draw means over the distance, with their intervals as a band; return the line."""
    low, high = ([getattr(each, end) for each in found.values()] for end in ("low", "high"))
    axis.fill_between(list(found), low, high, color=look["color"], alpha=0.2, linewidth=0)
    return axis.plot(list(found), [each.mean for each in found.values()], **look)[0]


def _bars(axis: Axes, found: dict[float, Interval], colour: figures.Colour, dashes: str, label: str | None) -> None:
    """Draw means over the size of the minibatch, with their intervals as bars."""
    means = [i.mean for i in found.values()]
    errors = [[i.mean - i.low for i in found.values()], [i.high - i.mean for i in found.values()]]
    axis.errorbar(
        list(found), means, yerr=errors, color=colour, linestyle=dashes, marker="o", markersize=3, label=label
    )
