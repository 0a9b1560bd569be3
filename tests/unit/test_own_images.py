"""A user's own images: how they are read, recorded, checked, and refused."""

import hashlib
import io
import json
import math
import zipfile
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

import examples
from vanishing import cli, config
from vanishing.data import dataset, own_images
from vanishing.data.archives import SourceError
from vanishing.data.records import DataError, Split, content_hash, digest, hold_out
from vanishing.training import augmentation
from vanishing.verify import run as verification
from vanishing.verify.mismatch import Scope

CLASSES = ("cat", "dog", "eel", "fox", "gnu")


def square(value):
    """Return an image of 32 x 32 pixels that are `value` grey, but for a first one that is black."""
    image = Image.new("RGB", (32, 32), (value, value, value))
    image.putpixel((0, 0), (0, 0, 0))
    return image


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def class_folders(root, counts, split="", first=1):
    """Write so many images of each class, no two alike in a split, and return the folder."""
    value = first
    for name, count in counts.items():
        folder = root / split / name
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"{number}.png").write_bytes(encoded(square(value)))
            value += 1
    return root


@pytest.fixture
def photos(tmp_path):
    """Return class folders of 6, 8 and 10 images with a test set of 2 each."""
    class_folders(tmp_path / "photos", {"cat": 6, "dog": 8, "eel": 10}, "train")
    return class_folders(tmp_path / "photos", dict.fromkeys(CLASSES[:3], 2), "test", first=101)


def silent(_):
    pass


def refused(path, seed=0):
    with pytest.raises(SourceError) as caught:
        own_images.read(path, seed)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def values(split):
    """Return label and grey value of each image."""
    return sorted(zip(split.labels.tolist(), split.images[:, 0, 5, 5].tolist(), strict=True))


def fit(image):
    return own_images.fit(image).transpose(1, 2, 0)


def test_class_folders_are_numbered_by_name_and_any_count_will_do(photos):
    own = own_images.read(photos, 0)
    assert own.classes == ("cat", "dog", "eel")
    assert values(own.train) == [(0, v) for v in range(1, 7)] + [(1, v) for v in range(7, 15)] + [
        (2, v) for v in range(15, 25)
    ]
    assert values(own.test) == [(0, 101), (0, 102), (1, 103), (1, 104), (2, 105), (2, 106)]
    assert not own.drawn
    assert own.notes == ()


def test_the_hash_is_that_of_names_and_sorted_records(photos):
    def record(label, value):
        return bytes([label]) + b"".join(b"\0" + bytes([value]) * 1023 for _ in range(3))

    expected = b"cat\ndog\neel\n"
    expected += b"".join(record(*each) for each in values(own_images.read(photos, 0).train))
    expected += b"".join(record(*each) for each in values(own_images.read(photos, 0).test))
    assert own_images.read(photos, 0).sha256 == hashlib.sha256(expected).hexdigest()


def test_without_a_test_set_a_fifth_of_each_class_is_drawn_by_the_seed(tmp_path):
    photos = class_folders(tmp_path / "photos", {"cat": 5, "dog": 9, "eel": 10})
    own, again, other = (own_images.read(photos, seed) for seed in (0, 0, 1))
    assert own.drawn
    assert np.bincount(own.test.labels).tolist() == [1, 1, 2]
    assert np.bincount(own.train.labels).tolist() == [4, 8, 8]
    assert own.sha256 == again.sha256 != other.sha256
    assert sorted(values(own.train) + values(own.test)) == sorted(values(other.train) + values(other.test))
    smallest = min(
        range(1, 6), key=lambda v: hashlib.sha256(b"\0" * 8 + b"\0" + (b"\0" + bytes([v]) * 1023) * 3).digest()
    )
    assert [v for label, v in values(own.test) if label == 0] == [smallest]


@pytest.mark.parametrize("around", ["", "data/mine"])
@pytest.mark.parametrize("split", ["", "train"])
def test_folders_around_and_archives_change_nothing(tmp_path, around, split):
    plain = own_images.read(class_folders(tmp_path / "plain", {"cat": 5, "dog": 5}), 0)
    folder = class_folders(tmp_path / "wrapped" / around, {"cat": 5, "dog": 5}, split)
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted((tmp_path / "wrapped").rglob("*.png")):
            archive.write(path, path.relative_to(tmp_path / "wrapped"))
    for path in (tmp_path / "wrapped", tmp_path / "photos.zip"):
        assert own_images.read(path, 0).sha256 == plain.sha256, folder


def test_a_class_may_be_called_train(tmp_path):
    assert own_images.read(class_folders(tmp_path / "p", {"bus": 5, "train": 5}), 0).classes == ("bus", "train")


def test_more_than_256_classes_have_labels_of_two_bytes(tmp_path):
    labels = np.repeat(np.arange(300, dtype=np.uint16), 3)
    images = np.zeros((900, 3, 32, 32), np.uint8)
    images[:, 0, 0, 0] = np.tile([0, 1, 2], 300)
    kept, held = hold_out(Split(images, labels), 1, seed=0)
    assert kept.labels.dtype == held.labels.dtype == np.uint16
    assert held.labels.tolist() == list(range(300))
    assert np.bincount(kept.labels).tolist() == [2] * 300
    record = b"\1\1" + images[0].tobytes()  # label 257, the higher byte first
    assert content_hash(Split(images[:1], labels[257 * 3 : 257 * 3 + 1])) == hashlib.sha256(record).hexdigest()
    path, names = tmp_path / "set.npz", tuple(f"class {number}" for number in range(300))
    dataset.save(path, dataset.Dataset(kept, held, held, names))
    assert np.array_equal(dataset.load(path).val.labels, held.labels)
    assert digest(kept, held, names) != digest(kept, held, names[::-1])


def test_every_mode_becomes_red_green_and_blue():
    grey = Image.new("L", (32, 32), 77)
    assert (fit(grey) == 77).all()
    assert (fit(Image.new("1", (32, 32), 1)) == 255).all()
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([9, 9, 9, 10, 20, 30])
    assert (fit(palette) == [10, 20, 30]).all()
    assert (fit(Image.new("CMYK", (32, 32), (255, 0, 0, 0))) == [0, 255, 255]).all()
    deep = Image.fromarray(np.full((32, 32), 0x8CFF, np.uint16))
    assert (fit(deep) == 0x8C).all()  # 16 bits to 8
    assert (fit(Image.open(io.BytesIO(encoded(deep)))) == 0x8C).all()


def test_transparency_shows_white():
    clear = Image.new("RGBA", (32, 32), (200, 0, 0, 0))
    clear.putpixel((3, 4), (200, 0, 0, 255))
    clear.putpixel((5, 4), (0, 0, 0, 51))  # a fifth of black over white
    pixels = fit(clear)
    assert pixels[4, 3].tolist() == [200, 0, 0]
    assert pixels[4, 5].tolist() == [204, 204, 204]
    assert pixels[0, 0].tolist() == [255, 255, 255]
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([1, 2, 3])
    read = Image.open(io.BytesIO(encoded(palette, transparency=0)))
    assert (fit(read) == 255).all()


def test_exif_turns_an_image():
    wide = Image.new("RGB", (32, 32))
    wide.paste((255, 0, 0), (0, 0, 32, 16))  # red above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    pixels = fit(Image.open(io.BytesIO(encoded(wide, exif=exif))))
    assert pixels[:, 16:, 0].min() == 255
    assert pixels[:, :16, 0].max() == 0


def test_the_middle_square_is_resized_by_means_over_the_pixels_that_it_covers():
    wide = np.zeros((64, 100, 3), np.uint8)
    wide[:, :18] = wide[:, 82:] = 255  # outside the middle square of columns 18 to 81
    wide[:, 18:50] = 90
    pixels = fit(Image.fromarray(wide))
    assert pixels.shape == (32, 32, 3)
    assert (pixels[:, :15] == 90).all()
    assert (pixels[:, 17:] == 0).all()  # antialiasing reaches one pixel of the result to each side
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 254
    assert (np.abs(fit(Image.fromarray(checks.astype(np.uint8))).astype(int) - 127) <= 3).all()  # no moire


def test_an_image_of_one_pixel_is_enlarged_and_counted(photos):
    (photos / "train" / "cat" / "0.png").write_bytes(encoded(Image.new("RGB", (1, 1), (1, 2, 3))))
    (photos / "train" / "cat" / "1.png").write_bytes(encoded(Image.new("RGB", (40, 50))))
    (photos / "train" / "notes.txt").write_text("mine")
    own = own_images.read(photos, 0)
    assert own.notes == (
        "images with a side of less than 32 pixels, enlarged: 1",
        "images of another size, cut to their middle square and resized: 1",
        "other files, such as 'train/notes.txt', left out: 1",
    )
    assert [1, 2, 3] in own.train.images[:, :, 7, 9].tolist()


def test_grey_images_of_16_bits_that_hold_12_are_counted(photos):
    for number, most in enumerate((255, 4095, 4096, 65535)):
        grey = Image.fromarray(np.linspace(0, most, 1024).astype(np.uint16).reshape(32, 32))
        (photos / "train" / "cat" / f"{number}.png").write_bytes(encoded(grey, "TIFF" if number else "PNG"))
    assert own_images.read(photos, 0).notes == (
        "grey images of 16 bits with values below 4,096 alone, dark unless you save them as 8 bits: 2",
    )


def test_a_validation_set_of_the_users_is_left_out_by_its_name(photos):
    class_folders(photos, {"cat": 3, "dog": 2}, "val", first=150)
    assert own_images.read(photos, 0).notes == (
        "validation files, such as 'val/cat/0.png', left out; validation is held out of train: 5",
    )
    (photos / "train" / "eel").rename(photos / "train" / "val")
    (photos / "test" / "eel").rename(photos / "test" / "val")
    assert own_images.read(photos, 0).classes == ("cat", "dog", "val")


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", ".ipynb_checkpoints"])
def test_what_systems_leave_beside_images_is_no_class(photos, name):
    before = own_images.read(photos, 0)
    for folder in (photos / "train" / name, photos / name / "train" / "cat", photos / "train" / "cat" / name / "0.png"):
        folder.mkdir(parents=True)
        (folder / "._0.png").write_bytes(b"no image")
        (folder / "0.jpg").write_bytes(b"no image")
    after = own_images.read(photos, 0)
    assert (after.sha256, after.notes) == (before.sha256, ())


def test_a_folder_has_no_limit_but_an_archive_has(photos, tmp_path, monkeypatch):
    table = hugging_face(tmp_path / "p", [], {"0.parquet": [(n % 2, n) for n in range(10)]})
    monkeypatch.setattr("vanishing.data.archives.MEMBERS", 3)
    monkeypatch.setattr("vanishing.data.archives.MEMBER_BYTES", 10)
    monkeypatch.setattr("vanishing.data.layouts.MEMBERS", 3)
    monkeypatch.setattr("vanishing.data.layouts.TOTAL_BYTES", 10)
    assert len(own_images.read(photos, 0).train) == 24
    assert len(own_images.read(table, 0).train) == 8
    monkeypatch.setattr("vanishing.data.archives.MEMBER_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.write(table / "0.parquet", "0.parquet")
    assert refused(tmp_path / "p.zip").startswith("refused: '0.parquet' unpacks to ")


def test_copies_in_train_and_test_and_in_two_classes_are_counted(photos):
    (photos / "test" / "cat" / "copy.png").write_bytes(encoded(square(1)))
    (photos / "test" / "dog" / "copy.png").write_bytes(encoded(square(2)))  # of a cat in train
    assert own_images.read(photos, 0).notes == (
        "test images that are training images too, pixel by pixel: 2 of 8; the test accuracy is too high by what "
        "networks remember of them",
        "images in more than one class: 1",
    )


def test_scaling_by_hand():
    images = np.zeros((2, 3, 32, 32), np.uint8)
    images[1, 0], images[:, 1], images[1, 2, :16] = 255, 51, 255
    mean, std = own_images.scaling(images)
    assert mean == (0.5, 0.2, 0.25)
    assert std == (0.5, 0.0, 0.433)  # sqrt(3) / 4


def test_the_record_says_what_is_needed_before_the_images_are_read(photos):
    record = own_images.record(photos, 0, silent)
    assert (record.title, record.train, record.test, record.seed) == ("photos", [6, 8, 10], [2, 2, 2], None)
    grey = [value for value in range(1, 25) for _ in range(1023)] + [0] * 24
    assert record.mean == [round(np.mean(grey) / 255, 4)] * 3
    assert record.std == [round(np.std(grey) / 255, 4)] * 3
    assert own_images.record(photos / "train", 7, silent).seed == 7  # class folders alone: the test is drawn


def hugging_face(folder, names, tables):
    """Write Parquet files as `datasets` does: images as bytes and paths, labels as numbers of named classes."""
    folder.mkdir(parents=True, exist_ok=True)
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    noted = {"huggingface": json.dumps({"info": {"features": features}})}
    for file, rows in tables.items():
        images = [{"bytes": encoded(square(value)), "path": None} for _, value in rows]
        table = pa.table({"image": images, "label": pa.array([label for label, _ in rows])})
        pq.write_table(table.replace_schema_metadata(noted if names else None), folder / file)
    return folder


def test_parquet_files_of_hugging_face_keep_their_classes(tmp_path):
    train, test = [(label, 10 * label + n) for label in (1, 0) for n in range(4)], [(0, 50), (1, 51)]
    tables = {"train-00000-of-00002.parquet": train[:3], "train-00001-of-00002.parquet": train[3:]}
    folder = hugging_face(tmp_path / "p", ["zebra", "ant"], tables | {"test-00000-of-00001.parquet": test})
    (folder / "validation-00000-of-00001.parquet").write_bytes(b"not read")
    own = own_images.read(folder, 0)
    assert own.classes == ("zebra", "ant")  # by their numbers
    assert values(own.train) == sorted(train)
    assert values(own.test) == test
    assert own.notes == (
        "validation files, such as 'validation-00000-of-00001.parquet', left out; validation is held out of train: 1",
    )


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [(["b", "a"], [], ("a", "b")), ([7, 3], [], ("3", "7")), ([1, 0], ["x", "y"], ("x", "y"))],
)
def test_a_parquet_file_alone_is_drawn_from(tmp_path, labels, names, expected):
    rows = [(label, value) for value, label in enumerate(labels * 5)]
    own = own_images.read(hugging_face(tmp_path / "p", names, {"0000.parquet": rows}), 0)
    assert own.classes == expected
    assert own.drawn
    assert np.bincount(own.test.labels).tolist() == [1, 1]


def bomb():
    """Return the PNG of 20,000 x 20,000 pixels by its header alone."""
    small = bytearray(encoded(Image.new("1", (8, 8))))
    header = b"IHDR" + (20_000).to_bytes(4, "big") * 2 + bytes(small[24:29])
    small[12:29] = header
    small[29:33] = zlib.crc32(header).to_bytes(4, "big")
    return bytes(small)


HOSTILE = {
    "no image": (
        b"GIF89a? no",
        "'train/cat/0.png': no image that can be read; expected one of BMP, GIF, JPEG, PNG, TIFF, WEBP",
    ),
    "cut off": (encoded(square(9))[:-40], "'train/cat/0.png': no image that can be read: "),
    "empty": (b"", "'train/cat/0.png': no image that can be read; expected one of BMP, "),
    "bomb": (bomb(), "'train/cat/0.png': many more pixels than the limit of 67,108,864"),
    "large": (
        encoded(Image.new("1", (9000, 8000))),
        "'train/cat/0.png': 9,000 x 8,000 pixels; the limit is 67,108,864 in all",
    ),
    "of no range": (
        encoded(Image.new("F", (40, 40)), "TIFF"),
        "no image that can be read: grey values of 32 bits (mode F) have no range; save them as 8 or 16 bits",
    ),
    "of whole numbers of no range": (
        encoded(Image.new("I", (40, 40), 200), "TIFF"),
        "no image that can be read: grey values of 32 bits (mode I) have no range; save them as 8 or 16 bits",
    ),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_is_no_usable_image_is_named(photos, content, message):
    (photos / "train" / "cat" / "0.png").write_bytes(content)
    assert message in refused(photos)


def test_folders_that_are_no_data_set_are_refused(photos, tmp_path):
    (photos / "train" / "cow").mkdir()
    assert refused(photos) == "the class folder 'train/cow' has no image; fill it, or remove it"
    (photos / "train" / "cow").rmdir()
    class_folders(photos, {"hen": 2}, "test")
    assert refused(photos) == "the class 'hen' is not in both train and test"
    one = class_folders(tmp_path / "one", {"cat": 5})
    assert refused(one) == "number of classes: found 1, such as 'cat', expected 2 to 65,536"
    assert refused(class_folders(tmp_path / "few", {"cat": 5, "dog": 1})) == (
        "the class 'dog' has one image, of which no test can be drawn"
    )
    assert "'train/a/b/0.png' lies deeper than train/CLASS/" in refused(
        class_folders(tmp_path / "deep", {"a/b": 1, "c/d": 1}, "train")
    )
    spread = class_folders(tmp_path / "spread", {"Train/cat": 1, "Test/cat": 1})
    assert refused(spread).startswith("class folders in 'Test' and in 'Train'; expected train/ and test/ in one folder")
    assert refused(class_folders(tmp_path / "t", {"cat": 1}, "test")) == "test images alone, nothing of train"
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "a.png").write_bytes(encoded(square(1)))
    assert refused(tmp_path / "loose").startswith("'a.png' lies in no class folder; expected train/CLASS/")
    assert refused(tmp_path / "nowhere") == "not there"
    (tmp_path / "loose" / "a.png").unlink()
    assert refused(tmp_path / "loose").startswith("no image in it; expected files of .png, ")


def test_few_training_images_and_images_of_one_value_are_refused(tmp_path):
    few = class_folders(tmp_path / "few", {"cat": 4, "dog": 9}, "train")
    with pytest.raises(SourceError, match=r"^the class 'cat' has 3 training images; expected at least 4, validation"):
        own_images.record(few, 0, silent)
    for name in ("cat", "dog"):
        for number in range(9):
            path = tmp_path / "flat" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(Image.new("RGB", (32, 32), (5, 5, 5))))
    with pytest.raises(SourceError, match=r"^every training image has one and the same value in a channel"):
        own_images.record(tmp_path / "flat", 0, silent)


def test_names_of_any_script_are_classes_and_unprintable_ones_are_not(tmp_path):
    names = {"50% & $": 5, "\u732b": 5, "cafe\u0301": 5}
    assert own_images.read(class_folders(tmp_path / "p", names), 0).classes == ("50% & $", "caf\u00e9", "\u732b")
    assert "has a name that cannot be printed" in refused(class_folders(tmp_path / "q", {"a\nb": 5, "c": 5}))


def test_links_are_followed_in_a_folder_and_end_nowhere_else(photos, tmp_path):
    expected = own_images.read(photos, 0).sha256
    (tmp_path / "linked").symlink_to(photos)
    assert own_images.read(tmp_path / "linked", 0).sha256 == expected
    (photos / "train" / "cat" / "loop").symlink_to(photos / "train")
    assert "lies deeper than train/CLASS/" in refused(photos)
    (photos / "train" / "cat" / "loop").unlink()
    (photos / "train" / "cat" / "gone.png").symlink_to("nowhere.png")
    assert refused(photos) == "'train/cat/gone.png' is not a regular file"


TABLES = {
    "another label": ({"label": [0, None]}, "'train.parquet': the label None belongs to no class"),
    "no class": ({"label": [0, -1]}, "'train.parquet': the label -1 belongs to no class"),
    "no label": ({"kind": [0, 1]}, "expected label or labels or fine_label or class among them"),
    "numbers": ({"label": [0.5, 1.5]}, "the column 'label' is double, expected whole numbers or text"),
    "no pixels": ({"label": [0, 1], "image": [None, None]}, "the column 'image' is null, expected bytes of images"),
    "missing": ({"label": [0, 1], "image": [None, b""]}, "'train.parquet, row 0': no image"),
}


@pytest.mark.parametrize(("columns", "message"), TABLES.values(), ids=TABLES)
def test_a_table_that_cannot_be_used_is_refused(tmp_path, columns, message):
    images = {"image": [encoded(square(value)) for value in (1, 2)]}
    pq.write_table(pa.table(images | columns), tmp_path / "train.parquet")
    assert message in refused(tmp_path)


def test_images_beside_tables_and_what_is_no_table_are_refused(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    assert refused(tmp_path).startswith("'train.parquet': no Parquet file of images: ")
    class_folders(tmp_path, {"cat": 2})
    assert (
        refused(tmp_path) == "both images and Parquet files, such as 'cat/0.png' and 'train.parquet'; expected one kind"
    )


def test_threads_do_not_change_a_byte():
    noise = np.random.default_rng(0).integers(0, 256, (75, 113, 3), dtype=np.uint8)

    def fitted(threads):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        with ThreadPoolExecutor(threads) as pool:
            found = {pixels.tobytes() for pixels in pool.map(fit, [Image.fromarray(noise)] * 8)}
        torch.set_num_threads(before)
        return [hashlib.sha256(pixels).hexdigest()[:16] for pixels in found]

    assert fitted(1) == fitted(4) == ["03c33d43b93812c4"]  # also that of other versions of Pillow, from 12 on


# ---- the record in params.yaml


def overlay(record, places, content=None):
    return config.fitted(content or examples.PROJECT, record, places)


def test_for_enough_images_three_lines_are_all(photos):
    record = own_images.record(photos, 0, silent)
    many = record.model_copy(update={"train": [2000, 3000, 4000]})
    laid = overlay(many, ["photos"])
    assert list(laid) == ["data"]
    assert list(laid["data"]) == ["set", "sources", "folder"]
    assert laid["data"]["folder"]["train"] == [2000, 3000, 4000]
    settings = config.check(config.merge(examples.PROJECT, laid))
    assert settings.data.sizes == (2000 + 3000 + 4000 - 3 * 25, 75, 6)
    assert str(settings.data.path) == "data/folder.npz"


@pytest.mark.parametrize("train", [[4, 5], [6, 8, 10], [40] * 5, [30, 400], [500] * 10])
def test_for_few_images_the_whole_catalogue_fits(photos, train):
    record = own_images.record(photos, 0, silent)
    few = record.model_copy(update={"train": train, "test": [2] * len(train)})
    settings = config.check(config.merge(examples.PROJECT, overlay(few, ["photos"])))
    assert settings.data.validation_per_class == min(25, max(2, min(train) // 4))
    for block in (settings.gradients, *(block for _, block in settings.analyses)):
        assert block.batches * block.batch_size <= settings.data.sizes[0]


def test_the_lines_are_what_params_yaml_reads(photos):
    laid = overlay(own_images.record(photos, 0, silent), ["my photos: 1"])
    path = photos / "overlay.yaml"
    path.write_text(own_images.overlay_text(laid))
    assert config.read(path) == laid


def test_the_lines_replace_a_record_whose_test_set_was_drawn(photos):
    drawn = own_images.record(photos / "train", 7, silent)
    content = config.merge(examples.PROJECT, overlay(drawn, ["photos/train"]))
    laid = overlay(own_images.record(photos, 0, silent), ["photos"], content)
    assert config.check(config.merge(content, laid)).data.own.seed is None


@pytest.fixture
def study(photos, tmp_path, monkeypatch):
    """Return parameters of a small study of these images, in a folder of its own."""
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path / "study")
    content = examples.content()
    content = config.merge(content, overlay(own_images.record(photos, 0, silent), [str(photos)], content))
    Path("params.yaml").write_text(config.text(content))
    return config.load(Path("params.yaml"))


def test_the_configuration_has_the_record_but_neither_title_nor_places(study):
    configuration = study.run("vgg08").configuration()["data"]
    assert set(configuration) == {"recipe", "set", "validation_per_class", "seed", "folder"}
    assert set(configuration["folder"]) == {"sha256", "train", "test", "seed", "mean", "std"}


def test_the_arrays_are_made_and_changed_images_are_refused_in_one_line(study, photos, capsys):
    assert cli.main(["data"]) == 0
    made = dataset.load(study.data.path)
    assert made.classes == ("cat", "dog", "eel")
    assert [len(part) for part in (made.train, made.val, made.test)] == list(study.data.sizes) == [18, 6, 6]
    before = study.data.path.read_bytes()
    (photos / "train" / "cat" / "0.png").write_bytes(encoded(square(200)))
    capsys.readouterr()
    assert cli.main(["data"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    found = own_images.read(photos, 0).sha256
    assert said == (
        f"vanishing data: no source gives data.folder (photos) ({photos}: other images than data.folder records: 24 "
        f"training and 6 test images in 3 classes of SHA-256 {found}, recorded {study.data.folder.sha256}); next: put "
        "the recorded images back, or record other ones by `vanishing images PATH` (docs/own-images.md), and run "
        "`vanishing data`"
    )
    assert study.data.path.read_bytes() == before


def test_a_renamed_class_is_another_set(study, photos):
    (photos / "train" / "cat").rename(photos / "train" / "bat")
    (photos / "test" / "cat").rename(photos / "test" / "bat")
    with pytest.raises(DataError, match=r"other images than data\.folder records"):
        dataset.prepare(study.data, study.data.path, report=silent)


def test_the_command_prints_the_lines_and_asks_for_no_record(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content = examples.content()
    content["data"]["set"] = "folder"  # and nothing recorded yet
    Path("params.yaml").write_text(config.text(content))
    assert cli.main(["models"]) == 2
    assert capsys.readouterr().err == (
        "vanishing models: params.yaml: data.folder = None: allowed: the line that `vanishing images PATH` prints for "
        "your images\n"
    )
    assert cli.main(["images", "photos"]) == 0
    printed = capsys.readouterr().out
    assert cli.main(["images", "photos", "--output", "overlay.yaml"]) == 0
    assert (tmp_path / "overlay.yaml").read_text() == printed
    Path("params.yaml").write_text(config.text(config.merge(content, config.read(Path("overlay.yaml")))))
    assert cli.main(["models"]) == 0
    assert cli.main(["images", "photos", "--seed", "-1"]) == 2
    assert cli.main(["images", "nowhere"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "vanishing images: nowhere: not there"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": 5}, "data = 5: allowed: a mapping"),
        ({"trainable_depth": None}, "trainable_depth = None: allowed: "),
        ({"train": {"batch_size": 0}}, "train.batch_size = 0: allowed: "),
        ({"data": {"seed": -1}}, "data.seed = -1: allowed: "),
    ],
)
def test_a_mistake_in_the_parameters_is_told_before_any_image_is_read(tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path)
    content = examples.content()
    Path("params.yaml").write_text(config.text(config.merge(content, change)))
    assert cli.main(["images", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith(f"vanishing images: params.yaml: {message}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0"}, "data.folder.sha256 = '0': allowed: text that matches"),
        ({"test": [2, 2]}, "data.folder.test = [2, 2]: allowed: a number for each of the 3 classes of train"),
        ({"std": [0.0, 0.1, 0.1]}, "data.folder.std.0 = 0.0: allowed: greater than 0"),
        ({"colour": 1}, "data.folder.colour = 1: unknown key; allowed: title, sha256, train, test, seed, mean, std"),
        ({"title": "\u732b"}, "data.folder.title = '\u732b': allowed: text of one line, in Latin letters"),
    ],
)
def test_a_mistake_in_the_record_is_named(study, change, message):
    content = config.merge(config.read(Path("params.yaml")), {"data": {"folder": change}})
    with pytest.raises(config.ParameterError) as caught:
        config.check(content)
    assert message in str(caught.value)


def test_chance_is_that_of_each_part_of_the_data(study):
    """In training 0.2 ln 10 + 0.8 ln 1.25 nats, in the test 0.2 ln 5 + 0.3 ln(10/3) + 0.5 ln 2."""
    data = examples.own(study.data, train=[100, 100, 800], test=[20, 30, 50])
    assert data.train_counts == [100, 100, 800]
    assert data.chance("train") == pytest.approx((0.639032, 0.8), abs=1e-6)
    assert data.chance("val") == (math.log(3), 1 / 3)
    assert data.chance("test") == pytest.approx((1.029653, 0.5), abs=1e-6)
    assert data.unequal == [*data.chance("train")]


def test_chance_is_one_for_all_parts_where_classes_are_equal(study):
    data = study.data.model_copy(update={"set": "generated"})
    assert {data.chance(part) for part in ("train", "val", "test")} == {(math.log(10), 1 / 10)}
    assert data.unequal == []


def test_training_normalises_by_the_recorded_constants(study):
    scaling = config.Scaling((0.5, 0.4, 0.3), (0.25, 0.2, 0.15))
    assert examples.own(study.data).scaling == scaling
    white = augmentation.normalise(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8), scaling)[0, :, 0, 0]
    assert white.tolist() == pytest.approx([2, 3, 0.7 / 0.15], rel=1e-6)


def test_verify_knows_the_images_by_the_record(study):
    dataset.prepare(study.data, study.data.path, report=silent)
    other = study.data.model_copy(update={"folder": study.data.folder.model_copy(update={"sha256": "0" * 64})})
    for data, expected in ((study.data, []), (other, [f"images of hash {'0' * 64} (data.folder)"])):
        scope = Scope(study.model_copy(update={"data": data}), False, ())
        assert [each.expected for each in verification.images(scope)] == expected


def test_a_run_with_another_split_holds_out_others_of_the_same_images(study):
    dataset.prepare(study.data, study.data.path, report=silent)
    other = dataset.load_split(study.data.model_copy(update={"seed": 5}), 0)
    made = dataset.load(study.data.path)
    assert not np.array_equal(other.val.images, made.val.images)
    assert np.array_equal(other.test.images, made.test.images)


def test_no_note_counts_what_was_not_changed():
    notes = Counter()
    own_images.decode("x", encoded(square(3)), notes)
    assert not notes


def test_the_lines_in_the_documentation_are_all_that_the_study_needs():
    text = (examples.ROOT / "docs" / "own-images.md").read_text()
    laid = config.merge(examples.PROJECT, yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0]))
    settings = config.check(laid)
    assert settings.data.sizes == (5195, 125, 1330)
    laid = config.fitted(examples.PROJECT, settings.data.folder, ["photos"])
    assert {key: list(block) for key, block in laid.items()} == {"data": ["set", "sources", "folder"]}
