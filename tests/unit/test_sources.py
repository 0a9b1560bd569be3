from __future__ import annotations

import functools
import gzip
import hashlib
import io
import os
import pickle
import socket
import ssl
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import certificates
import layouts
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layouts import SMALL, SMALL_HASHES, member, tar, tar_of, tree, zip_of, zipped
from PIL import Image

from vanishing.config import Address
from vanishing.data import cifar100, downloads, sources
from vanishing.data.archives import MEMBER_BYTES, SourceError
from vanishing.data.cifar100 import CLASSES
from vanishing.data.records import DataError, Split, content_hash
from vanishing.errors import UserError

LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "python": layouts.python,
    "python-new-numpy": lambda folder: layouts.python(folder, core=b"numpy._core"),
    "python-protocol-0": lambda folder: layouts.python(folder, protocol=0),
    "python-protocol-5": lambda folder: layouts.python(folder, protocol=5),
    "binary": layouts.binary,
    "folders": layouts.folders,
    "superclass-folders": lambda folder: layouts.folders(folder, superclass=True),
    "parquet": layouts.parquet,
    "parquet-of-bytes-in-shards": lambda folder: layouts.parquet(folder, struct=False, shards=3),
}


def silent(_: str) -> None: ...


def check_small(splits: tuple[Split, Split]) -> None:
    assert tuple(map(content_hash, splits)) == (SMALL_HASHES.train, SMALL_HASHES.test)


def check_refused(path: Path, *parts: str) -> None:
    """Reading fails with one line that has `parts`, and leaves nothing behind."""
    before = tree(path.parent)
    with pytest.raises(SourceError) as caught:
        sources.read(path, silent)
    assert_line(caught.value, *parts)
    assert tree(path.parent) == before


def assert_line(error: UserError, *parts: str) -> None:
    assert " at 0x" not in str(error)
    for part in parts:
        assert part in str(error)
    assert "\n" not in str(error)
    assert error.exit_code == 1


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the directory of a layout, written once, to be read only: class folders are hundreds of files."""
    root = tmp_path_factory.mktemp("layouts")
    return functools.cache(lambda layout: LAYOUTS[layout](root / layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("container", ["", "set.tar", "set.tar.gz", "set.zip"])
def test_every_layout_gives_the_same_images(
    tmp_path: Path, written: Callable[[str], Path], layout: str, container: str
) -> None:
    path = written(layout)
    if container:
        pack = zipped if container.endswith("zip") else tar
        path = pack(tmp_path / container, path, "some/folder")
    check_small(sources.read(path, silent))


def test_a_folder_around_the_layout_and_other_files_do_not_matter(tmp_path: Path) -> None:
    layouts.python(tmp_path / "source" / "cifar-100-python")
    (tmp_path / "source" / "README").write_text("mine")
    (tmp_path / "source" / "link").symlink_to("/etc/hostname")
    check_small(sources.read(tmp_path / "source", silent))


def test_an_archive_without_suffix_is_known_by_its_bytes(tmp_path: Path) -> None:
    path = tar(tmp_path / "set.tgz", layouts.binary(tmp_path / "raw")).rename(tmp_path / "download")
    check_small(sources.read(path, silent))


def test_a_broken_layout_beside_a_whole_one_is_passed_over(tmp_path: Path) -> None:
    layouts.python(tmp_path / "source" / "python", {"train": SMALL["train"]})
    layouts.binary(tmp_path / "source" / "binary")
    check_small(sources.read(tmp_path / "source", silent))


def test_a_class_named_train_is_no_split(written: Callable[[str], Path]) -> None:
    assert "train" in CLASSES
    folder = written("superclass-folders")
    assert list((folder / "test").rglob("train/*.png"))
    check_small(sources.read(folder, silent))


def test_missing_empty_and_half_sources(tmp_path: Path) -> None:
    check_refused(tmp_path / "nowhere", "not there")
    (tmp_path / "empty").mkdir()
    check_refused(tmp_path / "empty", "nothing of CIFAR-100 in it", "class folders", "Parquet")
    check_refused(layouts.binary(tmp_path / "half", {"train": SMALL["train"]}), "nothing of the test split")
    (tmp_path / "text").write_text("no archive")
    check_refused(tmp_path / "text", "no whole tar archive")
    check_refused(zip_of(tmp_path / "empty.zip"), "nothing of CIFAR-100 in it")
    os.mkfifo(tmp_path / "pipe")
    check_refused(tmp_path / "pipe", "neither a file nor a directory")


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    folder = layouts.python(tmp_path / "raw")
    (folder / "test").unlink()
    (folder / "test").symlink_to("test")
    check_refused(folder, "'test' ")


# Archives


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (member("../train"), "'../train' leads out of the archive"),
        (member("a/../../train"), "'a/../../train' leads out"),
        (member("/etc/train"), "'/etc/train' leads out"),
        (member("..\\train"), "leads out"),
        (member("train", kind=tarfile.SYMTYPE, link="/etc/passwd"), "'train' is not a regular file"),
        (member("train", kind=tarfile.LNKTYPE, link="test"), "'train' is not a regular file"),
        (member("train", kind=tarfile.CHRTYPE), "'train' is not a regular file"),
        (member("train", kind=tarfile.BLKTYPE), "'train' is not a regular file"),
        (member("train", kind=tarfile.FIFOTYPE), "'train' is not a regular file"),
        (member("a\nb", kind=tarfile.FIFOTYPE), "'a\\nb' is not a regular file"),
    ],
)
def test_hostile_members_refuse_the_archive_by_name(tmp_path: Path, info: tarfile.TarInfo, reason: str) -> None:
    whole = [(member(name, len(c)), c) for name, c in ((n, layouts.pickled(s)) for n, s in SMALL.items())]
    check_refused(tar_of(tmp_path / "set.tar", *whole, (info, b"")), "refused: the member", reason)


@pytest.mark.parametrize("name", ["train", "unwanted"])
def test_a_member_that_declares_a_huge_size_is_refused_unread(tmp_path: Path, name: str) -> None:
    path = tmp_path / "set.tar"
    path.write_bytes(member(name, MEMBER_BYTES + 1).tobuf() + bytes(1024))
    check_refused(path, f"refused: {name!r} says it has 268,435,457 bytes; the limit is 268,435,456")


def test_a_header_that_declares_a_huge_size_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    path.write_bytes(member("long", 1 << 40, tarfile.GNUTYPE_LONGNAME).tobuf() + bytes(1024))
    check_refused(path, "no whole tar archive")


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vanishing.data.archives.TOTAL_BYTES", 1 << 16)
    content = bytes(1 << 17)
    path = tar_of(tmp_path / "set.tar", (member("zeros", len(content)), content))
    path.write_bytes(gzip.compress(path.read_bytes()))
    check_refused(path, "refused: unpacks to more than the limit of 65,536 bytes")


@pytest.mark.parametrize("damage", ["cut", "flip", "tail"])
def test_a_damaged_gzip_is_refused(tmp_path: Path, damage: str) -> None:
    path = tar(tmp_path / "set.tar.gz", layouts.binary(tmp_path / "raw"))
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2 if damage == "flip" else -6] ^= 255
    path.write_bytes(content)
    check_refused(path, "no whole tar archive")


def test_a_tar_cut_between_members_is_no_whole_layout(tmp_path: Path) -> None:
    content = layouts.pickled(SMALL["train"])
    path = tar_of(tmp_path / "set.tar", (member("train", len(content)), content))
    check_refused(path, "the python layout, but nothing of the test split")


def entry(name: str, mode: int = 0, method: int = zipfile.ZIP_STORED) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr, info.compress_type = mode << 16, method
    return info


def whole() -> list[tuple[zipfile.ZipInfo, bytes]]:
    return [(entry(name), layouts.pickled(split)) for name, split in SMALL.items()]


def test_the_archive_of_kaggle_is_read(tmp_path: Path) -> None:
    """It has the three pickled files of the official archive, without a folder, and an editor's copy of a list."""
    raw = layouts.python(tmp_path / "raw")
    (raw / "file.txt~").write_text("train\ntest\n")
    folder = tmp_path / "source"
    folder.mkdir()
    path = zipped(folder / "archive.zip", raw)
    lines: list[str] = []
    check_small(sources.read_first([str(folder)], SMALL_HASHES, tmp_path / "cache", lines.append))
    assert lines == [f"{path}: the images of CIFAR-100, by their content"]


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (entry("../train"), "'../train' leads out of the archive"),
        (entry("a/../../train"), "'a/../../train' leads out"),
        (entry("/etc/train"), "'/etc/train' leads out"),
        (entry("..\\train"), "leads out"),
        (entry("x/train", stat.S_IFLNK | 0o777), "'x/train' is not a regular file"),
        (entry("unwanted", stat.S_IFLNK | 0o777), "'unwanted' is not a regular file"),
        (entry("x/train", stat.S_IFCHR | 0o666), "'x/train' is not a regular file"),
        (entry("a\nb", stat.S_IFIFO), "'a\\nb' is not a regular file"),
        (entry("some/train", method=zipfile.ZIP_BZIP2), "'some/train' is packed by method 12; pack it by deflate"),
        (entry("some/train", method=zipfile.ZIP_LZMA), "'some/train' is packed by method 14; pack it by deflate"),
    ],
)
def test_hostile_members_refuse_a_zip_archive_by_name(tmp_path: Path, info: zipfile.ZipInfo, reason: str) -> None:
    check_refused(zip_of(tmp_path / "set.zip", *whole(), (info, b"x")), "refused: the member", reason)


def test_members_that_are_not_read_may_be_packed_in_any_way(tmp_path: Path) -> None:
    check_small(sources.read(zip_of(tmp_path / "s", *whole(), (entry("README", method=zipfile.ZIP_LZMA), b"")), silent))


def changed(path: Path, *changes: tuple[int, bytes]) -> Path:
    """Write bytes at offsets of the list's first entry: what it says of a member."""
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\1\2")
    for offset, value in changes:
        content[start + offset : start + offset + len(value)] = value
    path.write_bytes(content)
    return path


def test_a_zip_archive_under_a_password_is_refused(tmp_path: Path) -> None:
    path = changed(zip_of(tmp_path / "set.zip", *whole()), (8, b"\1"))
    check_refused(path, "refused: the member 'train' is encrypted")


@pytest.mark.parametrize(("offset", "value", "reason"), [
    (16, b"nope", "no whole zip archive: Bad CRC-32 for file 'train'"),
    (24, b"\0\1\0\0", "no whole zip archive: Bad CRC-32"),  # longer than it says: no more than that is unpacked
    (24, b"\xff\xff\xff\x7f", "'train' says it has 2,147,483,647 bytes; the limit is 268,435,456"),
    (42, b"\xff\xff\xff\x0f", "no whole zip archive"),
    (8, b"\x20", "no whole zip archive: compressed patched data"),
])  # fmt: skip
def test_a_zip_member_that_lies_is_refused(tmp_path: Path, offset: int, value: bytes, reason: str) -> None:
    check_refused(changed(zip_of(tmp_path / "set.zip", *whole()), (offset, value)), reason)


def test_a_zip_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vanishing.data.archives.TOTAL_BYTES", 1 << 16)
    path = zip_of(tmp_path / "set.zip", *((entry(f"{n}", method=zipfile.ZIP_DEFLATED), bytes(1 << 15)) for n in "abc"))
    assert path.stat().st_size < 1 << 10
    check_refused(path, "refused: unpacks to more than the limit of 65,536 bytes")


def test_a_zip_archive_of_too_many_members_is_refused_before_its_list_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zip_of(tmp_path / "set.zip", *((entry(f"{n}"), b"") for n in range(4)))
    monkeypatch.setattr("vanishing.data.archives.MEMBERS", 3)
    monkeypatch.delattr("zipfile.ZipFile")
    check_refused(path, "refused: more than 3 members")


@pytest.mark.parametrize("damage", ["cut", "end", "flip"])
def test_a_damaged_zip_archive_is_refused(tmp_path: Path, damage: str) -> None:
    path = zipped(tmp_path / "set.zip", layouts.binary(tmp_path / "raw"))
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 255
    else:
        del content[len(content) // 2 if damage == "cut" else -1 :]
    path.write_bytes(content)
    check_refused(path, "no whole zip archive")


def test_a_tar_archive_whose_first_name_begins_like_a_zip_archive_is_read(tmp_path: Path) -> None:
    check_small(sources.read(tar(tmp_path / "set.tar", layouts.binary(tmp_path / "raw"), "PK"), silent))


# Pickles


class Calling:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def python_with(folder: Path, content: bytes) -> Path:
    layouts.python(folder)
    (folder / "test").write_bytes(content)
    return folder


def fields(**changes: object) -> bytes:
    values = {"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0, 99]}
    return pickle.dumps(values | changes, 2)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_calls_the_system_is_read_for_its_images_and_calls_nothing(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "called"
    folder = layouts.python(tmp_path / "raw")
    test = SMALL["test"]
    rows, labels = test.images.reshape(len(test), -1), test.labels.tolist()
    call = Calling(os.system, f"touch {mark}")
    coarse = np.array(labels) // 5
    values = {"first": call, "coarse": coarse, "data": rows, "fine_labels": labels, "coarse_labels": [0] * len(rows)}
    content = pickle.dumps(values | {"last": call}, protocol)
    (folder / "test").write_bytes(content)
    check_small(sources.read(folder, silent))
    assert not mark.exists()
    pickle.loads(content)  # noqa: S301 - it does call where it is loaded
    assert mark.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (fields(data=np.zeros((2, 3071), np.uint8)), "found 6,142 bytes of pixels and 2 labels, expected 3,072 bytes"),
        (fields(data=np.zeros((2, 3072), "f4")), "found 24,576 bytes of pixels and 2 labels"),
        (fields(data=None), "bytes of pixels and 2 labels"),
        (fields(data=Calling(eval, "1")), "bytes of pixels and 2 labels"),
        (fields(fine_labels=[0]), "found 6,144 bytes of pixels and 1 labels"),
        (fields(fine_labels=None), "found 6,144 bytes of pixels and 0 labels"),
        (fields(fine_labels=[0, True]), "found 6,144 bytes of pixels and 1 labels"),
        (fields(fine_labels=[0, 100]), "found the label 100, expected 0 to 99"),
        (fields(fine_labels=[0, -1]), "found the label -1, expected 0 to 99"),
        (pickle.dumps([1, 2], 2), "found 0 bytes of pixels and 0 labels"),
        (pickle.dumps("\u6df1" * 3072), "no pickle of CIFAR-100: 'latin-1' codec can't encode"),
        (b"", "no pickle of CIFAR-100"),
        (b"no pickle at all", "no pickle of CIFAR-100"),
        (layouts.pickled(SMALL["test"])[:-1000], "no pickle of CIFAR-100"),
        (b"\x80\x04\x8e" + b"\xff" * 8 + b"x.", "no pickle of CIFAR-100"),
    ],
)
def test_pickles_of_anything_else_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    check_refused(python_with(tmp_path / "raw", content), "'test': ", reason)


def test_pickles_of_python_2_are_read(tmp_path: Path) -> None:
    """Their bytes are short and long strings, written here by hand, and the labels come before the pixels."""
    folder = layouts.python(tmp_path / "raw")
    for name, split in SMALL.items():
        pixels = split.images.tobytes()
        labels = b"".join(b"K" + bytes([label]) for label in split.labels)
        array = b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        array += b"M" + len(split).to_bytes(2, "little") + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        array += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        array += len(pixels).to_bytes(4, "little") + pixels + b"tb"
        (folder / name).write_bytes(b"\x80\x02}q\x01(U\x0bfine_labelsq\x02](" + labels + b"eU\x04data" + array + b"u.")
    check_small(sources.read(folder, silent))


def test_arrays_in_columns_are_read_in_their_order(tmp_path: Path) -> None:
    folder = layouts.python(tmp_path / "raw")
    for name, split in SMALL.items():
        rows = np.asfortranarray(split.images.reshape(len(split), -1))
        (folder / name).write_bytes(fields(data=rows, fine_labels=split.labels.tolist()))
    check_small(sources.read(folder, silent))


# Binary records, images, Parquet


def test_binary_records_of_another_size_or_label_are_refused(tmp_path: Path) -> None:
    folder = layouts.binary(tmp_path / "raw")
    content = (folder / "test.bin").read_bytes()
    (folder / "test.bin").write_bytes(content[:-1])
    check_refused(folder, "'test.bin': found 307,399 bytes, expected records of 3,074 bytes each")
    (folder / "test.bin").write_bytes(content[:1] + b"\x64" + content[2:])
    check_refused(folder, "'test.bin': found the label 100, expected 0 to 99")


def encoded(mode: str, size: tuple[int, int], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG that declares 50,000 x 50,000 pixels and has none."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    packed = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encoded("RGB", (33, 32)), "found 33 x 32 pixels of mode RGB, expected 32 x 32 of mode RGB"),
        (encoded("RGB", (10_000, 10_000)), "found 10000 x 10000 pixels"),
        (encoded("P", (32, 32)), "found 32 x 32 pixels of mode P, expected 32 x 32 of mode RGB"),
        (encoded("L", (32, 32)), "mode L"),
        (encoded("RGBA", (32, 32)), "mode RGBA"),
        (encoded("RGB", (32, 32), "JPEG"), "no PNG image"),
        (encoded("RGB", (32, 32))[:-30], "no PNG image"),
        (bomb(), "no PNG image: Image size (2500000000 pixels) exceeds limit"),
        (b"", "no PNG image"),
    ],
    ids=["size", "large", "palette", "grey", "alpha", "jpeg", "cut", "bomb", "empty"],
)
def test_images_of_another_kind_are_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tar_of(tmp_path / "set.tar", (member("test/apple/odd.png", len(content)), content))
    check_refused(path, "'test/apple/odd.png': ", reason)


def test_class_folders_must_be_the_same_hundred_on_both_sides(tmp_path: Path) -> None:
    folder = layouts.folders(tmp_path / "raw")
    (folder / "test" / "worm").rename(folder / "test" / "snake_like")
    check_refused(folder, "class folders: 'snake_like' is not in both train and test")
    extra = folder / "train" / "zebra" / "1.png"
    extra.parent.mkdir()
    extra.write_bytes(encoded("RGB", (32, 32)))
    check_refused(folder, "class folders: found 101 in train, expected 100")


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"img": [b""], "fine": [0]}, "found the columns ['img', 'fine'], expected fine_label or label among them"),
        ({"photo": [b""], "label": [0]}, "expected img or image among them"),
        ({"img": ["text"], "label": [0]}, "the column 'img' is string, expected bytes of images"),
        ({"img": [{"path": "x"}], "label": [0]}, "the column 'img' has no field 'bytes'"),
        ({"img": [None, b""], "label": [0, 1]}, "no image"),
        ({"img": [encoded("RGB", (9, 9))], "label": [0]}, "'test.parquet, row 0': found 9 x 9 pixels"),
        ({"img": [encoded("RGB", (32, 32))], "label": [100]}, "found the label 100, expected 0 to 99"),
        ({"img": [encoded("RGB", (32, 32))] * 2, "label": [0, None]}, "found the label None, expected 0 to 99"),
        ({"img": [encoded("RGB", (32, 32))], "label": ["apple"]}, "the column 'label' is string, expected integers"),
    ],
)
def test_parquet_files_of_another_kind_are_refused(
    tmp_path: Path, columns: dict[str, list[object]], reason: str
) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    pq.write_table(pa.table(columns), folder / "test.parquet")
    check_refused(folder, "test.parquet", reason)


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    folder = layouts.parquet(tmp_path / "raw")
    path = folder / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    check_refused(folder, "'test-00000-of-00001.parquet': no Parquet file of images")


# The first that works


def test_sources_are_tried_in_order_and_each_failure_is_told(tmp_path: Path) -> None:
    other = {"train": layouts.random_split(2, 8), "test": SMALL["test"]}
    (tmp_path / "text").write_text("no archive")
    places = [tmp_path / "nowhere", tmp_path / "text", layouts.binary(tmp_path / "other", other)]
    good, never = layouts.parquet(tmp_path / "good"), layouts.python(tmp_path / "never")
    lines: list[str] = []
    check_small(sources.read_first([*places, good, never], SMALL_HASHES, tmp_path / "cache", lines.append))
    assert lines[0] == f"{places[0]}: not there"
    assert lines[1].startswith(f"{places[1]}: no whole tar archive")
    assert lines[2] == (
        f"{places[2]}: other images: 200 training images of hash {content_hash(other['train'])}, "
        f"expected {SMALL_HASHES.train}"
    )
    assert lines[3] == f"{good}: the images of CIFAR-100, by their content"
    assert len(lines) == 4


def test_an_archive_in_a_directory_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    path = tar(folder / "cifar.tar.gz", layouts.python(tmp_path / "raw"))
    lines: list[str] = []
    check_small(sources.read_first([str(folder)], SMALL_HASHES, tmp_path / "cache", lines.append))
    assert lines == [f"{path}: the images of CIFAR-100, by their content"]


def test_when_none_works_one_line_has_them_all(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    places = [str(tmp_path / "nowhere"), str(tmp_path / "text")]
    with pytest.raises(DataError) as caught:
        sources.read_first(places, SMALL_HASHES, tmp_path / "cache", silent)
    assert_line(
        caught.value, f"{places[0]}: not there; {places[1]}: no whole tar", "next: put a copy", "`vanishing data`"
    )
    assert tree(tmp_path) == ["text"]


def test_the_official_archive_is_told_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar(tmp_path / "set.tar", layouts.python(tmp_path / "raw"))
    monkeypatch.setattr(cifar100, "OFFICIAL_ARCHIVE", hashlib.sha256(path.read_bytes()).hexdigest())
    lines: list[str] = []
    sources.read(path, lines.append)
    assert lines == [f"{path}: the official archive, byte for byte"]


# Downloads


class Server(ThreadingHTTPServer):
    """Serves one file, in the ways that servers have."""

    daemon_threads = True
    content = b""
    ranges = True
    length = True
    breaks: list[int]
    """Bytes after which an answer breaks off, an entry for each answer."""
    statuses: list[int]
    """Errors to answer with first."""
    asked: list[str | None]
    kind = "application/gzip"
    scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}/pub/cifar.tar.gz"

    def encrypt(self, certificate: Path) -> None:
        """Speak TLS, with a certificate that this server has signed itself."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.scheme = "https"

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that hang up."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.server.statuses:
            self.send_error(self.server.statuses.pop(0))
            return
        content = self.server.content
        start = int(wanted[6:-1]) if wanted and self.server.ranges else 0
        if start >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Type", self.server.kind)
        if self.server.length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + self.server.breaks.pop(0) if self.server.breaks else len(content)
        self.wfile.write(content[start:end])

    def do_CONNECT(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    made = Server(("127.0.0.1", 0), Handler)
    made.content = np.random.default_rng(0).bytes(400_000)
    made.breaks, made.statuses, made.asked = [], [], []
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch(server: Server, cache: Path, sha256: str | None = None, lines: list[str] | None = None) -> Path:
    return downloads.fetch(server.url, sha256, cache, lines.append if lines is not None else silent, (0.0, 0.0))


def kept(cache: Path) -> list[str]:
    return [name for name in tree(cache) if not name.endswith(".lock")]


def test_a_download_is_kept_and_not_repeated(server: Server, tmp_path: Path) -> None:
    lines: list[str] = []
    path = fetch(server, tmp_path, sha(server.content), lines)
    assert path.read_bytes() == server.content
    assert kept(tmp_path) == [path.name]
    assert path.name.endswith("-cifar.tar.gz")
    assert fetch(server, tmp_path, sha(server.content), lines) == path
    assert lines == [f"{server.url}: downloading", f"{server.url}: downloaded before, {path}"]
    assert server.asked == [None]


def test_a_broken_connection_is_resumed_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.breaks = [200_000]
    lines: list[str] = []
    assert fetch(server, tmp_path, sha(server.content), lines).read_bytes() == server.content
    assert len(server.asked) == 2
    resumed = int(str(server.asked[1]).removeprefix("bytes=").removesuffix("-"))
    assert 0 < resumed <= 200_000
    assert "broke off" in lines[1]
    assert lines[2].endswith(f"downloading from {resumed / 1e6:.1f} MB on")


def test_an_unfinished_download_is_kept_for_the_next_run(server: Server, tmp_path: Path) -> None:
    server.breaks = [100_000, 0, 0]
    with pytest.raises(SourceError) as caught:
        fetch(server, tmp_path)
    assert_line(caught.value, "the download broke off", "MB are kept for the next try")
    (partial,) = kept(tmp_path)
    assert partial.endswith(".partial")
    size = (tmp_path / partial).stat().st_size
    server.asked.clear()
    assert fetch(server, tmp_path).read_bytes() == server.content
    assert server.asked == [f"bytes={size}-"]


def test_tries_that_bring_the_file_on_do_not_count(server: Server, tmp_path: Path) -> None:
    server.breaks = [70_000] * 5
    assert fetch(server, tmp_path).read_bytes() == server.content
    assert len(server.asked) == 6


def test_a_server_that_ignores_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges, server.breaks = False, [200_000]
    assert fetch(server, tmp_path, sha(server.content)).read_bytes() == server.content
    assert len(server.asked) == 2


def test_a_server_that_tells_no_length_is_believed(server: Server, tmp_path: Path) -> None:
    server.length = False
    assert fetch(server, tmp_path, sha(server.content)).read_bytes() == server.content


def partial_of(server: Server, cache: Path, content: bytes) -> Path:
    path = fetch(server, cache)
    server.asked.clear()
    return path.rename(path.with_name(path.name + ".partial")).write_bytes(content) and path


def test_a_partial_that_is_whole_needs_no_more_bytes(server: Server, tmp_path: Path) -> None:
    path = partial_of(server, tmp_path, server.content)
    assert fetch(server, tmp_path, sha(server.content)) == path
    assert path.read_bytes() == server.content
    assert server.asked == ["bytes=400000-"]


def test_a_partial_that_is_too_long_starts_again(server: Server, tmp_path: Path) -> None:
    path = partial_of(server, tmp_path, server.content + b"more")
    assert fetch(server, tmp_path, sha(server.content)) == path
    assert path.read_bytes() == server.content
    assert server.asked == ["bytes=400004-", None]


def test_a_wrong_hash_deletes_the_file_and_names_both(server: Server, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        fetch(server, tmp_path, "0" * 64)
    assert_line(caught.value, f"found SHA-256 {sha(server.content)}, expected {'0' * 64}", "deleted")
    assert kept(tmp_path) == []


def test_a_damaged_file_in_the_cache_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    path = fetch(server, tmp_path)
    path.write_bytes(b"damaged")
    assert fetch(server, tmp_path, sha(server.content)).read_bytes() == server.content


def test_a_missing_file_on_the_server_is_no_reason_to_try_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [404]
    with pytest.raises(SourceError, match=r"^HTTP 404 Not Found$"):
        fetch(server, tmp_path)
    assert server.asked == [None]
    assert kept(tmp_path) == []


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert fetch(server, tmp_path).read_bytes() == server.content


def test_a_server_that_is_not_there_is_given_up(server: Server, tmp_path: Path) -> None:
    server.server_close()
    with pytest.raises(SourceError) as caught:
        fetch(server, tmp_path)
    assert_line(caught.value, "the download broke off")
    assert kept(tmp_path) == []


@pytest.mark.parametrize("folder", ["file", "file/downloads", "/proc/downloads"])
def test_a_cache_that_cannot_be_written_is_told_before_anything_is_asked(
    server: Server, tmp_path: Path, folder: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SourceError, match=rf"^cannot be kept in \S*/{folder.strip('/')}: [A-Z][a-z ]+$"):
        fetch(server, tmp_path / folder)
    assert server.asked == []


@pytest.fixture
def certificate(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Have the server speak TLS, and return its certificate."""
    made = certificates.make(tmp_path_factory.mktemp("certificate"), "21000101000000Z")
    server.encrypt(made)
    return made


def refused_at_once(server: Server, cache: Path, *parts: str, url: str = "") -> None:
    """No later try can do better, so there is one, and its line says what to set."""
    lines: list[str] = []
    with pytest.raises(SourceError) as caught:
        downloads.fetch(url or server.url, None, cache, lines.append, (60.0,))
    assert_line(caught.value, *parts)
    assert lines == []
    assert kept(cache) == []


def test_a_certificate_that_is_not_trusted_is_named(
    server: Server, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused_at_once(
        server, tmp_path, "the server's certificate is not trusted: self-signed certificate; ", "set REQUESTS_CA_BUNDLE"
    )
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    assert fetch(server, tmp_path).read_bytes() == server.content


def test_a_certificate_out_of_date_may_be_the_clocks_fault(
    server: Server, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    expired = certificates.make(tmp_path_factory.mktemp("expired"), "20010101000000Z")
    server.encrypt(expired)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(expired))
    refused_at_once(server, tmp_path, "certificate has expired; check this machine's clock")


@pytest.mark.usefixtures("certificate")
@pytest.mark.parametrize(("variable", "bundle", "reason"), [
    ("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem", "invalid path: /nowhere/ca.pem"),
    ("CURL_CA_BUNDLE", "/nowhere/ca.pem", "invalid path: /nowhere/ca.pem"),
    ("REQUESTS_CA_BUNDLE", __file__, "no certificate in the file of trusted ones"),
])  # fmt: skip
def test_a_wrong_file_of_certificates_is_named_with_its_variable(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, bundle: str, reason: str
) -> None:
    monkeypatch.setenv(variable, bundle)
    refused_at_once(server, tmp_path, reason, f"{variable} ", "correct or unset it")


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_proxy_that_wants_a_login_is_named_without_its_password(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    server.statuses = [407]
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://me:hidden@127.0.0.1:{server.server_port}")
    with pytest.raises(SourceError) as caught:
        downloads.fetch(f"{scheme}://data.invalid/cifar.tar.gz", None, tmp_path, silent, (60.0,))
    assert_line(caught.value, "the proxy wants a login", f"{scheme.upper()}_PROXY", "http://USER:PASSWORD@HOST:PORT")
    assert "hidden" not in str(caught.value)
    assert len(server.asked) == 1


def test_a_proxy_that_refuses_is_told_at_once_and_a_busy_one_is_asked_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.server_port}")
    server.statuses = [503, 403]
    lines: list[str] = []
    url = "https://data.invalid/cifar.tar.gz"
    with pytest.raises(SourceError, match=r"^the proxy refuses the connection: 403 Forbidden$"):
        downloads.fetch(url, None, tmp_path, lines.append, (0.0, 60.0))
    busy = "the proxy cannot be reached: Tunnel connection failed: 503 Service Unavailable"
    assert lines == [f"{url}: broke off ({busy}); next try in 0 s"]


@pytest.mark.parametrize(("proxy", "reason"), [
    ("https://127.0.0.1:{port}", "speaks no TLS; if it is your proxy, begin HTTPS_PROXY with http://"),
    ("http://", "is malformed: check"),
    ("socks5://127.0.0.1:{port}", "Missing dependencies for SOCKS support"),
    ("http://proxy.invalid:1", "the name proxy.invalid cannot be resolved: Name or service not known"),
])  # fmt: skip
def test_a_proxy_that_cannot_work_is_told_at_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, reason: str
) -> None:
    unresolved(monkeypatch, socket.EAI_NONAME)
    monkeypatch.setenv("HTTPS_PROXY", proxy.format(port=server.server_port))
    refused_at_once(server, tmp_path, reason, "HTTPS_PROXY", url="https://data.invalid/cifar.tar.gz")


@pytest.mark.parametrize("end", ["c#ret@127.0.0.1:1", "c/ret@h:1", "cret@h:99999", "c[ret@h:1", "cret@", "\u20ac@h:1"])
def test_a_malformed_proxy_is_told_at_once_without_its_password(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:s3{end}")
    with pytest.raises(SourceError) as caught:
        downloads.fetch("https://data.invalid/cifar.tar.gz", None, tmp_path, silent, (60.0,))
    assert_line(caught.value, "is malformed: check", "HTTPS_PROXY", "%23 for #")
    assert "s3" not in str(caught.value)


def unresolved(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Resolve no name under .invalid, which no network has (RFC 6761); some networks answer for every name."""
    resolve = socket.getaddrinfo
    text = {socket.EAI_NONAME: "Name or service not known", socket.EAI_AGAIN: "Temporary failure in name resolution"}

    def answer(host: str, *arguments: Any, **options: Any) -> Any:
        if host.endswith(".invalid"):
            raise socket.gaierror(number, text[number])
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer)


def test_a_name_that_is_not_known_is_told_at_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unresolved(monkeypatch, socket.EAI_NONAME)
    reason = "the name data.invalid cannot be resolved: Name or service not known; behind a proxy, set HTTPS_PROXY"
    refused_at_once(server, tmp_path, reason, url="https://data.invalid/cifar.tar.gz")


@pytest.mark.parametrize("proxied", [False, True])
def test_what_may_pass_is_tried_again_and_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxied: bool
) -> None:
    unresolved(monkeypatch, socket.EAI_AGAIN)
    server.shutdown()
    server.server_close()
    if proxied:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_port}")
    lines: list[str] = []
    with pytest.raises(SourceError) as caught:
        downloads.fetch("http://data.invalid/cifar.tar.gz", None, tmp_path, lines.append, (0.0, 0.0))
    said = (
        "the proxy cannot be reached: Connection refused"
        if proxied
        else "the server cannot be reached: Temporary failure in name resolution"
    )
    assert str(caught.value) == f"the download broke off: {said}"
    assert lines == [f"http://data.invalid/cifar.tar.gz: broke off ({said}); next try in 0 s"] * 2


def test_a_page_that_asks_for_a_login_is_no_archive(server: Server, tmp_path: Path) -> None:
    server.kind = "text/html; charset=utf-8"
    refused_at_once(server, tmp_path, "sends a web page instead of an archive", "log in first")


def test_an_address_that_leads_in_a_circle_is_told_at_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "do_GET", lambda self: redirect(self, server.url))
    refused_at_once(server, tmp_path, "Exceeded 30 redirects")


def redirect(handler: Handler, url: str) -> None:
    handler.send_response(302)
    handler.send_header("Location", url)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def test_many_at_once_download_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: fetch(server, tmp_path, sha(server.content)), range(4)))
    assert len(set(paths)) == 1
    assert server.asked == [None]
    assert paths[0].read_bytes() == server.content


@pytest.mark.parametrize("hashed", [True, False])
def test_an_address_is_a_source(server: Server, tmp_path: Path, hashed: bool) -> None:
    server.content = tar(tmp_path / "set.tar.gz", layouts.python(tmp_path / "raw")).read_bytes()
    source = Address(url=server.url, sha256=sha(server.content)) if hashed else server.url
    check_small(sources.read_first([source], SMALL_HASHES, tmp_path / "cache", silent))
    assert len(kept(tmp_path / "cache")) == 1


def test_a_download_that_is_no_data_set_is_not_kept(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        sources.read_first([Address(url=server.url)], SMALL_HASHES, tmp_path / "cache", silent)
    assert_line(caught.value, f"{server.url}: no whole tar archive", "`vanishing data`")
    assert kept(tmp_path / "cache") == []


@pytest.mark.parametrize(
    ("done", "total", "rate", "text"),
    [
        (12_300_000, 169_001_437, 85e3, "12.3 of 169.0 MB, 85 kB/s, 31 min left"),
        (1_000_000, 2_000_000, 100e3, "1.0 of 2.0 MB, 100 kB/s, 10 s left"),
        (1_500_000, None, 2e6, "1.5 MB, 2,000 kB/s"),
        (0, 1_000, 0.0, "0.0 of 0.0 MB, 0 kB/s, 17 min left"),
    ],
)
def test_progress_in_words(done: int, total: int | None, rate: float, text: str) -> None:
    assert downloads.describe(done, total, rate) == text


def test_progress_comes_in_throttled_lines(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "INTERVAL", 0.0)
    lines: list[str] = []
    fetch(server, tmp_path, lines=lines)
    assert lines[-1].startswith(f"{server.url}: 0.4 of 0.4 MB, ")
    assert lines[-1].endswith(" 0 s left")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    lines: list[str] = []
    fetch(server, tmp_path, lines=lines)
    assert lines == []
    assert "cifar.tar.gz: 100%" in terminal.getvalue()
    assert "400k/400k" in terminal.getvalue()
