"""What the curvature shows: the spectrum at the end of each trajectory, and the way to the edge of stability."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from vanishing.report import figures
from vanishing.report.latex import code, number, tabular
from vanishing.report.why.measured import Measured

CAPTIONS = {
    "curvature": (
        "The curvature at initialisation, after an epoch and at the end: the largest and the smallest eigenvalue "
        r"of the Hessian~$H$ in nats; then the learning rate~$\eta$ and what is left to the edge of stability. On a "
        r"quadratic, gradient descent at this rate would diverge where $\lambda_1(H)\, \eta / 2$ is above 1, and "
        r"Adam where $\lambda_1(P^{-1} H)\, \eta / 38$ is, an estimate that errs upwards. Where Lanczos has "
        r"not converged there is a dash, or with $\geq$ what it has reached, a lower bound. Means over the seeds."
    ),
    "density": (
        "The spectral density of the Hessian at the last snapshot, integrated from the outside: the share of all "
        "eigenvalues that lie farther from 0 than the one on the axis, on the negative side (left) and on the positive "
        "one (right). Each step is a node of the quadrature. It is estimated from one random vector, so that the "
        "share of a few eigenvalues is known only to within its order of magnitude. One seed."
    ),
    "edge": (
        "Left: the largest eigenvalue of the Hessian. Right: that of the Hessian preconditioned by Adam, relative to "
        "the edge of stability at the rate of the snapshot, an estimate that errs upwards; the dotted line is the "
        "edge. Values to which Lanczos has not converged are left out. Means over the seeds."
    ),
}
"""By name; tables and figures."""

LIMIT = 0.1
"""Lanczos has converged to an extreme eigenvalue whose residual is at most this share of it."""

EXTREMES = ["sharpness", "lowest", "norm", "preconditioned"]


def draw(data: Measured) -> dict[str, Figure]:
    """Draw the density at the last snapshots, and the sharpness along the trajectories."""
    with figures.style():
        return {"density": _density(data), "edge": _edge(data)}


def tables(data: Measured) -> dict[str, str]:
    """Write the table of the networks: at initialisation, after an epoch, and at the end."""
    head = [
        r"network & epoch & $\lambda_1(H)$ & $\lambda_{\min}(H)$ & $\eta$ & "
        r"$\lambda_1(H)\, \eta / 2$ & $\lambda_1(P^{-1} H)\, \eta / 38$ \\"
    ]
    means = summary(data.table)
    bodies = []
    for run in data.networks.values():
        rows = list(_moments(means[means.run == run]).values())
        names = [code(run), *[""] * len(rows)]
        bodies.append([[name, *_cells(row)] for name, row in zip(names, rows, strict=False)])
    return {"curvature": tabular("lrrrrrr", head, *bodies)}


def numbers(data: Measured) -> Iterator[tuple[str, float, str]]:
    """Yield `NETWORK/WHEN/COLUMN`: when is start, early (after one epoch) or end, the columns those of `summary`.

    What is not known has no key. `limit` and `error` are in per cent: the largest relative residual that an eigenvalue
    may have, and the largest one of those shown.
    """
    block = data.settings.analyses["curvature"]
    for key, value in block.model_dump(include={"images", "steps", "batches", "batch_size"}).items():
        yield key, value, number(value)
    means = summary(data.table)
    shown = means[means.run.isin(data.networks.values())]
    for key, value in {"limit": LIMIT, "error": shown.error.max()}.items():
        yield key, 100 * value, number(100 * value)
    for name, run in data.networks.items():
        for when, row in _moments(means[means.run == run]).items():
            for column in row.drop(["run", "adam_least"]).dropna().index:
                yield f"{name}/{when}/{column}", row[column], number(row[column])
            yield f"{name}/{when}/adam_least", row.adam_least, _least(row, "at least ")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Sum up the spectra of each run and epoch; means over the seeds.

    Returns:
        A row for each, in order of run and epoch. Eigenvalues to which Lanczos has not converged are NaN:
            sharpness: the largest eigenvalue of the Hessian.
            lowest: the smallest eigenvalue.
            norm: the largest absolute eigenvalue.
            learning_rate: of the snapshot.
            descent: sharpness over the edge of gradient descent.
            preconditioned: the largest eigenvalue of the Hessian preconditioned by Adam.
            adam: it over the edge of Adam.
            adam_least: the same, or a lower bound where Lanczos has not converged: a Ritz value never lies beyond the
                largest eigenvalue.
            error: the largest relative residual of these eigenvalues, of all seeds.
    """
    rows = [
        {"run": run, "epoch": epoch, **_sum_up(spectra)}
        for (run, _, epoch), spectra in table.groupby(["run", "seed", "epoch"], sort=False)
    ]
    seeds = pd.DataFrame(rows).groupby(["run", "epoch"], sort=False)
    return seeds.mean().assign(error=seeds.error.max()).reset_index()


def _sum_up(spectra: pd.DataFrame) -> dict[str, float]:
    plain, adam = (spectra[spectra.kind == kind] for kind in ("hessian", "preconditioned"))
    absolute = plain.assign(value=plain.value.abs())
    ends = [plain.nlargest(1, "value"), plain.nsmallest(1, "value"), absolute.nlargest(1, "value")]
    extremes = pd.concat([*ends, adam.nlargest(1, "value")]).set_axis(EXTREMES)
    size = extremes.value.abs()
    known = extremes.residual <= LIMIT * size
    found = extremes.value.where(known)
    return {
        **{name: found[name] for name in EXTREMES},
        "learning_rate": plain.learning_rate.iloc[0],
        "descent": found.sharpness / plain.edge.iloc[0],
        "adam": found.preconditioned / adam.edge.iloc[0],
        "adam_least": extremes.value.preconditioned / adam.edge.iloc[0],
        "error": (extremes.residual / size)[known].max(),
    }


def _moments(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the snapshots that table and text are about, where a trajectory has them; the same one is there once."""
    epochs = {"start": 0, "early": 1, "end": rows.epoch.max()}
    first = {epoch: when for when, epoch in reversed(epochs.items())}
    return {first[row.epoch]: row for _, row in rows.iterrows() if row.epoch in first}


def _cells(row: pd.Series) -> list[str]:
    columns = ["sharpness", "lowest", "learning_rate", "descent"]
    return [f"{row.epoch:.0f}", *(number(row[column]) for column in columns), _least(row, r"$\geq$ ")]


def _least(row: pd.Series, bound: str) -> str:
    return number(row.adam_least) if row.adam == row.adam_least else f"{bound}{number(row.adam_least)}"


def _density(data: Measured) -> Figure:
    figure, axes = figures.panels(2, height=2.6, sharey=True)
    runs = list(data.networks.values())
    for run in runs:
        rows = data.rows(run)
        rows = rows[(rows.kind == "hessian") & (rows.seed == rows.seed.min())]
        rows = rows[rows.epoch == rows.epoch.max()]
        for axis, sign in zip(axes, (-1, 1), strict=True):
            side = rows[sign * rows.value > 0]
            size = (sign * side.value).sort_values(ascending=False)
            axis.step(size, side.weight[size.index].cumsum(), where="post", label=run, **data.look(run))
    for axis, title in zip(axes, ("negative curvature", "positive curvature"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="absolute eigenvalue (nats)", title=title)
    axes[0].invert_xaxis()
    axes[0].set_ylabel("share of eigenvalues beyond")
    figures.legend(figure, axes, runs)
    return figure


def _edge(data: Measured) -> Figure:
    figure, axes = figures.panels(2, height=2.6)
    runs, means = list(data.networks.values()), summary(data.table)
    for run in runs:
        rows = means[means.run == run]
        for axis, column in zip(axes, ("sharpness", "adam"), strict=True):
            axis.plot(rows.epoch, rows[column], marker=".", label=run, **data.look(run))
    for axis in axes:
        axis.set_yscale("log")
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xlim(left=-0.2)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xlabel("epoch")
    axes[0].set_ylabel("largest eigenvalue of H (nats)")
    axes[1].set_ylabel("preconditioned, over the edge of Adam")
    axes[1].axhline(1, color="0.4", linestyle=":", linewidth=0.8)
    figures.legend(figure, axes, runs)
    return figure
