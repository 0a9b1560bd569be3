"""The figures of a study, drawn with seaborn from results alone.

A run has the same colour and dashes in every figure, and no two of a study have the same.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from vanishing import config, files
from vanishing.errors import UserError
from vanishing.results import store
from vanishing.results.columns import SCHEDULES
from vanishing.results.initial_gradients import network_of

LOSS_LIMIT = 1.5
"""Top of the loss axis, in units of the loss of a uniform guess, where every training starts."""

COLOURS = [0, 1, 2, 4, 9, 3, 5, 7]
"""Of seaborn's colour-blind palette, those dark enough for a line on white; neighbours are unlike each other."""

Colour = tuple[float, float, float]
"""Red, green and blue, 0 to 1."""

COLUMNS = 3
"""Panels beside one another; one more where there are many."""

MANY = 9
"""Panels from which on they stand closer."""

PARTS = {"train": ("training", "-"), "val": ("validation", "--")}
"""Of the data, with the line of each where they share a panel."""

LABELS = {"accuracy": "accuracy", "loss": "loss (nats)"}
"""Of the quantities that are drawn over the epochs."""

MARKERS = {"train": "o", "val": "s", "test": "^"}
"""Of the parts of the data, where they share a panel."""


UNDATED: dict[str, dict[str, str | None]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None, "Creator": None}}
"""Metadata that would change the bytes of a figure, left out, by its format."""


@dataclass(frozen=True)
class StudyResults:
    """What the figures of a study are drawn from."""

    runs: list[str]
    """Runs that have results, in the study's order."""
    looks: dict[str, tuple[Colour, str]]
    """Colour and line style of each configured run."""
    groups: dict[str, list[str]]
    """Those runs by schedule and number of epochs: what shares an axis of epochs, and what it is called."""
    chance: Mapping[str, config.Chance]
    """Loss and accuracy of an answer that ignores the image, by the parts of the data in `PARTS`."""
    history: pd.DataFrame
    """`history.csv` of every run and seed, with the columns run and seed."""
    gradients: pd.DataFrame
    """`gradients.csv` of every run and seed, with the columns run and seed."""


def read_study(key: str, settings: config.Parameters) -> StudyResults:
    """Read the results of a study; runs without results are left out, and `UserError` if none has any."""
    found = [job for job in store.available(settings) if job[0] in settings.studies[key].runs]
    if not found:
        raise UserError(f"study {key!r} has no results yet; `snakemake` or `dvc repro` makes them")
    read = [store.read(*job) for job in found]
    runs = [run for run in settings.studies[key].runs if any(run == job[0] for job in found)]
    return StudyResults(
        runs=runs,
        looks=looks(settings),
        groups=_groups(runs, settings),
        chance={"train": settings.data.chance("train"), "val": settings.data.chance("val")},
        history=_stack((result, result.history) for result in read),
        gradients=_stack((result, result.gradients) for result in read),
    )


def looks(settings: config.Parameters) -> dict[str, tuple[Colour, str]]:
    """Return colour and line style of each configured run."""
    every = palette()
    return {run: every[at % len(every)] for run, at in settings.looks.items()}


def network_look(run: str, looks: Mapping[str, tuple[Colour, str]]) -> tuple[Colour, str]:
    """Return the look of a run's network, however long it trains: of its full training, or else the run's own."""
    return looks.get(network_of(run), looks[run])


def draw(family: str, data: StudyResults) -> dict[str, Figure]:
    """Draw every figure of a family; the names are those of `CAPTIONS`."""
    with style():
        if family == "training":
            return {
                "loss": curves(data, "loss"),
                "accuracy": curves(data, "accuracy"),
                "loss_by_run": curves_by_run(data, "loss"),
                "accuracy_by_run": curves_by_run(data, "accuracy"),
                "comparison": comparison(data),
            }
        return {
            "gradient_flow_log": gradient_flow(data, log=True),
            "gradient_flow_linear": gradient_flow(data, log=False),
            "gradient_flow_reported": reported(data),
            "gradient_heat_map": heat_map(data),
        }


def save(figures: Mapping[str, Figure], folder: Path, kind: Literal["pdf", "svg"] = "pdf") -> None:
    """Save figures in a folder; the same figure gives the same bytes."""
    for name, figure in figures.items():
        with style(), files.replacing(folder / f"{name}.{kind}") as handle:
            figure.savefig(handle, format=kind, metadata=UNDATED[kind])
        figure.set_layout_engine("none")  # what was laid out once need not be again to be shown


def curves(data: StudyResults, quantity: str) -> Figure:
    """Draw a quantity over the epochs: training on the left, validation on the right, a line of panels a group."""
    figure, axes = panels(2 * len(data.groups), 2, height=2.9 if len(data.groups) == 1 else 2.2, sharey=True)
    for at, axis in enumerate(axes):
        part, (title, _) = list(PARTS.items())[at % 2]
        name, group = list(data.groups.items())[at // 2]
        for run in group:
            _curve(axis, data.history[data.history.run == run], f"{part}_{quantity}", run, *data.looks[run])
        axis.set(title=f"{title}, {name}" if len(data.groups) > 1 else title, xlabel="epoch", ylabel=LABELS[quantity])
        _whole_numbers(axis, data.history[data.history.run.isin(group)].epoch)
    _finish_curves(axes, quantity, [[each] for _ in data.groups for each in data.chance.values()])
    legend(figure, axes, data.runs)
    return figure


def curves_by_run(data: StudyResults, quantity: str) -> Figure:
    """Draw a quantity over the epochs, a panel a run in its colour: training solid, validation dashed."""
    alone = len(data.runs) == 1
    figure, axes = panels(len(data.runs), _columns(data.runs), height=2.6 if alone else 1.6, sharey=True)
    for axis, run in zip(axes, data.runs, strict=True):
        for part, (name, dashes) in PARTS.items():
            rows = data.history[data.history.run == run]
            _curve(axis, rows, f"{part}_{quantity}", name, data.looks[run][0], dashes)
        axis.set(xlabel="epoch", ylabel="")
        _title(axis, run, pad=4)
        _whole_numbers(axis, data.history.epoch, "auto" if alone else 4)
        axis.sharex(axes[0])
    _finish_curves(axes, quantity, [list(data.chance.values())] * len(axes))
    figure.supylabel(LABELS[quantity], fontsize=8)
    handles = [axes[0].plot([], [], color="0.3", linestyle=dashes)[0] for _, dashes in PARTS.values()]
    figure.legend(handles, [name for name, _ in PARTS.values()], loc="outside upper center", ncols=2, handlelength=3)
    return figure


def comparison(data: StudyResults) -> Figure:
    """Draw accuracy and loss of every run at its last epoch, a mark for each seed."""
    rows = data.history.sort_values("epoch").groupby(["run", "seed"], sort=False).tail(1)
    figure, axes = panels(2, 2, height=0.5 + 0.28 * len(data.runs), sharey=True)
    for axis, (quantity, label) in zip(axes, LABELS.items(), strict=True):
        wide = rows.melt(["run", "seed"], [f"train_{quantity}", f"val_{quantity}"], "part", label)
        wide["part"] = wide["part"].map({f"train_{quantity}": "training", f"val_{quantity}": "validation"})
        sns.stripplot(
            wide, x=label, y="run", hue="part", order=data.runs, hue_order=["training", "validation"], ax=axis,
            palette=["0.65", "0.1"], jitter=False, size=5, legend=axis is axes[0],
        )  # fmt: skip
        axis.set(xlabel=label, ylabel="")
        axis.xaxis.set_major_locator(MaxNLocator(4))
        if quantity == "accuracy":
            axis.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    handles, labels = axes[0].get_legend_handles_labels()
    if own := axes[0].get_legend():
        own.remove()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


def gradient_flow(data: StudyResults, log: bool) -> Figure:
    """Draw mean |dL/dW| over the layers, a line for each snapshot and a panel for each run."""
    epochs = sorted(data.gradients.epoch.unique())
    colours = dict(zip(epochs, sns.color_palette("viridis", len(epochs)), strict=True))
    figure, axes = panels(len(data.runs), _columns(data.runs), height=1.7, sharey=log)
    for axis, run in zip(axes, data.runs, strict=True):
        table = mean_gradients(data, run)
        for epoch in table.columns:
            values = table[epoch].where(table[epoch] > 0) if log else table[epoch]
            axis.plot(table.index, values, color=colours[epoch], label=f"epoch {epoch}", linewidth=0.9)
    _finish_flow(figure, axes, data.runs, epochs, "layer", log)
    return figure


def overview(start: Mapping[str, tuple[str, StudyResults]], trained: Mapping[str, tuple[str, StudyResults]]) -> Figure:
    """Draw what goes wrong and what cures it: gradients at initialisation, and validation accuracy over the epochs.

    Args:
        start: a run, and the study that it is of, by the networks whose gradients are drawn.
        trained: the same for those whose training is drawn; a network has the look of this run, if there is one, of the
            other one otherwise, or the first that is free where another network has that.
    """
    with style():
        figure, axes = panels(2 if trained else 1, 2, height=2.6)
        looks: dict[str, tuple[Colour, str]] = {}
        for label, (run, data) in {**trained, **start, **trained}.items():  # the trained ones choose first
            own = data.looks[run]
            looks[label] = next((look for look in (own, *palette()) if look not in looks.values()), own)
        for label, (run, data) in start.items():
            flow, (colour, dashes) = mean_gradients(data, run)[0], looks[label]
            axes[0].plot(flow.index, flow.where(flow > 0), color=colour, linestyle=dashes, label=label)
        axes[0].set(xlabel="layer, from input to output", ylabel="mean absolute gradient", yscale="log")
        axes[0].yaxis.set_minor_locator(NullLocator())
        for label, (run, data) in trained.items():
            _curve(axes[1], data.history[data.history.run == run], "val_accuracy", label, *looks[label])
        if trained:
            axes[1].set(xlabel="epoch", ylabel="validation accuracy")
            _finish_curves(axes[1:], "accuracy", [[next(iter(trained.values()))[1].chance["val"]]])
        legend(figure, axes, list(start))
    return figure


def reported(data: StudyResults) -> Figure:
    """Draw mean |dL/dW| as the reports did: augmented images, scales of normalisation among the layers, linear axis.

    Runs whose gradients were measured on plain images alone have an empty panel.
    """
    augmented = data.gradients[data.gradients["images"] == "augmented"]
    epochs = sorted(augmented.epoch.unique())
    colours = dict(zip(epochs, sns.color_palette("viridis", len(epochs)), strict=True))
    figure, axes = panels(len(data.runs), _columns(data.runs), height=1.7)
    for axis, run in zip(axes, data.runs, strict=True):
        rows = augmented[augmented.run == run]
        for epoch, snapshot in rows.groupby("epoch"):
            flow = snapshot.groupby("name", sort=False).agg({"mean_abs_gradient": "mean", "kind": "first"})
            scales = np.flatnonzero(flow.kind == "normalisation")
            axis.plot(
                range(len(flow)), flow.mean_abs_gradient, color=colours[epoch], label=f"epoch {epoch}", linewidth=0.9,
                marker="o", markersize=2, markerfacecolor="white", markevery=scales.tolist(),
            )  # fmt: skip
        if rows.empty:
            axis.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axis.transAxes)
    _finish_flow(figure, axes, data.runs, epochs, "place in forward order")
    return figure


def heat_map(data: StudyResults) -> Figure:
    """Draw mean |dL/dW| over layers and snapshots, a panel for each run, one colour scale."""
    figure, axes = panels(len(data.runs), _columns(data.runs), height=1.6)
    sizes = store.weight_layers(data.gradients).mean_abs_gradient
    positive = sizes[(sizes > 0) & np.isfinite(sizes)]
    norm: Normalize = LogNorm(positive.min(), positive.max()) if len(positive) else Normalize(0, 1)
    for axis, run in zip(axes, data.runs, strict=True):
        table = mean_gradients(data, run).T
        values = np.ma.masked_less_equal(np.ma.masked_invalid(table.to_numpy()), 0)
        shown = axis.imshow(values, norm=norm, cmap="viridis", aspect="auto", origin="lower", interpolation="none")
        shown_epochs = _spread(len(table), 6)
        axis.set_yticks(shown_epochs, labels=[str(table.index[at]) for at in shown_epochs])
        axis.set_xticks(*_layer_ticks(len(table.columns)))
        axis.set(xlabel="layer", ylabel="epoch")
        _title(axis, run, pad=4)
        axis.grid(visible=False)
    figure.colorbar(shown, ax=axes, label="mean absolute gradient", aspect=40, location="bottom", shrink=0.8)
    return figure


def agreement(table: pd.DataFrame) -> Figure:
    """Draw every published accuracy against ours, a panel a schedule: filled where the published one holds.

    Bars are prediction intervals, rounding included; grey is what the course's template prints.

    Args:
        table: `results/comparison/published.csv`; accuracies in per cent.
    """
    rows = table[table.metric.str.endswith("accuracy") & table.reproduced.notna()]
    rows = rows.assign(value=rows.published.astype(str).str.split("(").str[0].astype(float))
    rows["source"] = rows.report.where(rows.origin == "report", "handout")
    schedules = [name for name in SCHEDULES if name in set(rows.schedule)]
    with style():
        figure = Figure(figsize=(6.3, 3.7))
        panels = figure.subplots(1, max(1, len(schedules)), squeeze=False, sharey=True)[0]
        reports = dict(zip(sorted(table.report.unique()), sns.color_palette("colorblind"), strict=False))
        colours = {"handout": (0.45, 0.45, 0.45)} | reports
        for axis, schedule in zip(panels, schedules, strict=False):
            _agreement(axis, rows[rows.schedule == schedule], colours)
            axis.set_title(f"rate {SCHEDULES[schedule]}")
        for axis in panels:
            axis.axline((0, 0), slope=1, color="0.4", linestyle=":", linewidth=0.8)
            axis.set(xlim=(0, 100), ylim=(0, 100), xlabel="published accuracy (%)", aspect="equal")
        panels[0].set_ylabel("reproduced accuracy (%)")
        for source, colour in colours.items():
            panels[0].plot([], [], linestyle="none", marker="D", color=colour, label=source)
        for part, title in (("train", "training"), ("val", "validation"), ("test", "test")):
            empty = {"linestyle": "none", "color": "0.3", "markerfacecolor": "none"}
            panels[0].plot([], [], marker=MARKERS[part], label=title, **empty)
        figure.legend(loc="outside upper center", ncols=9, columnspacing=1, handletextpad=0.2)
    return figure


def _agreement(axis: Axes, rows: pd.DataFrame, colours: dict[str, Colour]) -> None:
    for (source, metric, verdict), group in rows.groupby(["source", "metric", "verdict"]):
        colour = colours[str(source)]
        axis.errorbar(
            group.value, group.reproduced, yerr=group.tolerance, linestyle="none", color=colour, markersize=5,
            marker=MARKERS[str(metric).partition("_")[0]], elinewidth=0.8,
            markerfacecolor=colour if verdict == "holds" else "none",
        )  # fmt: skip


def mean_gradients(data: StudyResults, run: str) -> pd.DataFrame:
    """Return mean |dL/dW| of a run, on plain images, averaged over the seeds: weight layers down, epochs across."""
    rows = store.weight_layers(data.gradients[data.gradients.run == run])
    return rows.pivot_table(index="layer", columns="epoch", values="mean_abs_gradient", aggfunc="mean", dropna=False)


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Apply the project's style; savefig reads it as well as drawing."""
    with mpl.rc_context():
        mpl.rc_file(str(resources.files("vanishing.report") / "style.mplstyle"))  # forgets a user's own settings
        mpl.rcParams["svg.hashsalt"] = "vanishing"  # identifiers within an SVG are drawn at random otherwise
        yield


def panels(
    count: int, columns: int = COLUMNS, *, height: float, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Make a grid with `count` panels, each `height` inches high, and room for a legend."""
    columns = min(columns, count)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(6.3, lines * height + 0.6))
    grid = list(figure.subplots(lines, columns, squeeze=False, sharex=sharex, sharey=sharey).flat)
    for spare in grid[count:]:
        spare.remove()
    return figure, grid[:count]


def legend(figure: Figure, axes: list[Axes], labels: list[str]) -> None:
    """Name the lines of all panels above them, in the order of `labels`."""
    lines = {line.get_label(): line for axis in axes for line in axis.lines}
    handles, columns = [lines[label] for label in labels], min(_legend_columns(max(map(len, labels))), len(labels))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, handlelength=3)


def _curve(axis: Axes, rows: pd.DataFrame, y: str, label: str, colour: Colour, dashes: str) -> None:
    """Draw the mean over the seeds of a column of the history, with a band of its standard deviation."""
    seeds = rows.groupby("epoch")[y]
    mean, deviation = seeds.mean(), seeds.std(ddof=1)  # seaborn's lineplot takes a tenth of a second for it
    marker = "o" if len(mean) == 1 else None
    axis.plot(mean.index, mean, color=colour, linestyle=dashes, marker=marker, label=label)
    axis.fill_between(mean.index, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)


def _finish_curves(axes: list[Axes], quantity: str, chances: Sequence[Sequence[config.Chance]]) -> None:
    """Mark the chances of each panel, of axes that share their vertical one, and set its limits or its unit."""
    values = [{getattr(chance, quantity) for chance in of_panel} for of_panel in chances]
    for axis, of_panel in zip(axes, values, strict=True):
        for value in sorted(of_panel):
            axis.axhline(value, color="0.4", linestyle=":", linewidth=0.8)
        if quantity == "accuracy":
            axis.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    if quantity == "loss":  # a single early validation loss of hundreds would flatten everything else
        uniform = max(set().union(*values))  # no chance costs more than that of equally frequent classes
        top = max(axes[0].get_ylim()[1], 1.05 * uniform)
        axes[0].set_ylim(0, min(top, LOSS_LIMIT * uniform))


def _finish_flow(
    figure: Figure, axes: list[Axes], runs: list[str], epochs: list[int], xlabel: str, log: bool = False
) -> None:
    """Name panels of gradients, their axes and lines, and thin out the ticks."""
    for axis, run in zip(axes, runs, strict=True):
        axis.set(xlabel=xlabel, yscale="log" if log else "linear")
        _title(axis, run, pad=4 if log else 12)  # room for the exponent of a linear axis
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        if log:
            axis.yaxis.set_minor_locator(NullLocator())  # over many decades they are a grey bar, slow to draw
        else:
            axis.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    figure.supylabel("mean absolute gradient", fontsize=8)
    if epochs:
        legend(figure, axes, [f"epoch {epoch}" for epoch in epochs])


def _stack(tables: Iterable[tuple[store.Result, pd.DataFrame]]) -> pd.DataFrame:
    return pd.concat([table.assign(run=result.run, seed=result.seed) for result, table in tables], ignore_index=True)


def palette() -> list[tuple[Colour, str]]:
    """Return each colour and, so that grey print tells them apart too, line style, in the order of runs' numbers."""
    colours = [sns.color_palette("colorblind")[place] for place in COLOURS]
    styles = ["-", "--", "-.", ":"]
    count = len(colours) * len(styles)
    return [(colours[at % len(colours)], styles[(at + at // len(colours)) % len(styles)]) for at in range(count)]


def _groups(runs: Iterable[str], settings: config.Parameters) -> dict[str, list[str]]:
    """Group runs by schedule and number of epochs, in their order."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        train = settings.run(run).train
        name = f"rate {SCHEDULES[train.schedule]}, {train.epochs} epochs"
        groups.setdefault(name, []).append(run)
    return groups


def _columns(runs: list[str]) -> int:
    return COLUMNS if len(runs) <= MANY else COLUMNS + 1


def _title(axis: Axes, run: str, pad: float) -> None:
    """Name a run above its small panel, in smaller type where the name is long."""
    axis.set_title(run, pad=pad, fontsize=8 if len(run) <= 18 else 6)


def _whole_numbers(axis: Axes, epochs: pd.Series, most: int | Literal["auto"] = "auto") -> None:
    """Mark epochs at whole numbers, a single one too, around which the axis would otherwise span fractions."""
    axis.xaxis.set_major_locator(MaxNLocator(most, integer=True))
    if epochs.nunique() == 1:
        axis.set_xticks([epochs.iloc[0]])


def _legend_columns(longest: int) -> int:
    """Return how many labels of that many characters stand beside one another in the width of the text."""
    return 6 if longest <= 9 else 4 if longest <= 16 else 3


def _spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the places 0 to count - 1, the first and the last among them, as even as can be."""
    return [round(at) for at in np.linspace(0, count - 1, min(count, most))]


def _layer_ticks(layers: int) -> tuple[list[int], list[str]]:
    """Return places and labels of the first layer, the last, and round numbers between that leave them room."""
    step = next(step for step in (10, 20, 50, 100, layers) if layers / step < 6)
    shown = [1, *range(step, layers - step // 2, step), layers]
    return [layer - 1 for layer in shown], [str(layer) for layer in shown]
