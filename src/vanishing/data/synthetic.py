"""Generated images for the demonstration: coloured patterns that a small network learns in a minute.

A class is a pattern in a colour. Classes share patterns and share colours, so that neither alone tells them
apart; place, size, phase, contrast, background and noise vary from image to image. No class is another's
mirror image, since training flips images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vanishing.config.block import IMAGE_SIZE
from vanishing.data.records import IMAGE_BYTES, SHAPE, Bytes, Split

Plane = NDArray[np.float64]
Pattern = Callable[[Plane], Plane]
Colour = tuple[float, float, float]

COLOURS = {
    "red": (0.90, 0.10, 0.15),
    "green": (0.15, 0.80, 0.25),
    "blue": (0.15, 0.35, 0.95),
    "yellow": (0.95, 0.90, 0.15),
    "magenta": (0.90, 0.15, 0.80),
    "cyan": (0.10, 0.85, 0.90),
    "orange": (0.95, 0.50, 0.10),
    "violet": (0.50, 0.20, 0.90),
    "white": (0.95, 0.95, 0.95),
    "black": (0.05, 0.05, 0.05),
}
"""Red, green and blue of the patterns, 0 to 1."""

DRAWS = 16
"""Random numbers that define an image, apart from its noise."""

_Y, _X = np.mgrid[0.0:IMAGE_SIZE, 0.0:IMAGE_SIZE]


def generate(
    classes: int, train_per_class: int, test_per_class: int, seed: int
) -> tuple[Split, Split, tuple[str, ...]]:
    """Make training images, test images and the names of the 2 to 100 classes.

    The bytes depend on the arguments alone: every number is drawn from SHAKE-256, and only operations that IEEE 754
    rounds exactly are used (no sine, no square root of a library).
    """
    looks = [_class(label) for label in range(classes)]
    names = tuple(name for name, _, _ in looks)
    splits = []
    for split, per_class in (("train", train_per_class), ("test", test_per_class)):
        images = np.empty((classes * per_class, *SHAPE), np.uint8)
        for place in range(len(images)):
            label, number = divmod(place, per_class)
            name, pattern, colour = looks[label]
            images[place] = _image(pattern, colour, f"{seed}/{split}/{name}/{number}")
        splits.append(Split(images, np.repeat(np.arange(classes, dtype=np.uint8), per_class)))
    train, test = splits
    return train, test, names


def _class(label: int) -> tuple[str, Pattern, Colour]:
    """Return a class's name, pattern and colour: ten consecutive labels are two patterns in five colours."""
    tens, ones = divmod(label, 10)
    pattern = list(PATTERNS)[ones % 2 + 2 * (tens % 5)]
    colour = list(COLOURS)[ones // 2 + 5 * (tens // 5)]
    return f"{colour}_{pattern}", PATTERNS[pattern], COLOURS[colour]


def _image(pattern: Pattern, colour: Colour, key: str) -> Bytes:
    """Paint one image, (3, 32, 32): the pattern over a greyish background, with noise."""
    stream = hashlib.shake_256(key.encode()).digest(4 * DRAWS + 2 * IMAGE_BYTES)
    draws = np.frombuffer(stream[: 4 * DRAWS], "<u4") / 2.0**32
    # the sum of two bytes: a hill from -1 to 1, of standard deviation 0.41
    noise = np.frombuffer(stream[4 * DRAWS :], np.uint8).reshape(2, *SHAPE).sum(axis=0, dtype=np.float64) / 255 - 1
    grey = 0.35 + 0.20 * draws[8]
    back = (grey + 0.10 * (draws[9:12] - 0.5))[:, None, None]
    front = (np.array(colour) + 0.10 * (draws[12:15] - 0.5))[:, None, None]
    strength = (0.80 + 0.20 * draws[15]) * pattern(draws)
    pixels = back + strength * (front - back) + 0.12 * noise
    painted: Bytes = np.rint(np.clip(pixels, 0.0, 1.0) * 255).astype(np.uint8)
    return painted


def _wave(position: Plane, period: float, phase: float) -> Plane:
    """Alternate between 0 and 1 along `position` (pixels), with edges of a sixth of the period."""
    turns = position / period + phase
    return np.clip(6 * np.abs(2 * (turns - np.floor(turns)) - 1) - 2.5, 0.0, 1.0)


def _inside(distance: Plane, size: float) -> Plane:
    """Give 1 where `distance` is below `size` (pixels) and 0 where it is above, with an edge of a pixel."""
    return np.clip(size - distance + 0.5, 0.0, 1.0)


def _tilt(draws: Plane) -> float:
    return 0.4 * float(draws[2]) - 0.2


def _rows(draws: Plane, period: float = 8.0) -> Plane:
    return _wave(_Y + _tilt(draws) * _X, period * (0.85 + 0.3 * draws[0]), draws[1])


def _columns(draws: Plane, period: float = 8.0) -> Plane:
    return _wave(_X + _tilt(draws) * _Y, period * (0.85 + 0.3 * draws[0]), draws[1])


def _checks(draws: Plane) -> Plane:
    across = _wave(_X, 14.0 * (0.85 + 0.3 * draws[0]), draws[3])
    checks: Plane = np.abs(_rows(draws, 14.0) - across)
    return checks


def _diagonals(draws: Plane) -> Plane:
    across = _X if draws[3] < 0.5 else IMAGE_SIZE - _X
    return _wave(_Y + (1 + _tilt(draws)) * across, 11.0 * (0.85 + 0.3 * draws[0]), draws[1])


def _offsets(draws: Plane) -> tuple[Plane, Plane]:
    """Measure distances, down and across, from a centre in the middle third of the image."""
    return np.abs(_Y - 10.5 - 10 * draws[3]), np.abs(_X - 10.5 - 10 * draws[4])


def _disc(draws: Plane) -> Plane:
    down, across = _offsets(draws)
    size = 7 + 4 * draws[0]
    # (r^2 - d^2) / 2r is the distance to the rim to first order
    disc: Plane = np.clip((size * size - down * down - across * across) / (2 * size) + 0.5, 0.0, 1.0)
    return disc


def _fine_rows(draws: Plane) -> Plane:
    return _rows(draws, 4.0)


def _fine_columns(draws: Plane) -> Plane:
    return _columns(draws, 4.0)


def _frame(draws: Plane) -> Plane:
    distance = np.maximum(*_offsets(draws))
    size = 8 + 3 * draws[0]
    return _inside(distance, size) - _inside(distance, size - 3)


def _cross(draws: Plane) -> Plane:
    down, across = _offsets(draws)
    size = 9 + 3 * draws[0]
    return np.maximum(
        _inside(np.maximum(down, 4 * across), size),
        _inside(np.maximum(4 * down, across), size),
    )


def _diamond(draws: Plane) -> Plane:
    down, across = _offsets(draws)
    return _inside(down + across, 9 + 4 * draws[0])


PATTERNS: dict[str, Pattern] = {
    "fine_rows": _fine_rows,
    "disc": _disc,
    "fine_columns": _fine_columns,
    "frame": _frame,
    "checks": _checks,
    "diamond": _diamond,
    "rows": _rows,
    "cross": _cross,
    "columns": _columns,
    "diagonals": _diagonals,
}
"""Functions from an image's draws, (16,) in [0, 1), to the strength of its pattern, (32, 32) in [0, 1]."""
