from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as reference

import examples
from vanishing.data import dataset as images
from vanishing.data.cifar100 import CLASSES
from vanishing.data.records import DataError, Split
from vanishing.report import samples
from vanishing.training import augmentation

TINY = {"data": {"generated": {"classes": 3, "train_per_class": 14, "test_per_class": 5}, "validation_per_class": 4}}


@pytest.fixture
def settings(tmp_path, monkeypatch, dataset):
    """Parameters of a small study, in a folder with its data: 3 classes, of each 10 training images."""
    monkeypatch.chdir(tmp_path)
    made = examples.study(TINY)
    images.save(made.data.path, dataset)
    return made


def pixels(name):
    return np.asarray(Image.open(samples.FOLDER / name)).transpose(2, 0, 1)


def test_a_page_has_two_images_of_each_class_in_a_row_on_white(settings, dataset):
    samples.write(settings)
    grid = pixels("classes.png")
    assert grid.shape == (3, 36, 206)  # six images of 32 pixels with gaps of 2 between and around them
    shown = [2, 7, 12, 17, 22, 27]  # of the ten of a class, the middles of the two halves
    for place, index in enumerate(shown):
        left = 2 + 34 * place
        assert np.array_equal(grid[:, 2:34, left : left + 32], dataset.train.images[index])
        assert (grid[:, :, left - 2 : left] == 255).all()
    assert (grid[:, [0, 1, 34, 35]] == 255).all()
    assert (grid[:, :, 204:] == 255).all()


def test_the_last_image_of_the_page_is_shown_as_training_sees_it(settings, dataset):
    samples.write(settings)
    grid = pixels("augmented.png")
    assert grid.shape == (3, 2 * 34 + 2, 8 * 34 + 2)
    train = torch.from_numpy(dataset.train.images)
    for epoch in range(16):
        top, left = 2 + 34 * (epoch // 8), 2 + 34 * (epoch % 8)
        expected = train[27]
        if epoch:
            plan = augmentation.draw(30, seed=0, epoch=epoch)
            place = plan.order.tolist().index(27)
            expected = reference.crop(reference.pad(expected, [4]), *plan.offsets[place].tolist(), 32, 32)
            expected = reference.horizontal_flip(expected) if plan.flips[place] else expected
        assert np.array_equal(grid[:, top : top + 32, left : left + 32], expected.numpy())


def test_the_page_is_the_same_bytes_again(settings):
    samples.write(settings)
    first = {path.name: path.read_bytes() for path in samples.FOLDER.iterdir()}
    assert sorted(first) == ["augmented.png", "classes.png", "samples.tex"]
    samples.write(settings)
    assert {path.name: path.read_bytes() for path in samples.FOLDER.iterdir()} == first


def test_another_seed_of_the_study_gives_other_views(settings):
    samples.write(settings)
    before = pixels("augmented.png"), pixels("classes.png")
    samples.write(examples.study(TINY | {"seeds": [1]}))
    assert not np.array_equal(pixels("augmented.png"), before[0])
    assert np.array_equal(pixels("classes.png"), before[1])


def test_data_that_is_missing_is_told_with_the_next_step(settings):
    settings.data.path.unlink()
    with pytest.raises(DataError, match=r"^data/generated\.npz: not there; run `vanishing data`$"):
        samples.write(settings)
    assert not samples.FOLDER.exists()


def test_a_class_without_images_is_told(settings, dataset):
    train = Split(dataset.train.images[:20], dataset.train.labels[:20])
    images.save(settings.data.path, images.Dataset(train, dataset.val, dataset.test, dataset.classes))
    with pytest.raises(DataError, match=r"^data/generated\.npz: a class has no training image; run `vanishing data`$"):
        samples.write(settings)


@pytest.mark.parametrize(("found", "expected"), [(500, [125, 375]), (10, [2, 7]), (3, [0, 2]), (1, [0, 0])])
def test_images_are_the_middles_of_equal_parts(found, expected):
    labels = np.array([1] * 4 + [2] * found, np.uint8)
    assert samples.chosen(labels, 2, 2) == [4 + place for place in expected]


def test_a_row_of_cifar100_is_a_superclass():
    rows = samples.groups(CLASSES)
    assert len(rows) == 20
    assert rows[0] == ("aquatic mammals", ("beaver", "dolphin", "otter", "seal", "whale"))
    assert rows[19] == ("vehicles 2", ("lawn_mower", "rocket", "streetcar", "tank", "tractor"))


def test_the_page_of_cifar100_is_ten_images_wide_and_twenty_high(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(100, dtype=np.uint8), 3)
    train = Split(generator.integers(0, 256, (300, 3, 32, 32), dtype=np.uint8), labels)
    made = examples.study({"data": {"set": "cifar100"}})
    images.save(made.data.path, images.Dataset(train, train, train, CLASSES))
    samples.write(made)
    grid = pixels("classes.png")
    assert grid.shape == (3, 682, 342)
    beaver, tractor = CLASSES.index("beaver"), CLASSES.index("tractor")
    assert np.array_equal(grid[:, 2:34, 2:34], train.images[3 * beaver])
    assert np.array_equal(grid[:, 648:680, 308:340], train.images[3 * tractor + 2])
    text = (samples.FOLDER / "samples.tex").read_text()
    assert r"\begin{picture}(672,682)(-330,0)" in text
    assert r"\samplerow{664}{aquatic mammals\\}{beaver, dolphin, otter, seal, whale}" in text
    assert r"\samplerow{18}{vehicles 2\\}{lawn~mower, rocket, streetcar, tank, tractor}" in text
    assert r"Training images, a superclass a row \citep{krizhevsky2009learning}: 2 of each class" in text
    assert text.count(r"\samplerow{") == 20


def test_generated_classes_stand_by_label_five_in_a_row():
    names = [f"red_{number}" for number in range(7)]
    rows = samples.groups(names)
    assert rows == [("", names[:5]), ("", names[5:])]
    text = samples.page(rows, seed=4, classes=3)
    assert r"\begin{picture}(672,70)(-330,0)" in text
    assert r"\includegraphics[width=342\unitlength]{samples/classes.png}" in text
    assert r"\samplerow{52}{}{red~0, red~1, red~2, red~3, red~4}" in text
    assert r"\samplerow{18}{}{red~5, red~6}" in text
    assert "a few classes a row: 2 of each class" in text
    assert "training with seed 4" in text


def test_the_page_is_no_file_of_git():
    assert "/report/samples/" in (examples.ROOT / ".gitignore").read_text().splitlines()
    assert Path("report/samples") == samples.FOLDER


def test_names_of_any_class_can_be_typeset():
    text = samples.page([("", ["50% & $a_b", "\u732b", "gr\u00f6\u00dfe", "m" * 40])], seed=0, classes=4)
    assert "{50\\% \\& \\$a~b, ?, gr\u00f6\u00dfe, " + "m" * 23 + "\u2026}" in text
    assert "of each class, in the order" in text


def test_of_many_classes_a_page_shows_a_hundred():
    names = [f"{number:03}" for number in range(250)]
    rows = samples.groups(names)
    assert len(rows) == 20
    assert [name for _, row in rows for name in row] == [f"{5 * number // 2:03}" for number in range(100)]
    assert "2 of each of 100 classes, evenly spaced among 250, in the order" in samples.page(rows, seed=0, classes=250)
