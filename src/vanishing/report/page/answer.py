"""What the results answer, in sentences that hold for whatever part of the study is there."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

from vanishing import config
from vanishing.console import counted
from vanishing.report import markdown
from vanishing.results import published, store
from vanishing.results.aggregate import Row
from vanishing.results.published import Claim

STUDIES = {config.CORE: "", "short": "_short"}
"""Studies that have all networks, the longest trainings first, and how their runs' names end."""

MOST = 6
"""Runs that are named of a study without those networks."""

START = {"initialisation": "_start"}
"""The study that has them at initialisation."""

SHALLOW, PLAIN = "vgg08", "vgg38"

CURES = {
    "vgg38_bn": "batch normalisation alone",
    "vgg38_rc": "residual connections alone",
    "vgg38_bn_rc": "both",
}
"""What is added to the plain network."""


def sentences(settings: config.Parameters, studies: Mapping[str, list[Row]], claims: list[Claim]) -> list[str]:
    """Say what depth does and what cures it, how the gradients tell, what of the reports holds, and how sure that is.

    Args:
        settings: the parameters.
        studies: rows of the studies that have results.
        claims: the published values.
    """
    key = answering(studies)
    if key is None:
        return [*_best(settings, studies), _count(settings)]
    rows, cured = _networks(studies, key), _networks(studies, comparing(studies) or key)
    return [
        *_accuracies(settings, rows, cured),
        *_gradients(max((_networks(studies, each) for each in (*START, key)), key=len)),
        *_published(claims),
        _certainty([*rows.values(), *cured.values()]),
        _count(settings),
    ]


def answering(studies: Mapping[str, list[Row]]) -> str | None:
    """Return the study that answers: of those with the deep plain network, the one with most of the networks."""
    found = {key: _networks(studies, key) for key in STUDIES}
    able = [key for key, rows in found.items() if PLAIN in rows]
    return max(able, key=lambda key: len(found[key])) if able else None


def comparing(studies: Mapping[str, list[Row]]) -> str | None:
    """Return the study that compares the cures: the one that has most of them, of equals the longest trainings."""
    found = {key: sum(run in CURES for run in _networks(studies, key)) for key in STUDIES}
    most = max(found, key=lambda key: found[key])
    return most if found[most] else answering(studies)


def _networks(studies: Mapping[str, list[Row]], key: str) -> dict[str, Row]:
    """Return a study's rows of the networks that the answer speaks of, by their names without the study's ending."""
    names = {f"{name}{(STUDIES | START)[key]}": name for name in (SHALLOW, PLAIN, *CURES)}
    return {names[row.run]: row for row in studies.get(key, []) if row.run in names and row.completed}


def _best(settings: config.Parameters, studies: Mapping[str, list[Row]]) -> Iterator[str]:
    """Say the test accuracies of the first study that compares runs, the best of them first."""
    able = ((key, [row for row in rows if row.completed]) for key, rows in studies.items())
    key, rows = next(((key, rows) for key, rows in able if len(rows) > 1), ("", []))
    if rows:
        ranked = sorted(rows, key=lambda row: -row.cell("test_accuracy").mean)
        named = _listed([f"{_accuracy(row)} for {row.run}" for row in ranked[:MOST]])
        yield f"{settings.studies[key].title}: {named} of the test images are classified correctly."
        yield _certainty(rows)


def _accuracies(settings: config.Parameters, rows: Mapping[str, Row], cured: Mapping[str, Row]) -> Iterator[str]:
    """Say the test accuracies of the plain networks in `rows`, and of the cured ones, perhaps of longer trainings."""
    plain, chance = rows[PLAIN], 100 * settings.data.chance("test").accuracy
    depth = plain.results[0].summary["layers"]
    text = (
        f"After {_epochs(plain)}, the plain network of {depth} layers classifies {_accuracy(plain)} of the test images "
        f"of {settings.data.name} correctly"
    )
    text += f", no better than a guess ({chance:.3g} %)" if plain.at_chance else f"; a guess, {chance:.3g} %"
    yield f"{text}{_shallow(rows)}."
    reached = [f"{_accuracy(cured[run])} with {name}" for run, name in CURES.items() if run in cured]
    if reached and cured == rows:
        yield f"The same {depth} layers reach {_listed(reached)}."
    elif reached:
        after = _epochs(next(cured[run] for run in CURES if run in cured))
        yield f"After {after}, the same {depth} layers reach {_listed(reached)}{_shallow(cured)}."
    if awaited := [name for run, name in CURES.items() if run not in cured]:
        yield f"No training with {' or '.join(awaited)} is complete yet."


def _epochs(row: Row) -> str:
    return counted(row.configuration.train.epochs, "epoch")


def _shallow(rows: Mapping[str, Row]) -> str:
    """Say what the shallow network among `rows` reaches, in a sentence of its own."""
    if SHALLOW not in rows:
        return ""
    return f". The one of {rows[SHALLOW].results[0].summary['layers']} layers reaches {_accuracy(rows[SHALLOW])}"


def _gradients(rows: Mapping[str, Row]) -> Iterator[str]:
    """Say how much of the gradient of the last layer is left in the first, before any training."""
    ratios = {}
    for run in (PLAIN, *CURES):
        if run in rows and 0 < (last := rows[run].gradient(-1, 0).mean) < math.inf:
            ratios[run] = _power(rows[run].gradient(0, 0).mean / last)
    if PLAIN in ratios:
        cured = [f"{ratios[run]} with {name}" for run, name in CURES.items() if run in ratios]
        listed = _listed([f"{ratios[PLAIN]} in the plain network", *cured])
        yield f"Before training, the mean absolute gradient of the first layer, over that of the last, is {listed}."


def _published(claims: list[Claim]) -> Iterator[str]:
    counts = published.verdicts(claims)
    if counts["published/compared"]:
        yield (
            f"Of {counts['published/compared']} published values that can be judged by trainings here, "
            f"{counts['published/holds']} hold."
        )


def _certainty(rows: Collection[Row]) -> str:
    counts = [len(row.completed) for row in rows]
    if max(counts) == 1:
        return "Each accuracy is that of one training: how much another seed would change it is not known yet."
    alone = "; those without are of one training" if min(counts) == 1 else ""
    return f"Accuracies are means over up to {max(counts)} trainings, with their standard deviation (n - 1){alone}."


def _count(settings: config.Parameters) -> str:
    done, planned = len(list(store.available(settings))), len(list(settings.jobs()))
    return f"{done} of the study's {planned} trainings are complete."


def _accuracy(row: Row) -> str:
    return markdown.metric(row, "test_accuracy")


def _listed(parts: list[str]) -> str:
    """Join parts by commas and a last `and`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _power(value: float) -> str:
    """Write a ratio with two digits, as 10 to a power where it is far from 1."""
    if 0.01 <= value < 1000:
        return f"{float(f'{value:.2g}'):g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    superscript = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}·10{superscript}"
