"""A small stand-in for CIFAR-100, and writers of every layout that it may come in."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vanishing.data.cifar100 import CLASSES, Expected
from vanishing.data.records import Split, content_hash

Splits = dict[str, Split]


def random_split(per_class: int, seed: int, classes: int = 100) -> Split:
    """Noise, in shuffled order."""
    generator = np.random.default_rng(seed)
    labels = generator.permutation(np.repeat(np.arange(classes, dtype=np.uint8), per_class))
    return Split(generator.integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8), labels)


SMALL: Splits = {"train": random_split(2, 1), "test": random_split(1, 2)}
SMALL_HASHES = Expected(content_hash(SMALL["train"]), content_hash(SMALL["test"]))


def png(image: np.ndarray, level: int = 1) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "PNG", compress_level=level)
    return buffer.getvalue()


def pickled(split: Split, protocol: int = 2, core: bytes = b"numpy.core") -> bytes:
    """The fields of the official files that are read, and one that is not."""
    content = pickle.dumps(
        {
            b"data": split.images.reshape(len(split), -1),
            b"fine_labels": split.labels.tolist(),
            b"filenames": [b"x.png"] * len(split),
        },
        protocol,
    )
    # numpy 2 writes its new name; protocols up to 3 hold it as a line
    return content.replace(b"cnumpy._core.multiarray\n", b"c" + core + b".multiarray\n") if protocol < 4 else content


def python(folder: Path, splits: Splits = SMALL, protocol: int = 2, core: bytes = b"numpy.core") -> Path:
    folder.mkdir(parents=True)
    for name, split in splits.items():
        (folder / name).write_bytes(pickled(split, protocol, core))
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [name.encode() for name in CLASSES]}, 2))
    return folder


def binary(folder: Path, splits: Splits = SMALL) -> Path:
    folder.mkdir(parents=True)
    for name, split in splits.items():
        coarse = np.zeros((len(split), 1), np.uint8)
        records = np.concatenate([coarse, split.labels[:, None], split.images.reshape(len(split), -1)], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    (folder / "fine_label_names.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


def folders(folder: Path, splits: Splits = SMALL, superclass: bool = False) -> Path:
    for name, split in splits.items():
        for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            above = folder / name / f"group_{label // 5}" if superclass else folder / name
            place = above / CLASSES[label] / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(png(image))
    return folder


def parquet(folder: Path, splits: Splits = SMALL, struct: bool = True, shards: int = 1) -> Path:
    folder.mkdir(parents=True)
    for name, split in splits.items():
        cells = [png(image) for image in split.images]
        images = [{"bytes": cell, "path": None} for cell in cells] if struct else cells
        columns = {"img" if struct else "image": images, "fine_label" if struct else "label": split.labels.tolist()}
        table = pa.table(columns)
        size = -(-len(split) // shards)
        for shard in range(shards):
            target = folder / f"{name}-{shard:05}-of-{shards:05}.parquet"
            pq.write_table(table.slice(shard * size, size), target)
    return folder


def tar(target: Path, folder: Path, prefix: str = "") -> Path:
    """Pack `folder`, compressed where the name ends in gz."""
    with tarfile.open(target, "w:gz" if target.name.endswith("gz") else "w") as archive:
        archive.add(folder, prefix or ".")
    return target


def zipped(target: Path, folder: Path, prefix: str = "") -> Path:
    """Pack `folder` as Kaggle does: deflated, the names without a folder unless `prefix` is one."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, Path(prefix) / path.relative_to(folder))
    return target


def zip_of(target: Path, *members: tuple[zipfile.ZipInfo, bytes]) -> Path:
    """Write members as they are, whatever they say of themselves."""
    with zipfile.ZipFile(target, "w") as archive:
        for info, content in members:
            archive.writestr(info, content)
    return target


def tar_of(target: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """Write members as they are, whatever they say of themselves."""
    with tarfile.open(target, "w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return target


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, link
    return info


def tree(folder: Path) -> list[str]:
    """Names of all files below `folder`."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
