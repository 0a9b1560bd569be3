"""The official pickles of CIFAR-100, listed operation by operation and never executed.

A pickle is a program, and an unpickler runs it. `pickletools.genops` of the standard library only parses it, and
that is enough here: the pixels are the longest text in the file, the labels the integers that follow
`fine_labels`. If that reads a file wrongly, the hash of its images is not that of CIFAR-100.
"""

from __future__ import annotations

import pickletools

import numpy as np

from vanishing.data.archives import SourceError, one_line
from vanishing.data.records import IMAGE_BYTES, SHAPE, Bytes

INTEGERS = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"})
"""Operations whose argument is a value of at most 255 bytes, not a place in the memo."""


def read(name: str, content: bytes) -> tuple[Bytes, list[int]]:
    """Return images, (N, 3, 32, 32), and labels of the pickle `content`; `SourceError` names the file `name`."""
    try:
        pixels, by_columns, labels = _listed(content)
    except ValueError as error:
        raise SourceError(f"{name!r}: no pickle of CIFAR-100: {one_line(error)}") from None
    if not pixels or len(pixels) != len(labels) * IMAGE_BYTES:
        found = f"{len(pixels):,} bytes of pixels and {len(labels):,} labels"
        raise SourceError(f"{name!r}: found {found}, expected {IMAGE_BYTES:,} bytes a label")
    rows = np.frombuffer(pixels, np.uint8).reshape((-1, IMAGE_BYTES), order="F" if by_columns else "C")
    return rows.reshape(-1, *SHAPE), labels


def _listed(content: bytes) -> tuple[bytes, bool, list[int]]:
    """Return the longest text, whether numpy says that its array is stored by columns, and the fine labels."""
    pixels: str | bytes | bytearray = b""
    by_columns = truth = inside = False
    labels: list[int] = []
    for operation, value, _ in pickletools.genops(content):
        if isinstance(value, (str, bytes, bytearray)):
            # where bytes are written as text, the name of their encoding stands between the key and its labels
            inside = value in ("fine_labels", b"fine_labels") or (inside and not labels)
            if len(value) > len(pixels):
                pixels, by_columns = value, truth
            truth = truth and operation.name == "GLOBAL"  # which can stand between order and pixels
        elif isinstance(value, bool) or operation.name in ("NEWTRUE", "NEWFALSE"):
            truth = value is True or operation.name == "NEWTRUE"
        elif inside and isinstance(value, int) and operation.name in INTEGERS:
            labels.append(value)
    return pixels.encode("latin-1") if isinstance(pixels, str) else bytes(pixels), by_columns, labels
