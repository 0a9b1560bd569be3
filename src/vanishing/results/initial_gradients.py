"""Gradients at initialisation beside what theory predicts: how each network scales them with depth.

Predicted is what a layer that a deep network has more than the shallow one multiplies G_1 / G_L by, the mean absolute
gradient of the entry convolution over that of the classifier; of the shallow network, that ratio itself. The
derivations stand in the report (sections Theory, Cures and the study `core`); a prediction is **met** where the
geometric mean of ours over the seeds is within a factor `tolerance` of it. A network's tolerance is above the
deviation of any of five single networks, and no two of the ranges overlap: a network that behaves as another one should
misses its prediction.

Weights at epoch 0 depend on the model and the seed alone, so any training of a network serves.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vanishing import config
from vanishing.results import statistics, store
from vanishing.results.store import Result

COLUMNS = [
    "network", "against", "quantity", "predicted", "tolerance", "measured", "smallest", "largest", "n", "verdict",
]  # fmt: skip
"""Of the table for machines, and attributes of a `Factor`."""

SLOPE = 0.01
"""Of the leaky rectifier."""

MET, MISSED, UNJUDGED = "as predicted", "not as predicted", "other data"

SIMILAR = ("_start", "", "_short", "_fp32")
"""What the names of trainings of the same network end in; the first that has results is taken."""


def kept(pixels: int) -> float:
    """Return the share of the error that a convolution keeps at the borders of a square map (eq:border)."""
    return (1 + 2 * math.cos(math.pi / (pixels + 1))) / 3


def plain_factor(model: config.Model) -> float:
    """Return what a layer without cure multiplies the error by, as a mean over the stages (eq:additional)."""
    borders = [kept(config.IMAGE_SIZE >> stage) for stage in range(model.stages)]
    return math.sqrt((1 + SLOPE**2) / 6) * math.pow(math.prod(borders), 1 / model.stages)


def explosion() -> float:
    """Return what a layer with BN multiplies the error by far from borders (eq:explosion, Yang et al. 2019)."""
    return math.sqrt(math.pi / (math.pi - 1))


def normalised_factor(model: config.Model) -> float:
    """Return the same with borders, as a mean over the stages (eq:bnborder)."""
    factors = []
    for stage in range(model.stages):
        pixels = config.IMAGE_SIZE >> stage
        inside, means = (3 * pixels - 2) / (3 * pixels), (1 + 2 * (1 - 1 / pixels) ** 2) / 3
        factors.append(math.pi * inside**2 / (math.pi * inside**2 - means**2))
    return math.pow(math.prod(factors), 1 / (2 * model.stages))


def shortcut_factor(_: config.Model) -> float:
    """Return 1: along the shortcuts a deep network is the shallow one (eq:rcprediction)."""
    return 1.0


def both_factor(model: config.Model) -> float:
    """Return what a layer multiplies the error by in a stage of blocks with BN and shortcuts (eq:both)."""
    blocks = model.blocks_by_stage[0]
    moment = walk_variance(1) / walk_variance(blocks + 1)
    for block in range(1, blocks + 1):
        moment *= walk_positive(block + 1) * (1 + math.pi / (math.pi - 1) / walk_variance(block))
    return math.pow(moment, 1 / (2 * model.convolutions * blocks))


def walk_variance(steps: int) -> float:
    """Return the variance of x_n = max(0, x_{n-1} + N(0, 1)) from x_0 = 0, which is a walk's maximum (Spitzer 1956)."""
    means = 1 / np.sqrt(2 * math.pi * np.arange(1, steps + 1))
    pairs = sum(means[i] * means[j] for i in range(steps) for j in range(steps - 1 - i))
    return float(steps / 2 + pairs - means.sum() ** 2)


def walk_positive(steps: int) -> float:
    """Return the probability that x_n > 0 (Spitzer 1956)."""
    return 1 - math.comb(2 * steps, steps) / math.pow(4, steps)


def shallow_ratio(model: config.Model, classes: int) -> tuple[float, float]:
    """Return G_1 / G_L of a plain network without blocks, by eq:shallow: the least and the most that it can be.

    It is the least where the terms of G_1's sum over positions are independent, and the most where they are alike.
    """
    steps, half = 2 * model.stages, (1 + SLOPE**2) / 2
    activation = half
    for _ in range(steps):
        activation = half * (activation / 3 + 1 / (27 * model.filters))
    last = (config.IMAGE_SIZE >> model.stages) ** 2
    error = half / (3 * model.filters) / last**2 * (half / 3) ** steps / 16**model.stages
    positions = config.IMAGE_SIZE**2
    independent = math.sqrt(3 * positions * classes * error / activation)
    return independent, independent * math.sqrt(positions)


NETWORKS: dict[str, tuple[str, Callable[[config.Model], float], float]] = {
    "vgg38": ("vgg08", plain_factor, 1.1),
    "vgg38_bn": ("vgg08_bn", normalised_factor, 1.05),
    "vgg38_rc": ("vgg08", shortcut_factor, 1.03),
    "vgg38_bn_rc": ("vgg08_bn", both_factor, 1.04),
}
"""Deep networks: each with the shallow one that it extends, what a layer is predicted to do, and the tolerance.

Single networks with five seeds each were 0.371-0.393, 1.145-1.160, 0.986-1.013 and 1.047-1.055, in this order.
"""


@dataclass(frozen=True)
class Factor:
    """A prediction beside ours."""

    network: str
    against: str
    quantity: str
    predicted: float
    tolerance: float
    values: list[float]
    """A value each seed."""
    comparable: bool
    """Whether ours is of CIFAR-100."""

    @property
    def measured(self) -> float:
        """The geometric mean over the seeds."""
        return statistics.geometric_mean(self.values)

    @property
    def smallest(self) -> float:
        """The smallest of the values."""
        return min(self.values)

    @property
    def largest(self) -> float:
        """The largest of the values."""
        return max(self.values)

    @property
    def n(self) -> int:
        """The number of seeds."""
        return len(self.values)

    @property
    def verdict(self) -> str:
        """By the rule of this module."""
        if not self.comparable:
            return UNJUDGED
        return MET if abs(math.log(self.measured / self.predicted)) <= math.log(self.tolerance) else MISSED


def factors(settings: config.Parameters, results: Mapping[str, list[Result]]) -> Iterator[Factor]:
    """Yield a row for each network of the study that has results, beside the shallow one's."""
    comparable = settings.data.set == "cifar100"
    run, ratios = measured_ratios(results, "vgg08")
    if ratios:
        low, high = shallow_ratio(settings.run(run).model, settings.data.classes)
        middle = math.sqrt(low * high)
        yield Factor(run, "", "ratio", middle, high / middle, ratios, comparable)
    for network, (shallow, predict, tolerance) in NETWORKS.items():
        (run, ratios), (against, shorter) = measured_ratios(results, network), measured_ratios(results, shallow)
        if not ratios or not shorter:
            continue
        model = settings.run(run).model
        if model.model_copy(update={"blocks": 0, "shortcut": "none"}) != settings.run(against).model:
            continue  # not the same network but for its blocks
        if len(set(model.blocks_by_stage)) > 1:
            continue  # the predictions are those of equal stages
        layers, least = sum(model.blocks_by_stage) * model.convolutions, statistics.geometric_mean(shorter)
        each = [(ratio / least) ** (1 / layers) for ratio in ratios]
        yield Factor(run, against, "factor a layer", predict(model), tolerance, each, comparable)


def awaited(settings: config.Parameters, results: Mapping[str, list[Result]]) -> Iterator[tuple[str, list[str]]]:
    """Yield each network whose factor is not measured yet, with the shortest runs that would give what is missing.

    What no run of this configuration gives is left out.
    """
    for network, (shallow, *_) in NETWORKS.items():
        missing = [each for each in (shallow, network) if not measured_ratios(results, each)[1]]
        runs = [next((run for run in _trainings(each) if run in settings.runs), "") for each in missing]
        if runs and all(runs):
            yield network, runs


def measured_ratios(results: Mapping[str, list[Result]], network: str) -> tuple[str, list[float]]:
    """Return the first training of a network that has results, and its G_1 / G_L at epoch 0 for each seed."""
    for run in _trainings(network):
        found = []
        for result in results.get(run, []):
            rows = store.weight_layers(result.gradients)
            sizes = rows[rows.epoch == 0].mean_abs_gradient
            if len(sizes) and 0 < sizes.iloc[0] < math.inf and 0 < sizes.iloc[-1] < math.inf:
                found.append(float(sizes.iloc[0] / sizes.iloc[-1]))
        if found:
            return run, found
    return network, []


def network_of(run: str) -> str:
    """Return the network that a run trains: the run's name without an ending of `SIMILAR`."""
    return functools.reduce(str.removesuffix, SIMILAR, run)


def _trainings(network: str) -> list[str]:
    return [f"{network}{ending}" for ending in SIMILAR]


def factors_frame(found: list[Factor]) -> pd.DataFrame:
    """Return a row for each prediction."""
    return pd.DataFrame([[getattr(item, column) for column in COLUMNS] for item in found], columns=COLUMNS)
