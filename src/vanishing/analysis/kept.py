"""Tables of a long measurement, kept until it is finished, so that a killed command resumes after the last one."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from vanishing.results import store


def table(folder: Path, depends: Sequence[object], measure: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Read the table that `folder` keeps for these values of all it `depends` on, measured first if there is none.

    Cells are text, so that the bytes are those of a command without interruption.
    """
    key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{key}.csv"
    if not path.exists():
        store.write_table(path, measure())
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def forget(folder: Path) -> None:
    """Remove the tables of a measurement that is finished."""
    shutil.rmtree(folder, ignore_errors=True)
