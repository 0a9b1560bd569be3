"""Judge from a measurement of every layer whether a network can train, and say what this study found to help.

No single layer decides, but what the layers multiply up to. Two limits stand for all networks:

- `LIMIT`: the gradients of two layers, each relative to the layer's weights, may differ by a factor of 10^4. A training
  takes about 10^4 to 10^5 minibatches. Beyond the limit, under SGD, one layer moves less in all of it than the other in
  one step, and no learning rate suits both. The same factor bounds the relative gradients themselves, per unit of error
  at the output: no customary learning rate of SGD makes up for more. Adam divides each gradient by its own size and
  so evens out a larger factor, as long as gradients stay above its epsilon (1e-8) and rounding leaves what they tell.
  The verdict does not know the optimiser: under Adam, beyond the limit is a warning.
- `BITS`: what depends on the example must be above the rounding of the dtype. Below, all examples are the same.

What lies on a branch harms nobody while another path carries the signal. So a layer counts as cut off only if all
layers before it are too (backward), or all layers behind it (forward).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from vanishing.analysis.probe import OUTPUT, Measurement, some

LIMIT = 1e4
"""Largest factor between two parts of a network for which one learning rate of SGD serves."""

BITS = 2.0
"""Bits of the significand that must carry the example; the last one or two are rounding errors."""

DEAD = 0.9
"""Largest share of dead units: with more, less than a tenth of the layer's width is left."""

FEWEST = 16
"""Examples from which on a unit that never changes counts as dead."""


@dataclass(frozen=True)
class Advice:
    """A change that helps, and how this study knows."""

    change: str
    basis: str
    """measured, derived or not studied"""
    evidence: str
    """What was found, and where it stands."""

    def __str__(self) -> str:
        return f"{self.change}. {self.basis.capitalize()}: {self.evidence}"


THEORY = "report, section Why products of small factors vanish"
CURES = "results/comparison/initialisation.csv; report, section Two cures"

NORMALISATION = Advice(
    "Normalise after each convolution or linear layer",
    "measured",
    "at initialisation, BN turns the factor by which a layer of the plain 38-layer network scales the gradient from "
    f"0.37 into 1.17 (predicted: 0.40 and 1.19; {CURES}). The study `remedies` trains with group normalisation; "
    "docs/results.md says what has been run. No study has layer normalisation",
)
SHORTCUT = Advice(
    "Add shortcuts, the identity over two layers at a time",
    "measured",
    f"at initialisation, they turn the factor of 0.37 a layer into 0.99 (predicted: 1.00; {CURES}). Trained for 15 "
    "epochs, the plain network stays at chance, a test accuracy of 0.01, and reaches 0.42 with BN and shortcuts "
    "together (study `short`, seed 0)",
)
BOTH = Advice(
    "Add shortcuts, the identity over two layers at a time",
    "measured",
    "at initialisation, they lower the growth of the gradient under BN from a factor of 1.17 a layer to 1.06 "
    f"(predicted: 1.19 and 1.08; {CURES})",
)
INITIALISATION = Advice(
    "Draw the weights with the variance that keeps the scale, gain^2 / fan-in (He et al. 2015)",
    "derived",
    "a rectified layer multiplies the signal by the square root of fan-in times the variance of its weights over 2: 1 "
    f"for He's initialisation, 0.41 for PyTorch's default ({THEORY}). The study `remedies` trains with it; "
    "docs/results.md says what has been run",
)
ACTIVATION = Advice(
    "Replace sigmoid and hyperbolic tangent by a rectifier",
    "derived",
    "each layer multiplies the gradient by the derivative of its activation, at most 1/4 for a sigmoid, and below 1 "
    f"but at 0 for the hyperbolic tangent (chain rule; {THEORY})",
)
RATE = Advice(
    "Do not count on the learning rate or Adam to make up for it",
    "derived",
    "no learning rate of SGD suits layers whose gradients differ by more than 10^4. Adam divides by the size of a "
    "gradient, but only where that is above its epsilon of 1e-8, and no optimiser restores what rounding has taken "
    f"({THEORY})",
)
SMALLER_STEPS = Advice(
    "Until that is changed, lower the learning rate or clip the gradient",
    "not studied",
    "the study `learning_rate` trains with BN alone; docs/results.md says what has been run",
)
BRANCHES = Advice(
    "Start the branches of residual blocks from small or zero weights",
    "not studied",
    "Zhang et al. 2019 (Fixup) train such networks without normalisation",
)
GATES = Advice(
    "Use an LSTM whose forget gates begin open (a bias of 1 or more), or orthogonal recurrent weights",
    "not studied",
    "this study has no recurrent network; Jozefowicz et al. 2015 for the bias, Pascanu et al. 2013 for the product of "
    f"one Jacobian a time step, which is as that of one a layer here ({THEORY})",
)
LEAK = Advice(
    "Set the biases back to 0, lower the learning rate that led here, and take a leaky rectifier",
    "derived",
    "the leaky rectifier, that of this study, passes a gradient on both sides. No study compares it with another "
    "rectifier",
)
CONNECT = Advice(
    "Look for detach(), no_grad(), .data, an argmax or a conversion to NumPy on the way to the loss",
    "not studied",
    "a gradient that is not there comes from the code and not from depth",
)


@dataclass(frozen=True)
class Finding:
    """Something that keeps a network from training."""

    kind: str
    """non-finite, lost, vanishing, exploding, dead or detached"""
    direction: str
    """forward, backward or through time"""
    first: str
    """The first of the layers that it concerns, in forward order."""
    last: str
    """The last of them."""
    factor: float
    """What the signal is multiplied by between them, on its way; NaN where that says nothing."""
    text: str
    """What is wrong and what was measured, in a sentence or two."""
    advice: tuple[Advice, ...] = ()

    def __str__(self) -> str:
        return self.text


def judge(found: Measurement) -> list[Finding]:
    """Return what keeps the network from training, causes before their effects; nothing for a healthy network."""
    if found.table[["activation", "gradient", "weight_gradient"]].isin([math.inf]).any(axis=None):
        return [*_detached(found), _non_finite(found)]
    cut = [*_detached(found), *_dead(found)]
    if any(finding.kind == "dead" and finding.factor == 0 for finding in cut):
        return cut  # all else follows from it
    return [*cut, *_lost(found), *(_spread(found) or _level(found)), *_through_time(found)]


def gradients_by_layer(found: Measurement) -> pd.Series:
    """Return the relative gradient of each layer's weights per unit of error at the output, in forward order.

    Gradients of exactly 0 are left out where weights that are all 0 explain them: such layers learn from the second
    step on.
    """
    sizes = found.table.drop_duplicates("name").set_index("name").weight_gradient.dropna()
    if found.zero_weights:
        sizes = sizes[sizes > 0]
    return sizes / found.error if found.error > 0 else sizes


def cuts(sizes: pd.Series) -> np.ndarray:
    """Return for each cut between layers the largest gradient below it over the largest one above it, (layers - 1,)."""
    values = sizes.to_numpy()
    below, above = np.maximum.accumulate(values)[:-1], np.maximum.accumulate(values[::-1])[::-1][1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below == above, 1.0, below / above)


def _non_finite(found: Measurement) -> Finding:
    """Name the first layer whose input is not finite, or the last one whose gradient is not."""
    infinite = found.table.set_index("name")[["activation", "gradient", "weight_gradient"]] == math.inf
    if infinite.activation.any():
        direction, name = "forward", str(infinite.index[infinite.activation][0])
        text = f"The signal overflows, or is not a number: from {_place(name)} on."
    else:
        direction, name = "backward", str(infinite.index[infinite.any(axis=1)][-1])
        text = f"The gradient overflows, or is not a number: in {_place(name)} and below. The signal is finite."
    return Finding("non-finite", direction, name, name, math.inf, text, _against_explosion(found))


def _detached(found: Measurement) -> list[Finding]:
    if not found.detached:
        return []
    text = f"The loss does not depend on the weights of {_layers(found.detached)}, though the forward pass uses them."
    return [Finding("detached", "backward", found.detached[0], found.detached[-1], 0.0, text, (CONNECT,))]


def _dead(found: Measurement) -> list[Finding]:
    """Find layers that receive zeros from most units, whatever the example; what else is constant is lost."""
    table = found.table[found.table.weight_gradient.notna().cumsum() > 1]  # pixels that are always black are no fault
    rows = table[(table.dead > DEAD) & (table.zeros >= table.dead)]
    if rows.empty or found.examples < FEWEST:
        return []
    text = (
        f"Units are dead: {rows.dead.max():.0%} of those that reach {_layers(list(rows.name))} are 0 for every example."
    )
    alive = 1 - float(rows.dead.max())
    return [Finding("dead", "forward", rows.name.iloc[0], rows.name.iloc[-1], alive, text, (LEAK,))]


def _lost(found: Measurement) -> list[Finding]:
    """Find where the example falls below rounding for good, or where batch normalisation amplifies what is left."""
    rows = found.table[found.table.bits.notna()].reset_index(drop=True)
    lost = (rows.bits < BITS).to_numpy()
    for_good = lost & np.logical_and.accumulate(lost[::-1])[::-1]
    places = np.flatnonzero(for_good | (lost & rows.type.str.contains("BatchNorm").to_numpy()))
    if not len(places) or places[0] == 0:  # examples that are alike from the start say nothing of the network
        return []
    at = int(places[0])
    share = rows.example_share
    start = int(np.flatnonzero(share[: at + 1] >= share[: at + 1].max() / 10)[-1])
    factor = float(share[at] / share[start])
    each = f", by a factor of {factor ** (1 / (at - start)):.2f} a layer" if at - start > 1 and factor else ""
    text = (
        f"The signal is lost: from {_place(rows.name[at])} on, all examples look the same. The part of the input that "
        f"differs between them is {share[at]:.0e} of the whole, no more than rounding. It falls between "
        f"{_place(rows.name[start])} and {_place(rows.name[at])}{each}."
    )
    advice = _against_vanishing(found)
    return [Finding("lost", "forward", rows.name[start], rows.name[at], factor, text, advice)]


def _spread(found: Measurement) -> list[Finding]:
    """Find gradients that shrink or grow towards the input by more than one learning rate of SGD can serve."""
    sizes = gradients_by_layer(found)
    ends = (("vanishing", sizes, _against_vanishing), ("exploding", sizes[::-1], _against_explosion))
    return [
        _gradient(kind, values, against(found)) for kind, values, against in ends if (cuts(values) < 1 / LIMIT).any()
    ]


def _gradient(kind: str, sizes: pd.Series, advice: tuple[Advice, ...]) -> Finding:
    """Say where the gradient is small; `sizes` begins at the end where it is, the input or the output."""
    ratios = cuts(sizes)
    at = int(ratios.argmin())
    reach = np.maximum.accumulate(sizes.to_numpy())
    last = int(np.argmax(reach >= reach[-1] / 10))
    small, large = str(sizes.index[0]), str(sizes.index[last])
    forward, side = (1, "below") if kind == "vanishing" else (-1, "above")
    rate = (reach[0] / reach[last]) ** (forward / last) if reach[0] else 0.0
    where = f"layer {sizes.index[at]}" + (f" and {side}" if at else "")
    text = (
        f"The gradient {kind[:-3]}es towards the input: relative to the weights, in {where} it is at most "
        f"{ratios[at]:.0e} times the largest of the others."
    )
    each = f" A layer between {small} and {large} multiplies it by {rate:.2g} on average." if last > 1 and rate else ""
    first, final = (small, large)[::forward]
    return Finding(kind, "backward", first, final, float(ratios[at]) ** forward, text + each, advice)


def _place(name: str) -> str:
    return "the output" if name == OUTPUT else f"layer {name}"


def _layers(names: list[str]) -> str:
    return f"layer{'s' * (len(names) > 1)} {some(list(dict.fromkeys(names)))}"


def _level(found: Measurement) -> list[Finding]:
    """Find gradients that are all too small, or mostly too large, for any customary learning rate of SGD."""
    sizes = gradients_by_layer(found)
    if sizes.empty:
        return []
    ends = str(sizes.index[0]), str(sizes.index[-1])
    if found.error == 0:
        return [Finding("vanishing", "backward", *ends, 0.0, "The gradient of the loss at the output is exactly 0.")]
    table = found.table
    grown = float(table.activation.iloc[-1] / table.activation[table.activation > 0].iloc[0])
    passed = f"From input to output, the signal is multiplied by {grown:.0e}."
    if sizes.max() < 1 / LIMIT:
        text = (
            f"All gradients vanish: per unit of error at the output, the largest is {sizes.max():.0e} of its weights."
        )
        return [Finding("vanishing", "forward", *ends, grown, f"{text} {passed}", _against_vanishing(found))]
    if sizes.median() > LIMIT:
        text = f"Most gradients explode: per unit of error at the output, above {sizes.median():.0e} of the weights."
        return [Finding("exploding", "forward", *ends, grown, f"{text} {passed}", _against_explosion(found))]
    return []


def _through_time(found: Measurement) -> list[Finding]:
    """Find layers called again and again, as in an unrolled recurrent network, whose gradient leaves the limits."""
    calls = {str(name): rows.gradient.dropna().to_numpy() for name, rows in found.table.groupby("name", sort=False)}
    findings = []
    for name, sizes in (calls | found.steps).items():
        if len(sizes) < 3 or not sizes.max() > 0:
            continue
        vanishing, exploding = float(sizes[0] / sizes.max()), float(sizes.max() / sizes[-1]) if sizes[-1] else 1.0
        factor = vanishing if vanishing < 1 / LIMIT else exploding
        if 1 / LIMIT <= factor <= LIMIT:
            continue
        kind = "vanishing" if factor < 1 else "exploding"
        rate = f", a factor of {factor ** (1 / (len(sizes) - 1)):.2f} a step" if factor else ""
        verb = "vanishes" if factor < 1 else "explodes"
        text = f"The gradient {verb} through time: back over {len(sizes)} steps of {name}, by {factor:.0e}{rate}."
        advice = (GATES, SMALLER_STEPS) if kind == "exploding" else (GATES,)
        findings.append(Finding(kind, "through time", name, name, factor, text, advice))
    return findings


def _against_vanishing(found: Measurement) -> tuple[Advice, ...]:
    normalisation = () if found.normalised else (NORMALISATION,)
    return (*normalisation, ACTIVATION if found.bounded else INITIALISATION, SHORTCUT, RATE)


def _against_explosion(found: Measurement) -> tuple[Advice, ...]:
    if found.normalised:
        return BOTH, SMALLER_STEPS
    return NORMALISATION, INITIALISATION, BRANCHES, SMALLER_STEPS
