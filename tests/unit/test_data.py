from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import SMALL, SMALL_HASHES, png, python, random_split, tar, tree
from PIL import Image

from vanishing import files
from vanishing.config import Address, Data, Generated
from vanishing.data import cifar100, dataset
from vanishing.data.records import DataError, Dataset, Split, canonical, content_hash, hold_out

REAL = Path(__file__).resolve().parents[3] / "shared" / "cifar-100"


def settings(kind: str = "cifar100", places: list[str | Address] | None = None, per_class: int = 1) -> Data:
    size = Generated(classes=3, train_per_class=4, test_per_class=2)
    return Data(recipe=1, set=kind, sources=places or [], validation_per_class=per_class, seed=0, generated=size)  # type: ignore[arg-type]


def flat(labels: list[int], values: list[int]) -> Split:
    """Images of one value each."""
    images = np.broadcast_to(np.array(values, np.uint8)[:, None, None, None], (len(values), 3, 32, 32)).copy()
    return Split(images, np.array(labels, np.uint8))


def record(label: int, value: int) -> bytes:
    return bytes([label]) + bytes([value]) * 3072


def listed(split: Split) -> list[tuple[int, int]]:
    return [(int(label), int(image[0, 0, 0])) for image, label in zip(split.images, split.labels, strict=True)]


def test_canonical_order_is_by_label_then_bytes() -> None:
    assert listed(canonical(flat([1, 0, 1, 0], [5, 200, 128, 3]))) == [(0, 3), (0, 200), (1, 5), (1, 128)]


def test_canonical_compares_unsigned_bytes_from_the_first() -> None:
    split = flat([0, 0, 0], [0, 0, 0])
    split.images[0, 0, 0, 0], split.images[1, 2, 31, 31], split.images[2, 0, 0, 1] = 1, 255, 128
    ordered = canonical(split).images
    assert [int(image.argmax()) for image in ordered] == [3071, 1, 0]


def test_content_hash_is_that_of_the_sorted_records() -> None:
    expected = hashlib.sha256(record(0, 3) + record(0, 200) + record(1, 5)).hexdigest()
    assert content_hash(flat([1, 0, 0], [5, 200, 3])) == expected


@given(st.permutations(range(12)))
def test_neither_hash_nor_order_depends_on_the_order_of_the_images(order: list[int]) -> None:
    split = flat([i % 3 for i in range(12)], [7 * i % 5 for i in range(12)])
    shuffled = Split(split.images[order], split.labels[order])
    assert content_hash(shuffled) == content_hash(split)
    assert listed(canonical(shuffled)) == listed(canonical(split))
    assert [listed(part) for part in hold_out(shuffled, 2, 3)] == [listed(part) for part in hold_out(split, 2, 3)]


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
def test_hold_out_takes_the_smallest_salted_hashes_of_each_class(seed: int) -> None:
    train, val = hold_out(flat([0] * 5 + [1] * 5, list(range(5)) * 2), 2, seed)
    expected = [
        (label, value)
        for label in (0, 1)
        for value in sorted(
            sorted(range(5), key=lambda v: hashlib.sha256(seed.to_bytes(8, "big") + record(label, v)).digest())[:2]
        )
    ]
    assert listed(val) == expected
    assert sorted(listed(train) + listed(val)) == [(label, value) for label in (0, 1) for value in range(5)]


def test_hold_out_with_another_seed_takes_others() -> None:
    split = random_split(10, 0, classes=3)
    assert content_hash(hold_out(split, 3, 0)[1]) != content_hash(hold_out(split, 3, 1)[1])


def test_hold_out_leaves_a_training_image_of_each_class() -> None:
    with pytest.raises(DataError, match=r"^data\.validation_per_class = 2: class 1 has only 2 images; allowed: fewer"):
        hold_out(flat([0, 0, 0, 1, 1], [1, 2, 3, 4, 5]), 2, 0)


def small_dataset() -> Dataset:
    return Dataset(flat([0, 1], [1, 2]), flat([1], [3]), flat([0], [4]), ("cat", "whale"))


def test_save_and_load_return_the_same(tmp_path: Path) -> None:
    path = tmp_path / "new" / "set.npz"
    dataset.save(path, small_dataset())
    loaded = dataset.load(path)
    assert loaded.classes == ("cat", "whale")
    assert [listed(part) for part in (loaded.train, loaded.val, loaded.test)] == [[(0, 1), (1, 2)], [(1, 3)], [(0, 4)]]
    with np.load(path) as archive:
        assert archive["classes"].dtype == "<U5"
        assert archive.files == [f"{s}_{k}" for s in ("train", "val", "test") for k in ("images", "labels")] + [
            "classes"
        ]


def test_save_gives_the_same_bytes_and_leaves_nothing_else(tmp_path: Path) -> None:
    for name in ("one.npz", "other.npz"):
        dataset.save(tmp_path / name, small_dataset())
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "other.npz").read_bytes()
    assert tree(tmp_path) == ["one.npz", "other.npz"]
    with zipfile.ZipFile(tmp_path / "one.npz") as archive:
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}


def test_save_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"file'$"):
        dataset.save(tmp_path / "file" / "set.npz", small_dataset())


GOOD = {f"{part}_images": np.zeros((2, 3, 32, 32), np.uint8) for part in ("train", "val", "test")} | {
    f"{part}_labels": np.array([0, 1], np.uint8) for part in ("train", "val", "test")
}
NAMES = {"classes": np.array(["cat", "whale"])}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (GOOD, "found the arrays 'test_images', "),
        (GOOD | NAMES | {"more": np.zeros(1)}, "'more'"),
        (GOOD | {"classes": np.zeros(2)}, "classes: found float64 of shape (2,), expected text of shape (C,)"),
        (
            GOOD | NAMES | {"val_images": np.zeros((2, 32, 32, 3), np.uint8)},
            "val_images: found uint8 of shape (2, 32, 32, 3), expected uint8 of shape (N, 3, 32, 32)",
        ),
        (GOOD | NAMES | {"val_images": np.zeros((2, 3, 32, 32))}, "val_images: found float64 of shape (2, 3, 32, 32)"),
        (
            GOOD | NAMES | {"test_labels": np.zeros(3, np.uint8)},
            "test_labels: found uint8 of shape (3,), expected uint8 of shape (2,)",
        ),
        (GOOD | NAMES | {"train_labels": np.zeros(2, np.int64)}, "train_labels: found int64 of shape (2,)"),
        (
            GOOD | NAMES | {"train_labels": np.array([0, 2], np.uint8)},
            "train_labels: found label 2, expected 0 to 1",
        ),
        (
            GOOD | NAMES | {"val_images": np.zeros((0, 3, 32, 32), np.uint8), "val_labels": np.zeros(0, np.uint8)},
            "val_images: found no image, expected at least one",
        ),
        (GOOD | {"classes": np.array([object()])}, "Object arrays cannot be loaded"),
    ],
)
def test_load_names_file_found_expected_and_next_step(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    check_load_error(path, message)


def check_load_error(path: Path, message: str) -> None:
    with pytest.raises(DataError) as caught:
        dataset.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert message in text
    assert text.endswith("; run `vanishing data`")
    assert "\n" not in text
    assert caught.value.exit_code == 1


def test_load_of_a_missing_file(tmp_path: Path) -> None:
    check_load_error(tmp_path / "set.npz", "not there")


@pytest.mark.parametrize("damage", ["cut", "flip", "npy", "empty", "folder"])
def test_load_of_a_damaged_file(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "set.npz"
    dataset.save(path, small_dataset())
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-100])
    elif damage == "flip":
        content[1000] ^= 1
        path.write_bytes(content)
    elif damage == "npy":
        with path.open("wb") as handle:
            np.save(handle, np.zeros(3))
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        path.mkdir()
    check_load_error(path, "cannot be read as an archive of arrays")


def test_prepare_reads_checks_holds_out_and_saves(tmp_path: Path) -> None:
    source = tar(tmp_path / "set.tar.gz", python(tmp_path / "raw"))
    lines: list[str] = []
    target = tmp_path / "out" / "set.npz"
    dataset.prepare(settings(places=[str(source)]), target, report=lines.append, expected=SMALL_HASHES)
    made = dataset.load(target)
    assert (len(made.train), len(made.val), len(made.test)) == (100, 100, 100)
    assert np.array_equal(np.bincount(made.val.labels), np.ones(100))
    assert made.classes == cifar100.CLASSES
    assert content_hash(made.test) == SMALL_HASHES.test
    both = [np.concatenate([getattr(made.train, f), getattr(made.val, f)]) for f in ("images", "labels")]
    assert content_hash(Split(*both)) == SMALL_HASHES.train
    assert lines == [
        f"{source}: the images of CIFAR-100, by their content",
        f"{target}: 100 training, 100 validation and 100 test images",
    ]
    assert tree(target.parent) == ["set.npz"]


def test_prepare_takes_given_sources_instead_of_the_configured(tmp_path: Path) -> None:
    source = python(tmp_path / "raw")
    target = tmp_path / "set.npz"
    configured = settings(places=["/nowhere"])
    lines: list[str] = []
    dataset.prepare(configured, target, [source], lines.append, expected=SMALL_HASHES)
    assert not any("/nowhere" in line for line in lines)
    with pytest.raises(DataError, match=r"no source gives CIFAR-100 \(data\.sources is empty\)"):
        dataset.prepare(configured, target, [], lines.append, expected=SMALL_HASHES)


def test_prepare_leaves_the_target_alone_when_no_source_works(tmp_path: Path) -> None:
    target = tmp_path / "out" / "set.npz"
    target.parent.mkdir()
    target.write_bytes(b"the old one")
    with pytest.raises(DataError):
        dataset.prepare(settings(places=[str(python(tmp_path / "raw"))]), target, report=lambda _: None)
    assert target.read_bytes() == b"the old one"
    assert tree(target.parent) == ["set.npz"]


@pytest.mark.parametrize("seed", [0, 5])
def test_a_run_reads_the_split_that_its_seed_would_have_made(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    block = settings(places=[str(python(tmp_path / "raw"))])
    other = block.model_copy(update={"seed": 5})
    wanted = tmp_path / "wanted.npz"
    for each, target in ((block, block.path), (block.model_copy(update={"seed": seed}), wanted)):
        dataset.prepare(each, target, report=lambda _: None, expected=SMALL_HASHES)
    dataset.save(tmp_path / "split.npz", dataset.load_split(other if seed else block, 0))
    assert (tmp_path / "split.npz").read_bytes() == wanted.read_bytes()
    assert (wanted.read_bytes() == block.path.read_bytes()) == (seed == 0)


def test_prepare_makes_the_generated_set(tmp_path: Path) -> None:
    target = tmp_path / "generated.npz"
    dataset.prepare(settings("generated"), target, report=lambda _: None)
    made = dataset.load(target)
    assert (len(made.train), len(made.val), len(made.test), len(made.classes)) == (9, 3, 6, 3)


def test_names_of_cifar100_are_a_hundred_in_alphabetical_order() -> None:
    assert len(cifar100.CLASSES) == 100
    assert list(cifar100.CLASSES) == sorted(set(cifar100.CLASSES))
    assert cifar100.CLASSES[:3] == ("apple", "aquarium_fish", "baby")
    assert (cifar100.CLASSES[26], cifar100.CLASSES[99]) == ("crab", "worm")


def test_twenty_superclasses_share_the_hundred_classes_evenly() -> None:
    groups = cifar100.SUPERCLASSES
    assert [len(group) for group in groups.values()] == [5] * 20
    assert {name for group in groups.values() for name in group} == set(cifar100.CLASSES)
    assert groups["trees"] == ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree")
    assert list(groups) == sorted(groups)


def real_images() -> dict[str, list[tuple[str, str, bytes]]]:
    """(name, class, PNG) of every image of the mosaics."""
    images: dict[str, list[tuple[str, str, bytes]]] = {"train": [], "test": []}
    with (REAL / "labels.csv").open(newline="") as handle:
        rows = {split: [] for split in images}  # type: dict[str, list[dict[str, str]]]
        for row in csv.DictReader(handle):
            rows[row["split"]].append(row)
    for split, found in images.items():
        mosaics = (np.asarray(Image.open(path)) for path in sorted((REAL / "images").glob(f"{split}-*.webp")))
        tiles = (tile for m in mosaics for tile in m.reshape(40, 32, 25, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3))
        for row, tile in zip(rows[split], tiles, strict=True):
            found.append((row["name"], row["label"], png(tile.transpose(2, 0, 1), level=0)))
    return images


def write_real_folders(target: Path, images: dict[str, list[tuple[str, str, bytes]]]) -> None:
    with tarfile.open(target, "w") as archive:
        for split, rows in images.items():
            for name, label, content in rows:
                info = tarfile.TarInfo(f"CIFAR100/{split}/{label}/{name}.png")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def write_real_parquet(folder: Path, images: dict[str, list[tuple[str, str, bytes]]]) -> None:
    folder.mkdir()
    numbers = {name: number for number, name in enumerate(cifar100.CLASSES)}
    for split, rows in images.items():
        cells = [{"bytes": content, "path": f"{name}.png"} for name, _, content in rows]
        table = pa.table({"img": cells, "fine_label": [numbers[label] for _, label, _ in rows]})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


@pytest.mark.skipif(not REAL.exists(), reason=f"the images of CIFAR-100 are not at {REAL}")
def test_the_real_images_give_the_same_bytes_from_every_layout(tmp_path: Path) -> None:
    subprocess.run([sys.executable, REAL / "build_archive.py", tmp_path], check=True, stdout=subprocess.DEVNULL)
    images = real_images()
    write_real_folders(tmp_path / "folders.tar", images)
    write_real_parquet(tmp_path / "parquet", images)
    hashes = set()
    for source in ("cifar-100-python.tar.gz", "folders.tar", "parquet"):
        target = tmp_path / "out" / f"{source}.npz"
        dataset.prepare(settings(per_class=25), target, [tmp_path / source], lambda _: None)
        hashes.add(files.sha256(target))
    assert len(hashes) == 1
    made = dataset.load(target)
    assert (len(made.train), len(made.val), len(made.test)) == (47_500, 2_500, 10_000)
    assert set(np.bincount(made.val.labels)) == {25}
    assert made.classes == cifar100.CLASSES
    assert content_hash(made.test) == "b9ad4d741ee82873becf8846c246715e789a57766586a9677a8bbe26c8b30279"
    both = [np.concatenate([getattr(made.train, f), getattr(made.val, f)]) for f in ("images", "labels")]
    assert content_hash(Split(*both)) == "37a2b72bd30f9438ff20798c661450f58f138c034f556846cd744a56bbb09967"


def test_the_small_set_is_the_same_everywhere() -> None:
    """The other tests stand on it."""
    assert {len(SMALL["train"]), len(SMALL["test"])} == {200, 100}
