r"""Tables of studies, and every number that the report's prose names.

`results/tables/STUDY.csv` is the table for machines: fractions and nats, mean and standard deviation
(n - 1) over the seeds. `report/tables/STUDY.tex` is the same for people, `report/numbers.tex` defines
what `\result` and `\iffact` look up, and `report/studies.tex` lays out the studies that have results.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from vanishing import files, parameters, paths, published, results
from vanishing.captions import CAPTIONS
from vanishing.progress import say
from vanishing.results import Result

METRICS = {
    "train_loss": ("train", "loss"),
    "train_accuracy": ("train", "accuracy"),
    "val_loss": ("validation", "loss"),
    "val_accuracy": ("validation", "accuracy"),
    "best_epoch": ("best", "epoch"),
    "best_val_accuracy": ("best", "accuracy"),
    "test_loss": ("test", "loss"),
    "test_accuracy": ("test", "accuracy"),
}
"""Columns of a table, and where `summary.json` has them."""

SHOWN = ["train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_accuracy"]
"""Metrics that the report's tables have room for."""

CHANCE_LOSS = 0.01
"""Relative distance from ln(classes) within which a training loss counts as that of chance."""

CHANCE_ACCURACY = 0.02
"""Accuracy above chance, as a fraction, within which a validation accuracy counts as chance."""


@dataclass(frozen=True)
class Cell:
    """Mean and standard deviation (n - 1) over seeds; the deviation is NaN for n = 1, both for n = 0."""

    mean: float
    std: float

    def text(self, scale: float = 1, digits: int = 2) -> str:
        """Write the cell in LaTeX, times `scale`; a dash for no value."""
        if math.isnan(self.mean):
            return "--"
        mean = number(self.mean * scale, digits)
        return mean if math.isnan(self.std) else f"{mean} $\\pm$ {number(self.std * scale, digits)}"


@dataclass(frozen=True)
class Row:
    """One run of a study, over its seeds."""

    run: str
    configuration: parameters.Run
    results: list[Result]

    @property
    def completed(self) -> list[Result]:
        """Return the seeds that did not diverge: those that means are taken over."""
        return [result for result in self.results if not result.diverged]

    def cell(self, metric: str) -> Cell:
        """Return a metric over the completed seeds."""
        part, key = METRICS[metric]
        return spread([result.summary[part][key] for result in self.completed])

    def gradient(self, layer: int, snapshot: int) -> Cell:
        """Return mean |dL/dW| of a layer (0 the first, -1 the last) at a snapshot, over the completed seeds."""
        found = []
        for result in self.completed:
            table = result.gradients
            epoch = sorted(table.epoch.unique())[snapshot]
            found.append(table[table.epoch == epoch].sort_values("layer").mean_abs_gradient.iloc[layer])
        return spread(found)

    @property
    def at_chance(self) -> bool:
        """Whether every seed ends where it began: at the loss and the accuracy of a uniform guess."""
        classes = self.configuration.data.classes
        loss, accuracy = math.log(classes), 1 / classes
        return bool(self.results) and all(
            not result.diverged
            and abs(result.summary["train"]["loss"] - loss) <= CHANCE_LOSS * loss
            and result.summary["validation"]["accuracy"] <= accuracy + CHANCE_ACCURACY
            for result in self.results
        )


def make(settings: parameters.Parameters) -> None:
    """Write the tables, `numbers.tex` and `studies.tex` from the results that there are."""
    lines, layout, written = list(_settings(settings)), [], set()
    for key, rows in collect(settings).items():
        results.write_table(paths.TABLES / f"{key}.csv", table(rows))
        files.write(paths.REPORT / "tables" / f"{key}.tex", latex(rows))
        lines += _numbers(key, rows)
        layout.append(_section(key, settings.studies[key], rows))
        written.add(key)
    files.write(paths.REPORT / "numbers.tex", "".join(f"{line}\n" for line in lines))
    files.write(paths.REPORT / "studies.tex", "\n".join(layout))
    for folder, suffix in ((paths.TABLES, ".csv"), (paths.REPORT / "tables", ".tex")):
        _keep_only(folder, suffix, written)


def collect(settings: parameters.Parameters) -> dict[str, list[Row]]:
    """Read the rows of every study that has results; what another configuration made is left out, with a line."""
    found: dict[str, list[Result]] = {}
    available = set(results.available(settings))
    for name, seed in settings.jobs():
        if (name, seed) in available:
            found.setdefault(name, []).append(results.read(name, seed))
        elif paths.results(name, seed).exists():
            say(f"{paths.results(name, seed)}: incomplete, or made with another configuration; left out")
    if not found:
        say("no results yet")
    rows = {
        key: [Row(run, settings.run(run), found[run]) for run in block.runs if run in found]
        for key, block in settings.studies.items()
    }
    return {key: of_study for key, of_study in rows.items() if of_study}


def table(rows: list[Row]) -> pd.DataFrame:
    """Return the table of a study: a row a run, each metric with mean and standard deviation over n seeds."""
    return pd.DataFrame([_record(row) for row in rows])


def latex(rows: list[Row]) -> str:
    """Return the table of a study as a booktabs tabular."""
    body = [
        " & ".join(
            [
                f"\\texttt{{{escape(row.run)}}}",
                str(row.results[0].summary["layers"]),
                number(row.results[0].summary["parameters"], 0),
                number(row.configuration.train.learning_rate),
                *(_text(row, metric) for metric in SHOWN),
                _seeds(row),
            ]
        )
        + r" \\"
        for row in rows
    ]
    head = [
        r"\begin{tabular}{lrrrrrrrrl}",
        r"\toprule",
        r"& & & Learning & \multicolumn{2}{c}{Training} & \multicolumn{2}{c}{Validation} & Test & \\",
        r"\cmidrule(lr){5-6}\cmidrule(lr){7-8}\cmidrule(lr){9-9}",
        r"Run & Layers & Parameters & rate & Loss & Acc. & Loss & Acc. & Acc. & $n$ \\",
        r"\midrule",
    ]
    return "\n".join([*head, *body, r"\bottomrule", r"\end{tabular}", ""])


def plain(title: str, rows: list[Row]) -> str:
    """Return the table of a study for a terminal: per cent and nats."""
    shown = table(rows)
    columns = {"run": shown.run, "layers": shown.layers, "rate": shown.learning_rate, "n": shown.n}
    for metric in SHOWN:
        columns[metric] = (shown[f"{metric}_mean"] * _scale(metric)).round(3)
    columns["status"] = shown.diverged.map(lambda count: f"{count} diverged" if count else "completed")
    return f"{title}\n{pd.DataFrame(columns).to_string(index=False, na_rep='-')}"


def spread(values: list[float]) -> Cell:
    """Return mean and standard deviation (n - 1) of `values`."""
    series = pd.Series(values, dtype=float)
    return Cell(float(series.mean()), float(series.std(ddof=1)))


def number(value: float, digits: int | None = None) -> str:
    """Write a number in LaTeX: with `digits` decimals, or by itself with an exponent where it is far from 1."""
    if digits is not None:
        return f"{value:,.{digits}f}".replace(",", "\\,").replace("-", "$-$")
    if value == 0 or 1e-2 <= abs(value) < 999.5:  # from there on, three digits need an exponent
        return f"{value:.3g}".replace("-", "$-$")
    mantissa, exponent = f"{value:.1e}".split("e")
    exact = math.isclose(value, float(f"{mantissa}e{exponent}"), rel_tol=1e-9)
    factor = "" if exact and mantissa == "1.0" else f"{mantissa.removesuffix('.0') if exact else mantissa} \\times "
    return f"${factor}10^{{{int(exponent)}}}$"


def escape(text: str) -> str:
    """Escape text for LaTeX."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)


def _keep_only(folder: Path, suffix: str, keys: set[str]) -> None:
    """Remove the tables of other studies; the folder is there even if no study has results."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"*{suffix}"):
        if path.stem not in keys:
            path.unlink()


def _record(row: Row) -> dict[str, object]:
    train = row.configuration.train
    record: dict[str, object] = {
        "run": row.run,
        "layers": row.results[0].summary["layers"],
        "parameters": row.results[0].summary["parameters"],
        "learning_rate": train.learning_rate,
        "epochs": train.epochs,
        "batch_size": train.batch_size,
        "weight_decay": train.weight_decay,
        "n": len(row.results),
        "diverged": len(row.results) - len(row.completed),
    }
    for metric in METRICS:
        cell = row.cell(metric)
        record |= {f"{metric}_mean": cell.mean, f"{metric}_std": cell.std}
    return record


def _seeds(row: Row) -> str:
    diverged = len(row.results) - len(row.completed)
    if not diverged:
        return str(len(row.results))
    epochs = ", ".join(str(result.summary["epochs"]) for result in row.results if result.diverged)
    return f"{len(row.completed)} + {diverged} diverged (epoch {epochs})"


def _settings(settings: parameters.Parameters) -> Iterator[str]:
    """Define the numbers and facts of the configuration's defaults."""
    data, train, model, gradients = settings.data, settings.train, settings.model, settings.gradients
    yield _result("data/name", 0, "CIFAR-100" if data.set == "cifar100" else "the generated set")
    counts = {
        "data/classes": data.classes,
        "data/train": data.classes * data.train_per_class,
        "data/val": data.classes * data.validation_per_class,
        "data/test": data.classes * data.test_per_class,
        "train/epochs": train.epochs,
        "train/batch_size": train.batch_size,
        "train/threads": train.threads,
        "model/filters": model.filters,
        "model/stages": model.stages,
        "model/blocks": model.blocks,
        "gradients/batches": gradients.batches,
        "gradients/batch_size": gradients.batch_size,
        "seeds": len(settings.seeds),
    }
    for key, count in counts.items():
        yield _result(key, count, number(count, 0))
    yield _result("chance/loss", math.log(data.classes), number(math.log(data.classes), 3))
    yield _result("chance/accuracy", 100 / data.classes, number(100 / data.classes))
    for key in ("learning_rate", "final_learning_rate"):
        yield _result(f"train/{key}", getattr(train, key), number(getattr(train, key)))
    yield from _published()
    if data.set == "generated":
        yield _fact("demo")
    if len(settings.seeds) == 1:
        yield _fact("seeds/one")


def _published() -> Iterator[str]:
    """Define what the reports give for the common training: published/REPORT/MODEL/LEARNING_RATE/METRIC."""
    rows = published.load().query("epochs == '100' and batch_size == '100' and weight_decay == '0'")
    for row in rows.drop_duplicates(["report", "model", "learning_rate"]).to_dict("records"):
        for metric in published.FIGURES:
            if text := row[metric]:
                key = f"published/{row['report']}/{row['model']}/{row['learning_rate']}/{metric}"
                yield _result(key, published.value(text), text)


def _numbers(key: str, rows: list[Row]) -> Iterator[str]:
    """Define the numbers and facts of a study."""
    yield _fact(f"study/{key}")
    for row in rows:
        stem = f"{key}/{row.run}"
        summary, train = row.results[0].summary, row.configuration.train
        for name, value in (
            ("layers", summary["layers"]),
            ("parameters", summary["parameters"]),
            ("n", len(row.results)),
        ):
            yield _result(f"{stem}/{name}", value, number(value, 0))
        yield _result(f"{stem}/epochs", train.epochs, number(train.epochs, 0))
        yield _result(f"{stem}/learning_rate", train.learning_rate, number(train.learning_rate))
        for metric in METRICS:
            mean = row.cell(metric).mean
            if not math.isnan(mean):
                yield _result(f"{stem}/{metric}", mean * _scale(metric), _text(row, metric))
        yield from _gradient_numbers(stem, row)
        if row.at_chance:
            yield _fact(f"{stem}/chance")
        if len(row.completed) < len(row.results):
            yield _fact(f"{stem}/diverged")


def _gradient_numbers(stem: str, row: Row) -> Iterator[str]:
    first, last, end = row.gradient(0, 0).mean, row.gradient(-1, 0).mean, row.gradient(0, -1).mean
    values = {"gradient_first": first, "gradient_last": last, "gradient_first_end": end}
    if 0 < last < math.inf:
        values["gradient_ratio"] = first / last
    for name, value in values.items():
        if math.isfinite(value):
            yield _result(f"{stem}/{name}", value, number(value))


def _text(row: Row, metric: str) -> str:
    """Write a metric of a row for people: accuracies in per cent, losses in nats."""
    digits = 0 if metric == "best_epoch" else 3 if metric.endswith("loss") else 2
    return row.cell(metric).text(_scale(metric), digits)


def _scale(metric: str) -> int:
    return 100 if metric.endswith("accuracy") else 1


def _result(key: str, raw: float, text: str) -> str:
    return f"\\defineresult{{{key}}}{{{raw:.10g}}}{{{text}}}"


def _fact(key: str) -> str:
    return f"\\definefact{{{key}}}"


def _section(key: str, block: parameters.Study, rows: list[Row]) -> str:
    """Lay out a study: its table, then its figures."""
    missing = [run for run in block.runs if run not in {row.run for row in rows}]
    caption = (
        f"{escape(block.title)}: last epoch of each run, and the test set with the weights of the epoch of best "
        "validation accuracy. Losses in nats, accuracies in per cent; mean $\\pm$ standard deviation over the $n$ "
        "seeds, no spread for $n = 1$."
    )
    if missing:
        caption += f" Not run: {escape(', '.join(missing))}."
    lines = [f"\\begin{{study}}{{{key}}}{{{escape(block.title)}}}", f"\\studytable{{{key}}}{{{caption}}}"]
    for family in block.draw:
        lines += [f"\\studyfigure{{{key}}}{{{name}}}{{{text}}}" for name, text in CAPTIONS[family].items()]
    return "\n".join([*lines, r"\end{study}", ""])
