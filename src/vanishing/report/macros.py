r"""Every number that the report's prose names, and the order in which its studies stand.

`report/numbers.tex` defines what `\result` and `\iffact` look up; `report/studies.tex` lays out the studies that have
results, the core study for the text and the others for the appendix, and lists what is left to train;
`report/overview.pdf` is the figure that the report opens with, blank where nothing can be drawn yet.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from matplotlib.figure import Figure

from vanishing import config, files, paths
from vanishing.data.cifar100 import CIFAR100
from vanishing.report import figures, overview, tables
from vanishing.report.captions import CAPTIONS, PRINTED
from vanishing.report.cells import latex_metric
from vanishing.report.latex import code, escape, number, tabular
from vanishing.results import (
    aggregate,
    differences,
    initial_gradients,
    published,
    published_gradients,
    published_schedules,
    statistics,
    store,
)
from vanishing.results.aggregate import Row
from vanishing.results.columns import METRICS
from vanishing.results.store import Result

Studies = Mapping[str, list[Row]]
"""Rows by study."""


def write_numbers(settings: config.Parameters) -> None:
    """Write `numbers.tex`, `studies.tex` and `overview.pdf` from the results that there are."""
    results = aggregate.read_results(settings, settings.runs)
    studies = aggregate.rows_of_studies(settings, results, settings.studies)
    found = {key: studies[key] for key in settings.presented({row.run for rows in studies.values() for row in rows})}
    lines = [*_settings(settings), *_published(), *_comparison(settings, studies), *_gradients(settings, results)]
    lines += _trainings(settings)
    for key, rows in found.items():
        lines += _numbers(key, settings.studies[key], rows)
    if drawn := overview.draw(settings, studies):
        lines += [fact("overview"), result("overview/made_on", 0, _made_on(drawn[1]))]
    if set(found) - {config.CORE}:
        lines.append(fact("otherstudies"))
    files.write(paths.REPORT / "numbers.tex", "".join(f"{line}\n" for line in lines))
    files.write(paths.REPORT / "studies.tex", _layout(settings, found))
    figures.save({"overview": drawn[0] if drawn else Figure()}, paths.REPORT)


def _settings(settings: config.Parameters) -> Iterator[str]:
    """Define the numbers and facts of the configuration's defaults."""
    data, train, model, gradients = settings.data, settings.train, settings.model, settings.gradients
    yield from _images(data)
    counts = {
        "data/classes": data.classes,
        "data/train": data.sizes[0],
        "data/val": data.sizes[1],
        "data/test": data.sizes[2],
        "train/epochs": train.epochs,
        "train/batch_size": train.batch_size,
        "train/threads": train.threads,
        "model/filters": model.filters,
        "model/stages": model.stages,
        "model/deepest": max(layers for sweep in settings.trainable_depth.sweeps for layers in sweep.layers),
        "gradients/batches": gradients.batches,
        "gradients/batch_size": gradients.batch_size,
        "runs": len(settings.runs),
        "train/snapshots": len(train.snapshot_epochs),
    }
    for key, count in counts.items():
        yield result(key, count)
    yield result("model/blocks", model.blocks_by_stage[0], str(model.blocks).strip("()"))
    yield result("chance/loss", math.log(data.classes), number(math.log(data.classes), 3))
    yield result("chance/accuracy", 100 / data.classes)
    yield result("chance/train_loss", data.chance("train").loss, number(data.chance("train").loss, 3))
    yield result("chance/train_accuracy", 100 * data.chance("train").accuracy)
    for key in ("learning_rate", "final_learning_rate"):
        yield result(f"train/{key}", getattr(train, key))
    if train.precision == "fp32":
        yield fact("train/fp32")


def _images(data: config.Data) -> Iterator[str]:
    """Define what the images are called, what they are known and normalised by, and whose they are."""
    own = data.own
    yield result("data/name", 0, escape(data.name))
    yield result("data/digest", 0, (own.sha256 if own else CIFAR100.train)[:16])
    for key, values in data.scaling._asdict().items():
        yield result(f"data/{key}", 0, ", ".join(f"{value:.4f}" for value in values))
    facts = {
        "demo": data.set == "generated",
        "other_images": data.set != "cifar100",
        "own": own,
        "data/drawn": own and own.seed is not None,
    }
    yield from (fact(key) for key, holds in facts.items() if holds)
    if data.unequal:
        yield fact("data/unequal")
        yield result("data/smallest", min(data.train_counts))
        yield result("data/largest", max(data.train_counts))


def _trainings(settings: config.Parameters) -> Iterator[str]:
    """Define what the checklist says of all trainings: how many there are, how they ended, and on what they ran.

    It is said from the summaries alone, so that a clone that typesets `results/` gets the same bytes.
    """
    summaries = [summary for _, summary in store.trainings(settings)]
    seeds = max(Counter(summary["run"] for summary in summaries).values(), default=0)
    counts = {
        "done": len(summaries),
        "planned": len(list(settings.jobs())),
        "left": len(_left(settings)),
        "seeds": seeds,
        "diverged": sum(summary["status"] == "diverged" for summary in summaries),
        "epochs": sum(summary["epochs"] for summary in summaries),
    }
    for key, count in counts.items():
        yield result(f"trainings/{key}", count)
    if seeds > 1:
        yield fact("trainings/spread")
    trained_in = [summary["environment"] for summary in summaries]
    if any(
        (each.get("device"), each.get("precision")) == ("cuda", "bf16") and "loss" not in each for each in trained_in
    ):
        yield fact("trainings/rounded_loss")
    for name, keys in (("hardware", ("device", "kind")), *((key, (key,)) for key in ("torch", "threads", "precision"))):
        found = {" ".join(str(summary["environment"].get(key, "?")) for key in keys) for summary in summaries}
        yield result(f"trainings/{name}", len(found), escape(", ".join(sorted(found)) or "no training yet"))


def _published() -> Iterator[str]:
    """Define what the reports give: published/REPORT/RUN/METRIC, the first row of several."""
    seen = set()
    for source in published.load():
        for metric, text in source.printed.items():
            key = f"published/{source.report}/{source.runs[0]}/{metric}"
            if key not in seen:
                yield result(key, published.value(text), text)
            seen.add(key)


def _comparison(settings: config.Parameters, studies: Studies) -> Iterator[str]:
    """Define how many published values hold, how many would fail by chance, and what is said of the schedules."""
    claims = published.value_claims(settings, studies)
    attributions = list(published_schedules.attribute(claims))
    attributed = [item.verdict for item in attributions]
    counts = published.verdicts(claims) | {
        "published/rows": len({claim.source for claim in claims}),
        "published/schedules": len(attributed),
        "published/none": attributed.count(published_schedules.NONE),
        "published/several": sum(" or " in verdict for verdict in attributed),
        "published/untested": attributed.count(published_schedules.UNTESTED),
    }
    counts |= {f"published/{key}": attributed.count(name) for key, name in published.SCHEDULES.items()}
    for name, count in counts.items():
        yield result(name, count)
    yield from _probabilities(attributions)
    yield from _widths(claims)
    expected = published_schedules.LEVEL * counts["published/judged"]
    yield result("published/expected", expected, number(expected, 1))
    covered = 100 * (1 - statistics.student(statistics.quantile(math.inf) / 2, math.inf))
    yield result("published/covered_by_half", covered, number(covered, 0))
    if any(claim.verdict != published.NOT_RUN for claim in claims):
        yield fact("comparison")
    yield from _brackets(settings, studies)


def _widths(claims: list[published.Claim]) -> Iterator[str]:
    """Define how wide the widest of the borrowed intervals are in training, in points, and their degrees of freedom."""
    lent = [
        claim.prediction for claim in claims if claim.metric == "train_accuracy" and claim.verdict in published.JUDGED
    ]
    borrowed = [prediction for prediction in lent if prediction and prediction.borrowed]
    if borrowed:
        widest = max(borrowed, key=lambda prediction: prediction.half_width)
        yield result("published/half_width", widest.half_width, number(widest.half_width, 1))
        yield result("published/freedom", widest.freedom)


def _probabilities(attributions: list[published_schedules.Attribution]) -> Iterator[str]:
    """Define how probable the authors' rows are under each schedule: published/REPORT/RUN/SCHEDULE/probability.

    Of several rows of a report on one run it is the first, as it is of the values that `_published` defines.
    """
    seen = set()
    for item in attributions:
        stem = f"published/{item.source.report}/{item.source.runs[0]}"
        if item.source.origin != "handout" and stem not in seen and item.comparable:
            seen.add(stem)
            for schedule, probability in item.probabilities.items():
                if probability is not None:
                    yield result(f"{stem}/{schedule}/probability", probability)


def _brackets(settings: config.Parameters, studies: Studies) -> Iterator[str]:
    """Define how many of r2's brackets fit each tested schedule, in each reading: brackets/SCHEDULE/sd and /se."""
    brackets = published_schedules.brackets_of(settings, published_schedules.final_scatter(studies))
    for schedule in published.SCHEDULES:
        for reading, short in zip(published_schedules.READINGS, ("sd", "se"), strict=True):
            fit, tested = published_schedules.fitting(brackets, schedule, reading)
            if tested:
                yield result(f"brackets/{schedule}/{short}", fit, f"{fit} of {tested}")


def _gradients(settings: config.Parameters, results: Mapping[str, list[Result]]) -> Iterator[str]:
    """Define what is predicted of gradients at initialisation, and how many published bounds hold."""
    for item in initial_gradients.factors(settings, results):
        stem = f"initialisation/{initial_gradients.network_of(item.network)}"
        for name in ("predicted", "measured", "tolerance", "n"):
            yield result(f"{stem}/{name}", getattr(item, name))
        if item.verdict == initial_gradients.MET:
            yield fact(f"{stem}/met")
    awaited = [
        f"{code(network)} for {' and '.join(map(code, runs))}"
        for network, runs in initial_gradients.awaited(settings, results)
    ]
    yield result("initialisation/awaited", len(awaited), "; ".join(awaited))
    yield result("initialisation/explosion", initial_gradients.explosion())
    if scales := published_gradients.entry_scales(results.get("vgg08", [])):
        median = published_gradients.median(scales)
        yield result("published/entry_scale", median)
        if all(bound.admits(median) for bound in published_gradients.published_bounds() if bound.layers == "1"):
            yield fact("published/entry_scale/respects")
    claims = [claim for claim in published_gradients.bound_claims(settings, results) if claim.values]
    for claim in claims:
        stem = f"published/gradients/{claim.bound.report}/{claim.run}/{claim.bound.layers}/{claim.bound.statistic}"
        for images, median in (("augmented", claim.quantiles[1]), ("plain", claim.plain_median)):
            if math.isfinite(median):
                yield result(f"{stem}/{images}", median)
                if claim.bound.admits(median):
                    yield fact(f"{stem}/{images}")
    judged = [claim.verdict for claim in claims]
    yield result("published/gradients", len(judged))
    yield result("published/gradients_hold", judged.count(published.HOLDS))


def _numbers(key: str, study: config.Study, rows: list[Row]) -> Iterator[str]:
    """Define the numbers and facts of a study."""
    yield fact(f"study/{key}")
    if all(len(row.completed) < 2 for row in rows):
        yield fact(f"{key}/one")
    for row in rows:
        yield from _run_numbers(f"{key}/{row.run}", row)
    for item in differences.of_study(study, rows):
        stem = f"{key}/{item.first}-{item.second}/{item.metric}"
        if all(item.counts):
            yield result(stem, 100 * item.mean, tables.difference_text(item))
            yield fact(f"{stem}/{item.verdict.replace('cannot tell', 'open')}")
        if not math.isnan(item.margin):
            yield fact(f"{stem}/interval")
        if item.borrowed:
            yield fact(f"{stem}/borrowed")


def _run_numbers(stem: str, row: Row) -> Iterator[str]:
    summary, train = row.results[0].summary, row.configuration.train
    counts = {"layers": summary["layers"], "parameters": summary["parameters"], "n": len(row.results)}
    settings = ("epochs", "batch_size", "learning_rate", "weight_decay")
    for name, value in (counts | {name: getattr(train, name) for name in settings}).items():
        yield result(f"{stem}/{name}", value)
    for key, metric in METRICS.items():
        mean = row.cell(key).mean
        if not math.isnan(mean):
            yield result(f"{stem}/{key}", mean * metric.scale, latex_metric(row, key))
    yield from _gradient_numbers(stem, row)
    if row.at_chance:
        yield fact(f"{stem}/chance")
    if len(row.completed) < len(row.results):
        yield fact(f"{stem}/diverged")


def _gradient_numbers(stem: str, row: Row) -> Iterator[str]:
    first, last, end = row.gradient(0, 0).mean, row.gradient(-1, 0).mean, row.gradient(0, -1).mean
    values = {"gradient_first": first, "gradient_last": last, "gradient_first_end": end}
    if 0 < last < math.inf:
        values["gradient_ratio"] = first / last
    for name, value in values.items():
        if math.isfinite(value):
            yield result(f"{stem}/{name}", value)


def result(key: str, raw: float, text: str | None = None) -> str:
    """Define a result, printed as a number, a whole one where `raw` is an `int`, unless `text` says it otherwise."""
    printed = number(raw, 0 if isinstance(raw, int) else None) if text is None else text
    return f"\\defineresult{{{key}}}{{{raw:.10g}}}{{{printed}}}"


def fact(key: str) -> str:
    """Define a fact, which a text can test for."""
    return f"\\definefact{{{key}}}"


def _layout(settings: config.Parameters, found: Studies) -> str:
    """Lay out the core study, then those that the appendix holds, and list what is left to train."""
    core: list[str] = []
    others: list[str] = []
    shown: set[str] = set()
    for key, rows in found.items():
        (core if key == config.CORE else others).append(_section(key, settings, rows, shown))
        shown |= {row.run for row in rows}
    parts = [
        *core,
        "\\newcommand{\\otherstudies}{%",
        *others,
        "}",
        f"\\newcommand{{\\missingtrainings}}{{%\n{_missing(settings)}}}",
    ]
    return "\n".join([*parts, ""])


def _missing(settings: config.Parameters) -> str:
    """Return in LaTeX what is left to train, each run in the first study that has it; empty where nothing is."""
    left = _left(settings)
    body = []
    for key, study in settings.studies.items():
        jobs = [job for job in settings.jobs() if job in left and job[0] in study.runs]
        left -= set(jobs)
        if jobs:
            runs = len({run for run, _ in jobs})
            steps = sum(_steps(settings.run(run)) for run, _ in jobs)
            cells = str(runs), str(len(jobs)), number(steps, 0)
            body.append([f"{code(key)}: {escape(study.title)}", *cells])
    head = r"Study & runs & trainings & steps \\"
    return tabular("@{}p{0.66\\linewidth}rrr@{}", [head], body) if body else ""


def _left(settings: config.Parameters) -> set[tuple[str, int]]:
    """Return the runs and seeds that are not trained with today's configuration."""
    return {job for job in settings.jobs() if not store.is_trained(settings, *job)}


def _steps(run: config.Run) -> int:
    """Return the steps of a training."""
    return run.train.epochs * math.ceil(run.data.sizes[0] / run.train.batch_size)


def _section(key: str, settings: config.Parameters, rows: list[Row], shown: Collection[str]) -> str:
    """Lay out a study: its tables, then a figure of each family for the core study and of the first for others.

    What was published of its runs is not repeated where the studies before it have `shown` these. Figures of other
    studies name theirs, since they may stand beside the text of the next.
    """
    study, core = settings.studies[key], key == config.CORE
    lines = [f"\\begin{{study}}{{{key}}}{{{escape(study.title)}}}", f"\\studytable{{{key}}}{{{_caption(study, rows)}}}"]
    if settings.data.set != "folder" and any(published.repeats(row.run) for row in rows if row.run not in shown):
        lines.append(f"\\studypublished{{{key}}}")
    if any(not math.isnan(item.margin) for item in differences.of_study(study, rows)):
        lines.append(f"\\studydifferences{{{key}}}")
    for family in study.draw if core else study.draw[:1]:
        name, title = PRINTED[family], "" if core else f"\\emph{{{escape(study.title)}.}} "
        lines.append(f"\\studyfigure{{{key}}}{{{name}}}{{{title}{CAPTIONS[family][name]} {_made_on(rows)}}}")
    return "\n".join([*lines, r"\end{study}", ""])


def _devices(rows: list[Row]) -> str:
    """Say in LaTeX on what the runs of a study were trained, and in which precision where all share it."""
    runs: dict[str, list[str]] = {}
    for row in rows:
        runs.setdefault(" and ".join(sorted({_device(trained) for trained in row.results})), []).append(escape(row.run))
    precisions = {row.configuration.train.precision for row in rows}
    within = f"in {precisions.pop()} " if len(precisions) == 1 else ""
    if len(runs) == 1:
        return f"Trained {within}on {escape(next(iter(runs)))}."
    parts = [f"{escape(device)}: {', '.join(names)}" for device, names in runs.items()]
    return f"Trained {within}on {'; on '.join(parts)}."


def _device(trained: Result) -> str:
    """Name the device of a training: a processor by its kind alone, a GPU by its model."""
    environment = trained.summary["environment"]
    return "CPU" if environment["device"] == "cpu" else str(environment["kind"])


def _made_on(rows: list[Row]) -> str:
    """Say in LaTeX how many seeds the curves of a figure are over, and in which precision and on what they trained."""
    counts = [len(row.results) for row in rows]
    seeds = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)}$ to ${max(counts)}"
    precisions = {row.configuration.train.precision for row in rows}
    devices = {_device(trained) for row in rows for trained in row.results}
    return f"$n = {seeds}$; {' and '.join(sorted(precisions))}, trained on {escape(' and '.join(sorted(devices)))}."


def _caption(study: config.Study, rows: list[Row]) -> str:
    when = "last epoch" if study.average == 1 else f"mean of the final {study.average} epochs"
    spread = "mean $\\pm$ standard deviation over the $n$ seeds, no spread for $n = 1$."
    if study.average > 1:
        spread = (
            "1.815(3) is 1.815 $\\pm$ 0.003, the standard error of the mean, over the $n$ seeds or, for $n = 1$, over "
            "those epochs; the test set without, for $n = 1$, or with the standard deviation over the seeds."
        )
    text = (
        f"{escape(study.title)}: {when} of each run ({tables.common_settings(rows)}), and the test set with the "
        f"weights of the epoch of best validation accuracy. Losses in nats, accuracies in per cent; {spread}"
    )
    if any(len(row.devices) > 1 for row in rows):
        text = f"{text} {tables.MIXED}: trained on CPU and on GPU."
    text = f"{text} {_devices(rows)}"
    missing = study.missing({row.run for row in rows})
    return f"{text} Not run: {escape(', '.join(missing))}." if missing else text
