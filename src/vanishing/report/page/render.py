"""The file `report/report.html`: template, style, scripts and data in one, with the policy that holds it together."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

import jinja2
import vl_convert

from vanishing import config, files, paths
from vanishing.report.cells import plain_metric
from vanishing.report.comparison_tables import PARTS
from vanishing.report.overview import START
from vanishing.report.page import answer, content
from vanishing.report.tables import endings
from vanishing.results import aggregate, columns, published
from vanishing.results.aggregate import Row
from vanishing.results.columns import METRICS, SCHEDULES
from vanishing.results.published import Claim

TARGET = paths.REPORT / "report.html"

Cell = tuple[str, float | str]
"""What a cell of a table shows, and what it is sorted by; an empty text for nothing, which comes last."""

Table = tuple[list[str], list[list[Cell]]]
"""Head and rows."""


def write_page(settings: config.Parameters) -> None:
    """Write the page from the results that there are."""
    results = aggregate.read_results(settings, settings.runs)
    studies = aggregate.rows_of_studies(settings, results, settings.studies)
    # of a user's own images nothing was published
    claims = [] if settings.data.own else published.value_claims(settings, studies)
    start = next((studies[key] for key in (*START, *studies) if key in studies), [])
    shown = content.gather(settings, results)
    shown |= {"study": answer.comparing(studies), "start": {row.run: row.network for row in start}}
    # at the last epoch alone, whatever a study takes the mean of
    rows = [Row(run, settings.run(run), found) for run, found in results.items()]
    files.write(
        TARGET,
        page(
            shown,
            images=settings.data.name,
            real=settings.data.set == "cifar100",
            sentences=answer.sentences(settings, studies, claims),
            results=_results(rows),
            published=_published(claims),
        ),
    )


def page(shown: Mapping[str, Any], **said: Any) -> str:
    """Return the page as HTML.

    The scripts and the style are allowed by their hashes, everything else that a page could load or run by nothing:
    what stands in a title or a name is text, whatever it looks like.

    Args:
        shown: what the script draws from; see `content.gather`.
        said: what the template names beside it.
    """
    style, script = (_resource(name) for name in ("page.css", "page.js"))
    library = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return (
        jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        .from_string(_resource("page.html"))
        .render(
            policy=_policy(style, [library, script]),
            style=style,
            library=library,
            script=script,
            # in an element of HTML that is no program, `<` alone could end it
            data=json.dumps(shown, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
            **said,
        )
    )


def _results(rows: Iterable[Row]) -> Table:
    metrics = columns.shown()
    names = [metric.title for metric in metrics.values()]
    head = ["run", "layers", "parameters", "rate", "schedule", "epochs", "precision", *names, "n", "device"]
    return head, [
        [
            _text(row.run),
            *(_number(row.results[0].summary[key], ",") for key in ("layers", "parameters")),
            _number(row.configuration.train.learning_rate, "g"),
            _text(SCHEDULES[row.configuration.train.schedule]),
            _number(row.configuration.train.epochs),
            _text(row.configuration.train.precision),
            *(_metric(row, key) for key in metrics),
            (", ".join([str(len(row.completed)), *endings(row)]), len(row.completed)),
            _text(" ".join(row.devices)),
        ]
        for row in rows
    ]


def _published(claims: Iterable[Claim]) -> Table:
    head = ["source", "run", "metric", "published", "reproduced", "verdict", "n", "difference", "may differ by"]
    return head, [
        [
            _text(claim.source.name),
            _text(claim.run),
            _text(f"{PARTS[part]} {what}".lower()),
            (claim.printed, published.value(claim.printed)),
            _number(claim.cell.mean, decimals := f".{METRICS[claim.metric].decimals}f"),
            _text(claim.verdict),
            _number(len(claim.values)),
            _number(claim.difference, f"+{decimals}"),
            _number(claim.tolerance, decimals),
        ]
        for claim in sorted(claims, key=lambda claim: claim.verdict == published.NOT_RUN)
        for part, _, what in [claim.metric.partition("_")]
    ]


def _text(text: str) -> Cell:
    return text, text


def _number(value: float, form: str = "") -> Cell:
    return (f"{value:{form}}", value) if math.isfinite(value) else ("-", "")


def _metric(row: Row, key: str) -> Cell:
    mean, std = plain_metric(row, key)
    return (f"{mean}{std and f' ± {std}'}", row.cell(key).mean) if mean else ("-", "")


def _policy(style: str, scripts: Iterable[str]) -> str:
    """Return the content security policy that lets this style and these scripts in, and nothing else."""
    allowed = " ".join(map(_hash, scripts))
    return f"default-src 'none'; base-uri 'none'; form-action 'none'; script-src {allowed}; style-src {_hash(style)}"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _resource(name: str) -> str:
    return (resources.files("vanishing.report.page") / name).read_text(encoding="utf-8")
