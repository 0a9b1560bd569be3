"""The throughput of trainings in iterations per second, beside what was published.

Times are no results: they lie in `logs/rates/`, where no hash is taken and nothing is built from them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from vanishing import config, files, paths
from vanishing.console import say
from vanishing.results import published, store

if TYPE_CHECKING:  # PyTorch takes seconds to import
    import torch

    from vanishing.training.loop import Outcome

SETTING = ["run", "hardware", "torch", "precision", "threads", "at_once"]
"""What trainings have in common whose throughput is one row: seeds of a run, on equal machines."""

COLUMNS = [*SETTING, "layers", "batch_size", "throughput", "n", "published"]
"""Columns of `logs/rates.csv`; throughput and what was published of it are in iterations per second."""


def record(run: config.Run, name: str, seed: int, outcome: Outcome, device: torch.device, at_once: int = 1) -> None:
    """Write how long the training that has just ended took this process, if any of it was left to do.

    `at_once` trainings shared the device, at most: the throughput is that of one of them.
    """
    from vanishing.training import devices

    if outcome.iterations:
        surroundings = devices.environment(run.train, device)
        content = {"run": name, "seed": seed, "iterations": outcome.iterations, "seconds": outcome.seconds}
        content |= {"hardware": devices.hardware(device), "at_once": at_once}
        content |= {key: surroundings[key] for key in ("torch", "precision", "threads")}
        content |= {"configuration": run.configuration()}
        files.write(paths.rate(name, seed), json.dumps(content, indent=2) + "\n")


def report_throughput(settings: config.Parameters, studies: Sequence[str] = ()) -> None:
    """Print the throughput of the runs of `studies`, all if none is named, and write it to `logs/rates.csv`."""
    rows = throughput_frame(settings, studies)
    if rows.empty:
        return say(f"no throughput in {paths.RATES}; a training leaves its own when it ends")
    files.write(paths.RATES.with_suffix(".csv"), rows.to_csv(index=False, float_format="%.4g", lineterminator="\n"))
    shown = rows.rename(columns={"throughput": "median it/s", "published": "r4's it/s"})
    print(shown.to_string(index=False, float_format=lambda value: f"{value:.3g}", na_rep="-"))


def throughput_frame(settings: config.Parameters, studies: Sequence[str] = ()) -> pd.DataFrame:
    """Return the median throughput over seeds of each run, by hardware, with that published of the same model.

    Trainings under another configuration than the run has now are left out.
    """
    from vanishing.training import models

    records = pd.DataFrame(_read(settings, settings.runs_of(studies)), columns=[*SETTING, "throughput"])
    grouped = records.groupby(SETTING, sort=False).throughput.agg(throughput="median", n="size").reset_index()
    runs = [settings.run(name) for name in grouped.run]
    grouped["layers"] = [models.measure(run.model, run.data.classes).layers for run in runs]
    grouped["batch_size"] = [run.train.batch_size for run in runs]
    grouped["published"] = [published_throughput(name) for name in grouped.run]
    return grouped[COLUMNS]


def published_throughput(name: str) -> float:
    """Return the iterations per second that r4 printed for the run `name`; NaN for others."""
    found = (source.throughput for source in published.load() if name in source.runs)
    return next(filter(None, found), math.nan)


def _read(settings: config.Parameters, runs: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for name, seed in settings.jobs():
        path = paths.rate(name, seed)
        if name in runs and path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            if store.matches(settings, name, content):
                rows.append({"at_once": 1} | content | {"throughput": content["iterations"] / content["seconds"]})
    return rows
