from __future__ import annotations

import hashlib

import numpy as np
import pytest

from vanishing.data.records import Split
from vanishing.data.synthetic import COLOURS, PATTERNS, generate


def digest(split: Split) -> str:
    return hashlib.sha256(split.images.tobytes() + split.labels.tobytes()).hexdigest()


def test_shapes_types_and_labels() -> None:
    train, test, names = generate(3, 5, 2, seed=0)
    assert (train.images.shape, train.images.dtype) == ((15, 3, 32, 32), np.uint8)
    assert (test.images.shape, test.labels.dtype) == ((6, 3, 32, 32), np.uint8)
    assert train.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert names == ("red_fine_rows", "red_disc", "green_fine_rows")


def test_the_bytes_are_these() -> None:
    """They enter committed results: a change of a byte is a change of the data set."""
    train, test, _ = generate(100, 2, 1, seed=0)
    assert digest(train) == "c4c1a84bf932d7b5c6236b2a40fb312bdf3628cc7459871d9a7a4f8396fd35f0"
    assert digest(test) == "9d00ef114a858bf27f649f9877f30aeaa227d3e0d4b82027876fc718384b704d"


def test_the_seed_makes_the_images() -> None:
    assert digest(generate(2, 3, 1, 5)[0]) == digest(generate(2, 3, 1, 5)[0])
    assert digest(generate(2, 3, 1, 5)[0]) != digest(generate(2, 3, 1, 6)[0])


def test_an_image_does_not_depend_on_how_many_there_are() -> None:
    few, many = generate(2, 3, 1, 0)[0], generate(10, 30, 2, 0)[0]
    assert np.array_equal(few.images[:3], many.images[:3])
    assert np.array_equal(few.images[3:], many.images[30:33])


def test_no_image_comes_twice() -> None:
    train, test, _ = generate(10, 50, 20, 0)
    images = [image.tobytes() for split in (train, test) for image in split.images]
    assert len(set(images)) == len(images)


def test_a_hundred_classes_have_names_of_their_own() -> None:
    names = generate(100, 1, 1, 0)[2]
    assert len(set(names)) == 100


def test_classes_share_patterns_and_share_colours() -> None:
    parts = [tuple(name.split("_", 1)) for name in generate(10, 1, 1, 0)[2]]
    assert len({colour for colour, _ in parts}) == 5
    assert len({pattern for _, pattern in parts}) == 2
    assert all(colour in COLOURS and pattern in PATTERNS for colour, pattern in parts)


def test_the_mean_colour_does_not_tell_the_classes() -> None:
    """A linear fit of the classes on it is right for about half of the images, as five colours of ten classes give."""
    train, test, _ = generate(10, 60, 60, 0)
    train_means, test_means = (np.c_[s.images.mean((2, 3)), np.ones(len(s))] for s in (train, test))
    weights = np.linalg.lstsq(train_means, np.eye(10)[train.labels], rcond=None)[0]
    accuracy = ((test_means @ weights).argmax(1) == test.labels).mean()
    assert 0.3 < accuracy < 0.65


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_are_strengths_that_vary(pattern: str) -> None:
    one, other = (PATTERNS[pattern](np.full(16, value)) for value in (0.2, 0.7))
    assert one.shape == (32, 32)
    assert 0.0 <= one.min() < 0.05
    assert 0.95 < one.max() <= 1.0
    assert not np.array_equal(one, other)
