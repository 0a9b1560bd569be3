"""The status of a study on one screen."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from vanishing.console import aligned, duration
from vanishing.engines.status import Changed, Status

SILENT = 60.0
"""Seconds after which a training that says nothing of its progress is said to be silent."""

NAMED = 6
"""Trainings that are named in a line."""


def text(found: Status) -> str:
    """Lay a status out for a screen."""
    counts = ", ".join(f"{count} {state}" for state, count in found.counts.items() if count)
    parts = [f"{len(found.trainings)} trainings: {counts}", f"engine: {found.engine or 'none at work here'}"]
    parts += [*_running(found), *_ended(found, "failed"), *_ended(found, "interrupted"), *_stale(found)]
    for each in found.failures:
        parts += ["", f"failed: `{each.command}` ({each.log_file})", *(f"  | {line}" for line in each.log)]
    return "\n".join([*parts, *_left(found)])


def _running(found: Status) -> Iterator[str]:
    rows = []
    for each in found.of("running"):
        epoch = f"{each.epoch}/{each.epochs}" if each.epoch else "-"
        rate = f"{each.steps_per_second:.1f}" if each.steps_per_second else "-"
        left = duration(each.seconds_left) if each.seconds_left is not None else "-"
        if (each.seconds_silent or 0) > SILENT:
            left = f"silent for {duration(each.seconds_silent or 0)}"
        rows.append((each.title, epoch, rate, left, str(each.process)))
    if rows:
        yield from ("", *aligned([("running", "epoch", "steps/s", "time left", "process"), *rows], gap=3).splitlines())
    others = [(each.command, duration(round(each.seconds))) for each in found.jobs]
    if others:
        yield from ("", *aligned([("running", "for"), *others], gap=3).splitlines())


def _ended(found: Status, state: str) -> Iterator[str]:
    """Yield the trainings that failed or were interrupted, and the command that goes on with them."""
    if not (ended := found.of(state)):
        return
    yield from ("", f"{state}:")
    for each in ended:
        saved = f"saved at epoch {each.epoch}, iteration {each.iteration}" if each.epoch else "nothing saved"
        died = f"; process {each.process} died" if each.process else ""
        yield f"  {each.title}, {saved}{died}"
        yield from (f"    | {line}" for line in each.log or filter(None, [each.error]))
    yield f"  go on: {found.program} train {' '.join(each.title for each in ended)}"


def _stale(found: Status) -> Iterator[str]:
    """Yield what was made with another configuration, one line for all in which the same keys have changed."""
    alike: dict[str, list[str]] = {}
    for each in found.of("stale"):
        alike.setdefault(_keys(each.changed), []).append(each.title)
    for name, analysis in found.analyses.items():
        if analysis.stale:
            alike.setdefault(_keys(analysis.changed), []).append(f"{name} of {analysis.stale}")
    if alike:
        yield from ("", "stale, made with another configuration:")
    for keys, titles in alike.items():
        more = f" and {len(titles) - NAMED} more" if len(titles) > NAMED else ""
        yield f"  {', '.join(titles[:NAMED])}{more}: {keys}"
    if alike:
        yield f"  again: {found.program} train --missing, or an engine"


def _keys(changed: Changed) -> str:
    return ", ".join(f"{key} {_short(was)} -> {_short(now)}" for key, (was, now) in changed.items())


def _short(value: object) -> str:
    written = json.dumps(value)
    return written if len(written) <= 40 else f"{written[:37]}..."


def _left(found: Status) -> Iterator[str]:
    """Yield what is missing of each study, and how far the analyses are."""
    missing = {key: counts for key, counts in found.studies.items() if counts["missing"]}
    if missing:
        rows = [(key, f"{counts['missing']} of {counts['trainings']}") for key, counts in missing.items()]
        yield from ("", "missing, by study:", *_columns(rows))
    rows = [(name, f"{each.done} of {each.jobs}") for name, each in found.analyses.items() if each.jobs]
    if rows:
        yield from ("", "measured:", *_columns(rows))


def _columns(rows: Sequence[tuple[str, str]], count: int = 3) -> list[str]:
    """Lay pairs out in columns beside each other, from top to bottom."""
    height = -(-len(rows) // count)
    columns = [aligned(rows[at : at + height], gap=2).splitlines() for at in range(0, len(rows), height)]
    width = max(len(line) for column in columns for line in column)
    lines = [[column[at] for column in columns if at < len(column)] for at in range(height)]
    return ["  " + "    ".join(line.ljust(width) for line in each).rstrip() for each in lines]
