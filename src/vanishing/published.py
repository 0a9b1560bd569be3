"""What the five student reports published: the numbers that this study is held against.

`published.csv` has a row for every row of their tables, and for figures that stand in their text: losses in
nats, accuracies in per cent, as printed. 1.815(3) means 1.815 +- 0.003, and an empty cell was not published.
"""

from __future__ import annotations

from importlib import resources

import pandas as pd

FIGURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy")
"""Columns with results."""


def load() -> pd.DataFrame:
    """Return every published row, all cells as the text that was printed."""
    with (resources.files("vanishing") / "published.csv").open(encoding="utf-8") as handle:
        return pd.read_csv(handle, dtype=str, keep_default_na=False)


def value(text: str) -> float:
    """Return the number in a printed cell such as 45.5(2); `ValueError` if there is none."""
    return float(text.partition("(")[0])
