"""An independent implementation of the tables: from the files of the results, by the standard library alone.

Nothing here is shared with `vanishing.results`, nor with the libraries that it stands on, so that a mistake there is
not repeated. A cell must be equal to the letter, or to a relative `TOLERANCE` where it is a number.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from oracle_statistics import (
    PROBABILITY,
    half_width,
    margin_of_difference,
    pooled,
    predicted,
    probability,
    quantile,
    spread,
    variance_ratio,
)

from vanishing import config, paths

TOLERANCE = 1e-8
"""Relative; tables have ten significant digits."""

NOTHING = 1e-12
"""Below which a mean or deviation is one of rounding."""

HISTORY = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
"""Metrics of the last epochs."""

SUMMARY = {
    "best_epoch": ("best", "epoch"),
    "best_val_accuracy": ("best", "accuracy"),
    "test_loss": ("test", "loss"),
    "test_accuracy": ("test", "accuracy"),
}
"""Metrics of a summary, and where it has them."""

DYNAMICS = ("onset", "peak_loss", "val_final_std")
"""Metrics of how a training went."""

SETTINGS = ("learning_rate", "schedule", "epochs", "batch_size", "weight_decay")

SCHEDULES = {
    "cosine_per_epoch": "per epoch",
    "cosine_per_iteration": "per iteration",
    "constant": "constant rate",
}
"""And what they are called in a verdict."""

PRINTED = ("learning_rate", "final_learning_rate", "epochs", "batch_size", "weight_decay")
"""Settings of a training that a published row names."""

FREE = ("schedule", "precision", "device", "kernels", "threads", "snapshots")
"""Those that it leaves open; what is neither must be as nobody changed it."""

REFERENCE = {
    "stages": "3", "blocks": "5", "filters": "32", "kernel_size": "3", "activation": "leaky_relu", "norm": "none",
    "convolutions": "2", "shortcut": "none", "reduction": "plain", "reduction_shortcut": "none",
    "initialisation": "default", "gradient_amplification": "1.0",
}  # fmt: skip
"""The network of a published row that names no settings: plain VGG38."""

DEEP = {
    "vgg38": ("vgg08", 1.1), "vgg38_bn": ("vgg08_bn", 1.05), "vgg38_rc": ("vgg08", 1.03),
    "vgg38_bn_rc": ("vgg08_bn", 1.04),
}  # fmt: skip
"""Networks whose gradients at initialisation are predicted, the shallow one of each, and the factor that is allowed."""

COLUMNS = {
    "": [
        "run", "layers", "parameters", *SETTINGS, "averaged_epochs", "n", "diverged", "devices",
        *(f"{metric}_{statistic}" for metric in (*HISTORY, *SUMMARY, *DYNAMICS) for statistic in ("mean", "std")),
    ],
    "differences": ["first", "second", "metric", "first_n", "second_n", "mean", "margin", "spread", "verdict"],
    "published": [
        "report", "table", "origin", "run", "schedule", "metric", "published", "reproduced", "std", "n", "diverged",
        "difference", "spread", "freedom", "tolerance", "p", "verdict",
    ],
    "schedules": ["report", "table", "origin", "run", *SCHEDULES, "verdict"],
    "scatter": ["run", "seed", "schedule", "epochs", "batch_size", "std"],
    "brackets": ["report", "table", "run", "published", "reading", "low", "high", *SCHEDULES],
    "gradients": [
        "report", "place", "origin", "run", "layers", "statistic", "low", "high", "smallest", "median", "largest",
        "plain_median", "n", "verdict",
    ],
    "initialisation": [
        "network", "against", "quantity", "predicted", "tolerance", "measured", "smallest", "largest", "n", "verdict",
    ],
}  # fmt: skip
"""Of each kind of table."""

KEYS = {
    "": ["run"],
    "differences": ["first", "second", "metric"],
    "published": ["report", "table", "run", "metric", "published"],
    "schedules": ["report", "table", "run"],
    "scatter": ["run", "seed"],
    "brackets": ["report", "table", "run", "reading"],
    "gradients": ["report", "place", "run", "layers", "statistic"],
    "initialisation": ["network", "quantity"],
}
"""Columns by which its rows are known."""

Record = dict[str, str | float]
"""A row: what must be equal to the letter, and numbers."""


@dataclass(frozen=True)
class Raw:
    """What the files of a run and seed say."""

    run: str
    seed: int
    summary: dict[str, Any]
    history: list[dict[str, float]]

    @property
    def diverged(self) -> bool:
        """Whether the summary says so."""
        return bool(self.summary["status"] == "diverged")

    def value(self, metric: str, average: int) -> float | None:
        """Return a metric, those of the history as the mean over the last `average` epochs."""
        if metric in HISTORY:
            final = [row[metric] for row in self.history[-average:]]
            return sum(final) / len(final)
        part, key = SUMMARY[metric]
        found: float | None = self.summary[part][key]
        return found

    def dynamics(self, classes: int) -> dict[str, float]:
        """Return the metrics of how the training went; one that it does not have is left out."""
        losses, settled = [row["train_loss"] for row in self.history], self.history[-5:]
        left = [
            at for at, loss in enumerate(losses) if loss < math.log(classes) - 0.1 or loss > math.log(classes) + 0.1
        ]
        found = {"onset": self.history[left[0]]["epoch"], "peak_loss": max(losses[left[0] :])} if left else {}
        if len(settled) == 5:
            found["val_final_std"] = statistics.stdev(row["val_accuracy"] for row in settled)
        return found


@dataclass(frozen=True)
class Lent:
    """The runs of the core study, whose spread runs with few seeds borrow."""

    settings: config.Parameters
    runs: dict[str, list[Raw]]

    def alike(self, chance: bool) -> dict[str, list[Raw]]:
        """Return the runs that stay at chance, or those that learn."""
        return {run: raws for run, raws in self.runs.items() if _at_chance(self.settings.run(run), raws) == chance}

    def groups(self, schedule: str, chance: bool, metric: str, average: int) -> list[list[float]]:
        """List a metric of each seed, a list a run; a constant rate that has no two borrows from that per iteration."""
        by_schedule: dict[str, list[list[float]]] = {}
        for run, raws in self.alike(chance).items():
            if not chance and any(_at_chance(self.settings.run(run), [raw]) for raw in raws):
                continue  # a run that learns with some seeds only
            of_run = list(_values(raws, metric, average).values())
            by_schedule.setdefault(self.settings.run(run).train.schedule, []).append(of_run)
        own = by_schedule.get(schedule, [])
        if schedule == "constant" and all(len(values) < 2 for values in own):
            return by_schedule.get("cosine_per_iteration", [])
        return own


def compare(settings: config.Parameters, key: str) -> list[str]:
    """List what differs in the tables of a study that has results, a line each."""
    return [
        f"{path}: {line}"
        for kind, rows in records(settings, key).items()
        for path in [path_of(key, kind)]
        for line in differing(path.read_text(encoding="utf-8"), kind, rows)
    ]


def compare_published(settings: config.Parameters) -> list[str]:
    """List what differs in the tables of the comparison, a line each."""
    return [
        f"{path}: {line}"
        for kind, rows in published(settings).items()
        for path in [paths.COMPARISON / f"{kind}.csv"]
        for line in differing(path.read_text(encoding="utf-8"), kind, rows)
    ]


def records(settings: config.Parameters, key: str) -> dict[str, list[Record]]:
    """Return the rows of each table of a study, by kind; those of one without results have none."""
    found = {run: raws for run in settings.study(key).runs if (raws := of_run(settings, run))}
    return {
        "": [_row(settings, key, run, raws) for run, raws in found.items()],
        "differences": list(_differences(settings.study(key), found, Lent(settings, found))),
    }


def published(settings: config.Parameters) -> dict[str, list[Record]]:
    """Return the rows of the comparison, by table: every printed value, and the rows under both schedules."""
    studied = {run for study in settings.studies.values() for run in study.runs}
    found, lent = {run: of_run(settings, run) for run in studied}, _lent(settings)
    of_source = [
        (
            source,
            [claim for run in source["runs"].split() for claim in _claims(settings, source, run, found.get(run), lent)],
        )
        for source in _printed()
    ]
    scatter = list(_scatter(settings, found))
    return {
        "published": [claim for _, claims in of_source for claim in claims],
        "schedules": [row for source, claims in of_source for row in _schedules(source, claims)],
        "scatter": scatter,
        "brackets": list(_brackets(scatter if settings.data.set == "cifar100" else [])),
        "gradients": list(_bounds(settings, found)),
        "initialisation": list(_initialisation(settings, found)),
    }


def _lent(settings: config.Parameters) -> Lent:
    """Read the runs of the core study."""
    runs = settings.studies["core"].runs if "core" in settings.studies else []
    return Lent(settings, {run: raws for run in runs if (raws := of_run(settings, run))})


def path_of(key: str, kind: str = "") -> Path:
    """Name a table of a study."""
    return paths.TABLES / f"{key}{'-' * bool(kind)}{kind}.csv"


def of_run(settings: config.Parameters, run: str) -> list[Raw]:
    """Read the complete results of a run that were made with today's configuration, a seed each."""
    configuration = settings.run(run).configuration()
    there = [seed for seed in settings.seeds_of(run) if all(path.exists() for path in _files(run, seed))]
    found = [read(run, seed) for seed in there]
    return [raw for raw in found if config.completed(raw.summary["configuration"]) == configuration]


def read(run: str, seed: int) -> Raw:
    """Read the history and summary of a run and seed."""
    history, summary, _ = _files(run, seed)
    rows = [{name: float(row[name]) for name in ("epoch", *HISTORY)} for row in table(history)]
    return Raw(run, seed, json.loads(summary.read_text(encoding="utf-8")), rows)


def table(path: Path) -> list[dict[str, str]]:
    """Read a CSV file that has a header."""
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _files(run: str, seed: int) -> list[Path]:
    return paths.result_files(run, seed)


def _row(settings: config.Parameters, key: str, run: str, raws: list[Raw]) -> Record:
    """Return the row of a run in the table of a study."""
    train, average = settings.run(run).train, settings.study(key).average
    record: Record = {name: str(raws[0].summary[name]) for name in ("layers", "parameters")}
    record |= {"run": run} | {name: _text(getattr(train, name)) for name in SETTINGS}
    record |= {"averaged_epochs": str(average), "n": str(len(raws)), "diverged": str(sum(raw.diverged for raw in raws))}
    record["devices"] = " ".join(sorted({str(raw.summary["environment"].get("device", "?")) for raw in raws}))
    of_metric = {metric: [*_values(raws, metric, average).values()] for metric in (*HISTORY, *SUMMARY)}
    went = [raw.dynamics(settings.run(run).data.classes) for raw in raws if not raw.diverged]
    of_metric |= {metric: [found[metric] for found in went if metric in found] for metric in DYNAMICS}
    for metric, values in of_metric.items():
        mean, deviation = spread(values)
        record |= {f"{metric}_mean": mean, f"{metric}_std": deviation}
    return record


def _differences(study: config.Study, found: dict[str, list[Raw]], lent: Lent) -> Iterator[Record]:
    """Yield what stands behind `higher` and `lower`: differences, by seed where there are three, and their interval."""
    for first, second in study.pairs:
        for metric in ("val_accuracy", "test_accuracy") if first in found and second in found else ():
            left, right = (_values(found[run], metric, study.average) for run in (first, second))
            values = [left[seed] - right[seed] for seed in left if seed in right]
            mean, deviation = spread(values)
            counts = [len(values)] * 2
            margin = quantile(counts[0] - 1) * deviation / math.sqrt(counts[0]) if counts[0] > 1 else math.nan
            pools = [
                pooled(lent.groups(lent.settings.run(run).train.schedule, False, metric, study.average))
                for run in (first, second)
            ]
            lends = len(values) < 3 and bool(left) and bool(right) and all(pool and pool[0] for pool in pools)
            if lends:
                counts = [len(left), len(right)]
                mean = sum(left.values()) / counts[0] - sum(right.values()) / counts[1]
                own = [
                    (statistics.stdev(side.values()) if len(side) > 1 else 0, len(side) - 1) for side in (left, right)
                ]
                larger = [
                    of_run if of_run[0] > pool[0] * (1 + 1e-9) else pool
                    for pool, of_run in zip(pools, own, strict=True)
                    if pool
                ]
                margin = margin_of_difference(larger, counts, shared=pools[0] == pools[1] and larger == pools)
            verdict = ("higher" if mean > 0 else "lower") if abs(mean) > margin else "cannot tell"
            keys = {"first": first, "second": second, "metric": metric}
            keys |= {"first_n": str(counts[0]), "second_n": str(counts[1])}
            yield {**keys, "mean": mean, "margin": margin, "spread": "borrowed" if lends else "own", "verdict": verdict}


def _printed(name: str = "published.csv") -> list[dict[str, str]]:
    """Read every published row."""
    with (resources.files("vanishing.results") / name).open(encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def _claims(
    settings: config.Parameters, source: dict[str, str], run: str, raws: list[Raw] | None, lent: Lent
) -> Iterator[Record]:
    """Yield each printed value of a row beside ours, in per cent and nats; without results a run is not run."""
    for metric in (*HISTORY, "test_loss", "test_accuracy"):
        if source[metric]:
            yield _claim(settings, source, run, raws or [], metric, lent)


def _schedules(source: dict[str, str], claims: list[Record]) -> Iterator[Record]:
    """Yield how probable a published row is under each schedule that ours predict it under."""
    smallest: dict[str, list[float]] = {}
    for claim in claims:
        probability = claim["p"]
        if claim["verdict"] in ("holds", "does not hold", "diverged", "other settings"):
            smallest.setdefault(str(claim["schedule"]), [])
            if isinstance(probability, float) and not math.isnan(probability):
                smallest[str(claim["schedule"])].append(probability)
    if smallest:
        found = {key: min(1.0, len(each) * min(each)) if (each := smallest.get(key)) else math.nan for key in SCHEDULES}
        verdict = _possible(found)
        if any(claim["verdict"] == "other settings" for claim in claims):
            verdict = "other settings"
        run = source["runs"].split()[0]
        yield {**_row_keys(source), "run": run, **found, "verdict": verdict}


def _possible(probabilities: dict[str, float]) -> str:
    left = [SCHEDULES[key] for key, each in probabilities.items() if each >= 1 - PROBABILITY]
    if any(map(math.isnan, probabilities.values())):
        left.append("not tested")
    return " or ".join(left or ["none of these"])


def _claim(
    settings: config.Parameters, source: dict[str, str], name: str, raws: list[Raw], metric: str, lent: Lent
) -> Record:
    """Return a printed value beside ours, and whether it holds as one more training on other images would."""
    run = settings.run(name) if raws else None
    schedule = settings.run(name).train.schedule if name in settings.runs else ""
    chance = run is not None and _at_chance(run, raws)
    scale, average = 100 if metric.endswith("accuracy") else 1, int(source["average"])
    values = [scale * value for value in _values(raws, metric, average).values()]
    mean, deviation = spread(values)
    number, _, bracket = source[metric].partition("(")
    unit = 10.0 ** -len(number.partition(".")[2])
    rounding = int(bracket.rstrip(")")) * unit if bracket else unit / 2
    difference = mean - float(number)
    borrowed = pooled([[scale * value for value in group] for group in lent.groups(schedule, chance, metric, average)])
    if borrowed and not borrowed[0] and not chance:
        borrowed = None  # trainings that learn and end alike
    prediction = predicted(values, borrowed, _sampling(run, raws, metric, mean, lent) if run and values else None)
    tolerance, p = math.nan, math.nan
    if prediction:
        tolerance, p = half_width(prediction) + rounding, probability(prediction, abs(difference) - rounding)
    diverged = sum(raw.diverged for raw in raws)
    if run is None:
        verdict = "not run"
    elif not _alike(source, run):
        verdict = "other settings"
    elif not values:
        verdict, p = "diverged", 0.0
    elif not prediction:
        verdict = "no spread"
    else:
        verdict = "holds" if abs(difference) <= tolerance else "does not hold"
    keys = {**_row_keys(source), "run": name, "schedule": schedule, "metric": metric, "published": source[metric]}
    counts = {"n": str(len(values)), "diverged": str(diverged)}
    origin = ("own" if len(values) > 2 else "borrowed") if prediction else ""
    ours = {"reproduced": mean, "std": deviation, "difference": difference, "tolerance": tolerance, "p": p}
    freedom = prediction.freedom if prediction else math.nan
    return {**keys, **counts, **ours, "spread": origin, "freedom": freedom, "verdict": verdict}


def _row_keys(source: dict[str, str]) -> dict[str, str]:
    return {key: source[key] for key in ("report", "table", "origin")}


def _alike(source: dict[str, str], run: config.Run) -> bool:
    """Whether a run has every setting of a published row: the rest of the network is that of plain VGG38."""
    changed = dict(text.split("=") for text in source["settings"].split())
    model, train = run.model.model_dump(), run.train.model_dump()
    network = all(str(value) == changed.get(key, REFERENCE.get(key)) for key, value in model.items() if key != "groups")
    settings = {"recipe": 1.0, "l1": 0.0, "patience": 0.0} | {key: float(source[key]) for key in PRINTED}
    fixed = {key: value for key, value in train.items() if key not in FREE}
    images = run.data.set == "cifar100" and run.data.validation_per_class == 25
    return images and network and changed.keys() <= model.keys() and fixed == settings


def _sampling(run: config.Run, raws: list[Raw], metric: str, mean: float, lent: Lent) -> float | None:
    """Return the variance between two sets of validation images."""
    images, size = run.data.classes * run.data.validation_per_class, run.train.batch_size
    whole, rest = divmod(images, size)
    minibatches = [size] * whole + [rest] * (rest > 0)  # theirs, of equal weight
    between = 1 / images + math.fsum(1 / each for each in minibatches) / len(minibatches) ** 2
    if metric == "val_accuracy":
        return mean * (100 - mean) * between
    if metric != "val_loss":
        return 0.0
    squares = _loss_squares(raws) or _loss_squares(
        raw for found in lent.alike(_at_chance(run, raws)).values() for raw in found
    )
    return statistics.fmean(squares) * between if squares else None


def _loss_squares(raws: Iterable[Raw]) -> list[float]:
    found = [raw.summary["validation"].get("loss_std") for raw in raws if not raw.diverged]
    return [std * std for std in found if std is not None]


def _scatter(settings: config.Parameters, found: dict[str, list[Raw]]) -> Iterator[Record]:
    """Yield the standard deviation of each training's validation accuracy over its final five epochs, in points."""
    studied = dict.fromkeys(run for study in settings.studies.values() for run in study.runs)
    for run in studied:
        raws = found.get(run) or []
        for raw in raws if raws and not _at_chance(settings.run(run), raws) else ():
            final = [100 * row["val_accuracy"] for row in raw.history[-5:]]
            if len(final) == 5 and raw.summary["status"] == "completed" and all(map(math.isfinite, final)):
                train = settings.run(run).train
                keys = {"run": run, "seed": str(raw.seed), "schedule": train.schedule}
                length = {"epochs": str(train.epochs), "batch_size": str(train.batch_size)}
                yield {**keys, **length, "std": statistics.stdev(final)}


def _brackets(scatter: list[Record]) -> Iterator[Record]:
    """Yield what r2 prints in brackets, in each reading, and its probability beside our scatter by schedule."""
    squares: dict[str, list[float]] = {}
    for training in (each for each in scatter if each["epochs"] == each["batch_size"] == "100"):
        squares.setdefault(str(training["schedule"]), []).append(float(training["std"]) ** 2)
    for source in _printed():
        number, _, bracket = source["val_accuracy"].partition("(")
        if source["average"] != "5" or not bracket:
            continue
        unit, count = 10.0 ** -len(number.partition(".")[2]), int(bracket.rstrip(")"))
        for reading, factor in (("standard deviation", 1.0), ("standard error", math.sqrt(5))):
            low, high = factor * unit * (count - 0.5), factor * unit * (count + 0.5)
            run = source["runs"].split()[0]
            record: Record = {"report": source["report"], "table": source["table"], "run": run}
            record |= {"published": source["val_accuracy"], "reading": reading, "low": low, "high": high}
            yield record | {key: _ratio(low, high, squares.get(key)) for key in SCHEDULES}


def _ratio(low: float, high: float, squares: list[float] | None) -> float:
    if not squares or not any(squares):
        return 0.0 if squares else math.nan
    ours = statistics.fmean(squares)
    nearest = min(max(math.sqrt(ours), low), high)
    return variance_ratio(nearest * nearest / ours, 4, 4 * len(squares))


def _at_chance(run: config.Run, raws: list[Raw]) -> bool:
    """Whether every training of a run ends at the loss, within 1 %, and accuracy, within 2 points, of a guess."""
    loss, guess = math.log(run.data.classes), 1 / run.data.classes
    return all(
        not raw.diverged
        and abs(raw.summary["train"]["loss"] / loss - 1) <= 0.01
        and raw.summary["validation"]["accuracy"] <= guess + 0.02
        for raw in raws
    )


def _flow(raw: Raw, images: str) -> dict[int, list[dict[str, str]]]:
    """Read the gradients of a training by epoch, in forward order."""
    by_epoch: dict[int, list[dict[str, str]]] = {}
    for row in table(_files(raw.run, raw.seed)[2]):
        if row["images"] == images:
            by_epoch.setdefault(int(row["epoch"]), []).append(row)
    return by_epoch


def _bounds(settings: config.Parameters, found: dict[str, list[Raw]]) -> Iterator[Record]:
    """Yield each published bound on gradients beside ours over seeds and epochs from 1, on augmented images."""
    for source in _printed("published_gradients.csv"):
        low, high = (float(source[end]) if source[end] else math.nan for end in ("low", "high"))
        for run in source["runs"].split():
            completed = [raw for raw in found.get(run, []) if not raw.diverged]
            measured = {raw.seed: _each_half_epoch(_flow(raw, "augmented"), source) for raw in completed}
            values = [value for of_seed in measured.values() for value in of_seed]
            raws = [raw for raw in completed if measured[raw.seed]]
            plain = [value for raw in raws for value in _each_half_epoch(_flow(raw, "plain"), source)]
            smallest, median, largest, beside = (
                (min(values), statistics.median(values), max(values), statistics.median(plain))
                if values
                else (math.nan,) * 4
            )
            verdict = "does not hold" if median < low or median > high else "holds"
            if settings.data.set != "cifar100":
                verdict = "other settings"
            if not values:
                verdict = "not run"
            keys = {key: source[key] for key in ("report", "place", "origin", "layers", "statistic")}
            ours: Record = {"smallest": smallest, "median": median, "largest": largest, "plain_median": beside}
            yield {**keys, "run": run, "low": low, "high": high, **ours, "n": str(len(raws)), "verdict": verdict}


def _each_half_epoch(flow: dict[int, list[dict[str, str]]], source: dict[str, str]) -> list[float]:
    """List a bound's statistic twice for each epoch: that of the nearest snapshot, or once that of each of two."""
    first, _, last = source["layers"].partition("-")
    chosen = None if first == "all" else range(int(first), int(last or first) + 1)
    extreme = {"min": min, "max": max}[source["statistic"]]
    at = {
        epoch: extreme(
            float(row["mean_abs_gradient"])
            for row in rows
            if chosen is None or (int(row["layer"]) in chosen and row["kind"] != "normalisation")
        )
        for epoch, rows in flow.items()
        if epoch > 0
    }
    found = []
    for epoch in range(1, max(at, default=0) + 1):
        distance = min(abs(epoch - each) for each in at)
        nearest = [at[each] for each in {epoch - distance, epoch + distance} & at.keys()]
        found += nearest * (3 - len(nearest))
    return found


def _initialisation(settings: config.Parameters, found: dict[str, list[Raw]]) -> Iterator[Record]:
    """Yield what theory predicts of G_1 / G_L at initialisation beside ours."""
    ratios = {name: _ratios(found, name) for name in ("vgg08", "vgg08_bn", *DEEP)}
    run, shallow = ratios["vgg08"]
    if shallow:
        low, high = _shallow(settings.run(run).model, settings.data.classes)
        keys: Record = {"network": run, "against": "", "quantity": "ratio"}
        yield keys | _measured(settings, math.sqrt(low * high), math.sqrt(high / low), shallow)
    for name, (against, tolerance) in DEEP.items():
        (run, deep), (other, shallow) = ratios[name], ratios[against]
        model, base = ((settings.run(each).model if each in found else None) for each in (run, other))
        if deep and shallow and model and base and model.model_copy(update={"blocks": 0, "shortcut": "none"}) == base:
            layers = model.stages * model.blocks * model.convolutions
            factors = [(ratio / statistics.geometric_mean(shallow)) ** (1 / layers) for ratio in deep]
            keys = {"network": run, "against": other, "quantity": "factor a layer"}
            yield keys | _measured(settings, _predicted(name, model), tolerance, factors)


def _ratios(found: dict[str, list[Raw]], name: str) -> tuple[str, list[float]]:
    """Return the first training of a network that has results, and the ratio of each seed."""
    for run in (f"{name}_start", name, f"{name}_short", f"{name}_fp32"):
        ratios = []
        for raw in found.get(run, []):
            rows = [row for row in _flow(raw, "plain").get(0, []) if row["kind"] != "normalisation"]
            ends = [float(row["mean_abs_gradient"]) for row in (*rows[:1], *rows[-1:])]
            if ends and all(0 < end < math.inf for end in ends):
                ratios.append(ends[0] / ends[1])
        if ratios:
            return run, ratios
    return name, []


def _measured(settings: config.Parameters, predicted: float, tolerance: float, values: list[float]) -> Record:
    """Return the columns of a prediction, and whether it is met."""
    measured = statistics.geometric_mean(values)
    verdict = "as predicted" if 1 / tolerance <= measured / predicted <= tolerance else "not as predicted"
    return {
        "predicted": predicted, "tolerance": tolerance, "measured": measured, "smallest": min(values),
        "largest": max(values), "n": str(len(values)),
        "verdict": verdict if settings.data.set == "cifar100" else "other data",
    }  # fmt: skip


def _predicted(name: str, model: config.Model) -> float:
    """Return what a layer multiplies the error by: plain, with BN, with shortcuts, with both."""
    if name == "vgg38_bn":
        growths = []
        for stage in range(model.stages):  # a tap aside of the middle is over the border at one position of a side
            taps = [1 - 2**stage / 32, 1.0, 1 - 2**stage / 32]
            square, mean = statistics.fmean(taps) ** 2 / 2, statistics.fmean(tap**2 for tap in taps)
            growths.append(square / (square - mean**2 / (2 * math.pi)))
        return math.sqrt(statistics.geometric_mean(growths))
    if name == "vgg38_rc":
        return 1.0
    if name == "vgg38":
        shares = [(1 + 2 * math.cos(math.pi / (32 / 2**stage + 1))) / 3 for stage in range(model.stages)]
        return math.sqrt(1.0001 / 6) * statistics.geometric_mean(shares)
    positive, variance = [0.5], [math.nan]  # P(x_n > 0) by the ratio of neighbouring central binomials; Var(x_n)
    for n in range(1, model.blocks + 2):
        positive.append(1 - (1 - positive[-1]) * (2 * n + 1) / (2 * n + 2))
        mean = sum(1 / math.sqrt(2 * math.pi * j) for j in range(1, n + 1))
        square = n / 2 + sum(
            1 / (2 * math.pi * math.sqrt(i * j)) for i in range(1, n) for j in range(1, n) if i + j <= n
        )
        variance.append(square - mean**2)
    growth = variance[1] / variance[model.blocks + 1]
    for k in range(1, model.blocks + 1):
        growth *= positive[k] * (1 + 1 / (1 - 1 / math.pi) / variance[k])
    return math.pow(growth, 0.5 / (model.blocks * model.convolutions))


def _shallow(model: config.Model, classes: int) -> tuple[float, float]:
    """Return the ratio of a plain network without blocks, its sum over positions independent and alike."""
    leaky, side, convolutions = 1.0001 / 2, 32 / 2**model.stages, 2 * model.stages
    through = leaky / 3
    bias = leaky / (27 * model.filters)
    activation = leaky * through**convolutions + bias * (1 - through**convolutions) / (1 - through)
    error = leaky / (3 * model.filters * side**4) * through**convolutions * 4.0 ** (-2 * model.stages)
    low = 32 * math.sqrt(3 * classes * error / activation)
    return low, 32 * low


def _values(raws: Iterable[Raw], metric: str, average: int) -> dict[int, float]:
    """Return a metric of each seed that did not diverge, as far as it is finite."""
    found = {raw.seed: raw.value(metric, average) for raw in raws if not raw.diverged}
    return {seed: value for seed, value in found.items() if value is not None and math.isfinite(value)}


def differing(text: str, kind: str, records: list[Record]) -> Iterator[str]:
    """Yield each column, row, and cell in which a table is not what it must be."""
    header, *lines = csv.reader(text.splitlines())
    if header != COLUMNS[kind]:
        yield f"columns {header}, not {COLUMNS[kind]}"
        return
    there = _keyed(kind, [dict(zip(header, line, strict=True)) for line in lines])
    wanted = _keyed(kind, records)
    if list(there) != list(wanted):
        yield f"rows {list(there)}, not {list(wanted)}"
    for key, record in wanted.items():
        for column, right in record.items():
            if key in there and not _equal(there[key][column], right):
                yield f"{column} of {key} is {there[key][column]}, not {_text(right)}"


def _keyed(kind: str, records: Iterable[Any]) -> dict[str, Any]:
    """Name each row by its key; one that is there again is numbered."""
    seen: Counter[str] = Counter()
    found = {}
    for record in records:
        name = " ".join(record[key] for key in KEYS[kind])
        seen[name] += 1
        found[name if seen[name] == 1 else f"{name} ({seen[name]})"] = record
    return found


def _equal(found: str, right: str | float) -> bool:
    if isinstance(right, str):
        return found == right
    try:
        number = float(found)
    except ValueError:
        return False
    return math.isclose(number, right, rel_tol=TOLERANCE, abs_tol=NOTHING) or (math.isnan(number) and math.isnan(right))


def _text(value: str | float) -> str:
    """Write a value as tables do."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)
