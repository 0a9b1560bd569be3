"""A page of the data set for the report: images of every class, and one image as training augments it.

The images are the data set's own and are never committed; the report shows the page where it has been written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vanishing import config, files, paths
from vanishing.data import dataset, records
from vanishing.data.cifar100 import SUPERCLASSES
from vanishing.data.records import Labels
from vanishing.report import latex

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = paths.REPORT / "samples"

OF_CLASS = 2
"""Images of each class."""

IN_ROW = 5
"""Classes in a row: those of a superclass of CIFAR-100."""

SHOWN = 100
"""Classes at most: those of CIFAR-100 fill a page."""

LETTERS = 24
"""Of a class's name, at most."""

VIEWS = 15
"""Epochs whose view of the image is shown, after the image itself."""

VIEWS_IN_ROW = 8

GAP = 2
"""White pixels around each image."""

PAGE = r"""
Figure~\ref{figure:samples} shows images of every class, and Figure~\ref{figure:augmented} one of them as training sees
it.
\begin{figure}[!htbp]
  \centering
  \setlength{\unitlength}{0.22mm}%% a pixel
  \newcommand{\samplerow}[3]{%%
    \put(-8,#1){\makebox(0,0)[r]{\parbox{320\unitlength}{\raggedleft\footnotesize #2\scriptsize #3}}}}
  \begin{picture}(%(all)d,%(height)d)(-330,0)
    \put(0,0){\includegraphics[width=%(width)d\unitlength]{samples/classes.png}}
%(labels)s
  \end{picture}
  \caption{Training images, a %(kind)s: %(count)d of each %(which)s, in the order of the names beside them. They are
    evenly spaced in the canonical order of their class.}\label{figure:samples}
\end{figure}
\begin{figure}[!htbp]
  \centering
  \includegraphics[width=0.5\linewidth]{samples/augmented.png}
  \caption{The last image of Figure~\ref{figure:samples}, and the same image as training with seed %(seed)d sees it in
    epochs 1 to %(views)d: padded with black pixels, cropped at random, and flipped with probability one half.}
  \label{figure:augmented}
\end{figure}
""".lstrip()


def write(settings: config.Parameters) -> None:
    """Write `classes.png`, `augmented.png` and `samples.tex` to `FOLDER`, from the arrays of `vanishing data`.

    Raises `DataError` if the arrays are missing or damaged, or a class has no training image.
    """
    import torch

    images = dataset.load(settings.data.path)
    if len(np.unique(images.train.labels)) < len(images.classes):
        raise records.DataError(f"{settings.data.path}: a class has no training image; {records.NEXT}")
    rows = groups(images.classes)
    labels = [images.classes.index(name) for _, names in rows for name in names]
    shown = [index for label in labels for index in chosen(images.train.labels, label, OF_CLASS)]
    pixels = torch.from_numpy(images.train.images)
    seed = settings.seeds[0]
    _write_grid(FOLDER / "classes.png", pixels[shown], OF_CLASS * IN_ROW)
    _write_grid(FOLDER / "augmented.png", views(pixels, shown[-1], seed, VIEWS), VIEWS_IN_ROW)
    files.write(FOLDER / "samples.tex", page(rows, seed, len(images.classes)))


def groups(classes: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
    """Return the rows of the page: a superclass and its classes, or '' and classes by label where there are none.

    Of more than `SHOWN` classes it is as many, evenly spaced.
    """
    if set(classes) == {name for names in SUPERCLASSES.values() for name in names}:
        return list(SUPERCLASSES.items())
    count = min(len(classes), SHOWN)
    some = [classes[place * len(classes) // count] for place in range(count)]
    return [("", some[start : start + IN_ROW]) for start in range(0, count, IN_ROW)]


def chosen(labels: Labels, label: int, count: int) -> list[int]:
    """Return the indices of `count` images of a class: the middles of as many equal parts of the class's images."""
    found = np.flatnonzero(labels == label)
    return [int(found[(2 * part + 1) * len(found) // (2 * count)]) for part in range(count)]


def views(images: Tensor, index: int, seed: int, epochs: int) -> Tensor:
    """Return the image `index` of uint8 (n, 3, 32, 32), then as training sees it in epochs 1 to `epochs`."""
    import torch

    from vanishing.training import augmentation

    image = images[index : index + 1]
    draws = (augmentation.draw(len(images), seed, epoch) for epoch in range(1, epochs + 1))
    own = (each.batch(each.order.tolist().index(index), 1) for each in draws)
    return torch.cat([image, *(augmentation.augment(image, each) for each in own)])


def page(rows: Sequence[tuple[str, Sequence[str]]], seed: int, classes: int) -> str:
    """Write the LaTeX of the page: `rows` as `groups` returns them, the seed of `augmented.png`, and all classes."""
    step = config.IMAGE_SIZE + GAP
    width, height = OF_CLASS * len(rows[0][1]) * step + GAP, len(rows) * step + GAP
    centres = range(height - GAP - config.IMAGE_SIZE // 2, 0, -step)
    kind = r"superclass a row \citep{krizhevsky2009learning}" if rows[0][0] else "few classes a row"
    return PAGE % {
        "all": 330 + width,
        "width": width,
        "height": height,
        "labels": "\n".join(_label(centre, *row) for centre, row in zip(centres, rows, strict=True)),
        "kind": kind,
        "count": OF_CLASS,
        "which": f"of {SHOWN} classes, evenly spaced among {classes:,}" if classes > SHOWN else "class",
        "seed": seed,
        "views": VIEWS,
    }


def _label(centre: int, title: str, classes: Sequence[str]) -> str:
    above = rf"{title}\\" if title else ""
    names = latex.escape(", ".join(map(_printable, classes))).replace(r"\_", "~")
    return rf"    \samplerow{{{centre}}}{{{above}}}{{{names}}}"


def _printable(name: str) -> str:
    """Return a class's name, cut if it is long, with a question mark for each letter that LaTeX cannot set here."""
    known = "".join(letter if re.match(config.LATIN, letter) else "?" for letter in name)
    return known if len(known) <= LETTERS else f"{known[: LETTERS - 1]}\u2026"


def _write_grid(path: Path, images: Tensor, columns: int) -> None:
    """Write images, uint8 (n, 3, 32, 32), as a PNG file of `columns` images a row."""
    from torchvision.utils import save_image

    with files.replacing(path) as handle:
        save_image(images / 255, handle, format="png", nrow=columns, padding=GAP, pad_value=1.0)
