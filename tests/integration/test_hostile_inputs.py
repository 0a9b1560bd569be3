"""Hostile and broken inputs through the real command line.

Each ends in one line and the documented exit code (2 for parameters and calls, 1 for everything else), runs
nothing of what it was handed, and leaves nothing behind. What the readers themselves refuse, and in which
words, is in `test_parameters.py`, `test_sources.py`, `test_data.py` and `test_checkpoints.py`; their worst
cases come back here through the command.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from bad_files import BAD_FILES
from layouts import SMALL, member, tar_of
from safetensors.torch import save

import examples
from vanishing import cli, paths, stages
from vanishing.data import records
from vanishing.training import checkpoints, models

Prepare = Callable[[], object]
Cases = dict[str, tuple[Prepare, str]]
"""What is done to a sound folder, and words of the answer."""

RESULTS = paths.results("vgg08", 0)
HISTORY, GRADIENTS, SUMMARY = (RESULTS / name for name in ("history.csv", "gradients.csv", "summary.json"))
TRAJECTORY = paths.checkpoints("vgg08", 0)
SNAPSHOT = paths.snapshot(TRAJECTORY, 1)
SOURCE = Path("source")
PARAMS = Path("params.yaml")
DATA = Path("data/generated.npz")
TABLE = Path("results/tables/core.csv")
TINY = {"data": {"generated": {"classes": 3, "train_per_class": 14, "test_per_class": 5}, "validation_per_class": 4}}
TINY |= {"model": {"filters": 4, "groups": 2}}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with the parameters of a small study."""
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path / "study")
    PARAMS.write_text(yaml.safe_dump(examples.content(TINY), sort_keys=False))
    return tmp_path


def refused(capsys, *arguments: str, code: int) -> str:
    """Run a command that must fail in one line, and leave every file as it is; return the line."""
    before = everything()
    try:
        ended = cli.main(arguments)
    except SystemExit as error:  # argparse's, with the usage before its line
        ended = error.code
    printed = capsys.readouterr()
    *told, line = printed.err.splitlines()
    assert ended == code, printed.err
    assert line.startswith(f"vanishing {arguments[0]}: ")
    assert line.isprintable()
    assert len(line) < 1000
    assert "Traceback" not in printed.err
    assert all(each.isprintable() for each in told)
    assert everything() == before
    assert not Path("executed").exists()
    return line


def everything() -> dict[str, Any]:
    """Return what is below the folder's parent: times of files, and the names of the others; not logs."""
    found = sorted(Path("..").rglob("*"))
    kept = [path for path in found if path.suffix != ".lock" and "logs" not in path.parts]
    return {str(path): path.stat().st_mtime_ns if path.is_file() else "" for path in kept if not path.is_dir()}


class Calling:
    """A pickle of this makes a file when it is read."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.system, ("touch executed",)


# Parameters


def parameter(**overlay: Any) -> Prepare:
    return lambda: PARAMS.write_text(yaml.safe_dump(examples.content(TINY | overlay), sort_keys=False))


def text_of(content: bytes) -> Prepare:
    return lambda: PARAMS.write_bytes(content)


def title(text: str) -> Prepare:
    return parameter(studies={"core": {"title": text}})


def runs(*names: str) -> Prepare:
    return lambda: PARAMS.write_text(yaml.safe_dump(examples.content(TINY, names), sort_keys=False))


def replaced_by(make: Callable[[], object], path: Path) -> Prepare:
    """Put something that is not a regular file where a file was."""

    def replace() -> None:
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        make()

    return replace


BAD_PARAMETERS: Cases = {
    name: (text_of(content), message.removeprefix(": "))
    for name, (content, message) in BAD_FILES.items()
} | {
    "a pipe": (replaced_by(lambda: os.mkfifo(PARAMS), PARAMS), "params.yaml: not a regular file"),
    "an endless device": (replaced_by(lambda: PARAMS.symlink_to("/dev/zero"), PARAMS), "params.yaml: not a regular"),
    "a folder": (replaced_by(PARAMS.mkdir, PARAMS), "params.yaml: cannot be read: Is a directory"),
    "a link to itself": (replaced_by(lambda: PARAMS.symlink_to(PARAMS), PARAMS), "cannot be read"),
    "a name that leads out": (runs("../../vgg08"), "runs.../../vgg08"),
    "a name that is an option": (runs("--help"), "runs.--help"),
    "a name with a line break": (runs("vgg\n08"), "vgg\\n08"),
    "a name with terminal codes": (runs("\x1b[2J"), "\\x1b[2J"),
    "a name of 61 letters": (runs("v" * 61), "at most 60 characters"),
    "a name with a command": (runs("a;touch executed"), "runs.a;touch executed"),
    "a study that leads out": (parameter(studies={"../x": {"title": "x", "runs": ["vgg08"]}}), "studies.../x"),
    "a title with a bell": (title("a\ab"), "studies.core.title = 'a\\x07b': allowed: text of one line"),
    "a title that cannot be set": (title("\u6df1\u3055"), "studies.core.title = '\u6df1\u3055': allowed: text of one"),
    "a title of Latin that cannot": (title("\u0127"), "studies.core.title = '\u0127': allowed: text of one line"),
    "a title of two lines": (title("a\nb"), "allowed: text of one line"),
    "a title of 121 letters": (title("x" * 121), "at most 120 characters"),
    "a title that is a list": (parameter(studies={"core": {"title": ["x"]}}), "title = ['x']: allowed: text"),
    "a rate beyond all numbers": (parameter(train={"learning_rate": float("inf")}), "train.learning_rate = inf"),
    "a rate that is no number": (parameter(train={"learning_rate": float("nan")}), "train.learning_rate = nan"),
    "a negative seed": (parameter(seeds=[-1]), "seeds.0 = -1: allowed: greater than or equal to 0"),
    "a seed of 40 digits": (parameter(seeds=[10**40]), "seeds.0 = "),
    "too much held out": (parameter(data=TINY["data"] | {"validation_per_class": 10**17}), "less than the 14"),
    "a file as an address": (parameter(data={"sources": [{"url": "file:///etc/passwd"}]}), "data.sources.0.url"),
    "a hash that is none": (parameter(data={"sources": [{"url": "http://x", "sha256": "0"}]}), "data.sources.0.sha256"),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "message"), BAD_PARAMETERS.values(), ids=BAD_PARAMETERS)
def test_parameters(prepare, message, capsys):
    prepare()
    assert message in refused(capsys, "models", code=2)


BAD_CALLS = {
    "a run that leads out": (["train", "../../etc", "--seed", "0"], "run '../../etc' is not configured"),
    "a run of two lines": (["train", "a\nb", "--seed", "0"], "run 'a\\nb' is not configured"),
    "a seed of 30 digits": (["gradients", "vgg08", "--seed", "9" * 30], "is not configured; allowed: 0"),
    "a seed in words": (["train", "vgg08", "--seed", "one"], "invalid int value: 'one'"),
    "a study that leads out": (["figures", "../core"], "study '../core' is not configured"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_calls(arguments, message, capsys):
    assert message in refused(capsys, *arguments, code=2)


def test_latex_in_a_title_is_text(capsys):
    title(r"\input{/etc/passwd} $x^2$ 100 % #1 & ~")()
    examples.result(examples.study({"studies": {"core": {"title": "x"}}} | TINY), "vgg08")
    assert cli.main(["numbers"]) == 0
    text = Path("report/studies.tex").read_text()
    assert r"\textbackslash{}input\{/etc/passwd\} \$x\textasciicircum{}2\$ 100 \% \#1 \& \textasciitilde{}" in text
    assert r"\input" not in text.replace(r"\textbackslash{}input", "")


# Sources of the images


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> Prepare:
    whole = [(member(name, len(c)), c) for name, c in ((n, layouts.pickled(s)) for n, s in SMALL.items())]
    return lambda: tar_of(SOURCE, *whole, *members)


def python(content: bytes) -> Prepare:
    def write() -> None:
        layouts.python(SOURCE)
        (SOURCE / "test").write_bytes(content)

    return write


def labelled(label: Any) -> bytes:
    return pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "fine_labels": [label]}, 2)


def nested(before: bytes, after: bytes) -> bytes:
    """Return operations that make one value of 2**40: each of 40 holds the one before it twice."""
    return b"K\0qd" + b"".join(b"0%bh%ch%c%bq%c" % (before, n, n, after, n + 1) for n in range(100, 140))


NESTED, TUPLES = nested(b"](", b"e"), nested(b"", b"\x86")


def source_file(content: bytes) -> Prepare:
    return lambda: SOURCE.write_bytes(content)


def inside(name: str, make: Callable[[Path], object]) -> Prepare:
    def write() -> None:
        path = layouts.binary(SOURCE) / name
        path.unlink(missing_ok=True)
        make(path)

    return write


def table(rows: int, image: bytes) -> Prepare:
    """Write one value that stands for every row: millions of rows in a small file."""

    def write() -> None:
        SOURCE.mkdir()
        column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), pa.array([image], pa.binary()))
        packed = pa.table({"img": column, "label": np.zeros(rows, np.uint8)})
        for split in ("train", "test"):
            pq.write_table(packed, SOURCE / f"{split}.parquet", store_schema=False)

    return write


def bomb() -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as stream:
        stream.write(member("unwanted", 200 << 20).tobuf())
        for _ in range(1100):
            stream.write(bytes(1 << 20))
    return buffer.getvalue()


BAD_SOURCES: Cases = {
    "a member that leads out": (archive((member("../../executed", 1), b"x")), "'../../executed' leads out"),
    "an absolute member": (archive((member("/executed", 1), b"x")), "'/executed' leads out"),
    "a link in an archive": (archive((member("l", kind=tarfile.SYMTYPE, link="/etc"), b"")), "'l' is no"),
    "a hard link": (archive((member("l", kind=tarfile.LNKTYPE, link="train"), b"")), "'l' is no"),
    "a device in an archive": (archive((member("d", kind=tarfile.CHRTYPE), b"")), "'d' is not a regular file"),
    "a member with terminal codes": (archive((member("\x1b[2J", kind=tarfile.FIFOTYPE), b"")), "'\\x1b[2J' is no"),
    "a huge member": (source_file(member("train", 1 << 40).tobuf() + bytes(1024)), "1,099,511,627,776 bytes; the"),
    "an archive that unpacks to 1 GiB": (lambda: SOURCE.write_bytes(bomb()), "unpacks to more than the limit"),
    "a truncated archive": (source_file(layouts.pickled(SMALL["train"])[:1000]), "no whole tar archive"),
    "an empty file": (source_file(b""), "no whole tar archive"),
    "a pickle that calls the system": (python(pickle.dumps(Calling())), "14 bytes of pixels and 0 labels"),
    "a pickle that evaluates": (python(b"c__builtin__\neval\n(Vopen('executed','w')\ntR."), "20 bytes of pixels and 0"),
    "a pickle of endless depth": (python(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."), "0 bytes of pixels"),
    "a pickle that makes room": (python(b"\x80\x02Nr\xff\xff\xff\x7f."), "found 0 bytes of pixels and 0 labels"),
    "a pickle of 2**64 bytes": (python(b"\x80\x04\x8e" + b"\xff" * 8 + b"."), "no pickle of CIFAR-100"),
    "lists in lists without end": (python(b"\x80\x02" + NESTED + b"."), "found 0 bytes of pixels and 0 labels"),
    "a key of tuples without end": (python(b"\x80\x02}" + TUPLES + b"Ns."), "found 0 bytes of pixels and 0 labels"),
    "a member of tuples": (python(b"\x80\x04\x8f(" + TUPLES + b"\x90."), "found 0 bytes of pixels and 0 labels"),
    "a label of 5,000 digits": (python(labelled(10**5000)), "3,072 bytes of pixels and 0 labels"),
    "a pickle of half a file": (python(layouts.pickled(SMALL["test"])[:-9]), "no pickle of CIFAR-100"),
    "a label of 100": (python(labelled(100)), "found the label 100, expected 0 to 99"),
    "images of another size": (
        python(pickle.dumps({"data": np.zeros((1, 3000), np.uint8), "fine_labels": [0]}, 2)),
        "found 3,000 bytes of pixels and 1 labels, expected 3,072 bytes a label",
    ),
    "a pipe for a file": (inside("test.bin", os.mkfifo), "'test.bin' is not a regular file"),
    "an endless device for a file": (inside("test.bin", lambda p: p.symlink_to("/dev/zero")), "'test.bin' is no"),
    "a file of 1 TiB": (inside("test.bin", lambda p: [p.touch(), os.truncate(p, 1 << 40)]), "'test.bin' says it has"),
    "records cut short": (inside("test.bin", lambda p: p.write_bytes(bytes(100))), "found 100 bytes, expected records"),
    "ten million rows in a small file": (table(10_000_000, b"x"), "has 10,000,000 rows; the limit is 200,000"),
    "a hundred thousand rows of one large value": (table(100_000, bytes(1 << 20)), "row 0': no PNG image"),
    "no image in a row": (table(3, b""), "row 0': no PNG image"),
    "other images": (lambda: layouts.binary(SOURCE), "other images: 200 training images of hash"),
    "a folder in itself": (lambda: [SOURCE.mkdir(), (SOURCE / "again").symlink_to(".")], "nothing of CIFAR-100 in it"),
    "nothing": (lambda: None, "source: not there"),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "message"), BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_sources(prepare, message, capsys):
    parameter(data=TINY["data"] | {"set": "cifar100"})()
    prepare()
    assert message in refused(capsys, "data", "--source", str(SOURCE), code=1)
    assert not Path("data").exists()


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "a\0b", "x" * 5000], ids=["lines", "codes", "null", "long"])
def test_names_of_sources(name, capsys):
    parameter(data=TINY["data"] | {"set": "cifar100"})()
    assert "no source gives CIFAR-100 (" in refused(capsys, "data", "--source", name, code=1)


# The data file


def arrays(**changes: Any) -> Prepare:
    whole = {f"{part}_images": np.zeros((3, 3, 32, 32), np.uint8) for part in records.PARTS}
    whole |= {f"{part}_labels": np.arange(3, dtype=np.uint8) for part in records.PARTS}
    whole |= {"classes": np.array(["a", "b", "c"])}
    return lambda: np.savez(DATA, **(whole | changes))


def packed(name: str, content: bytes, method: int = zipfile.ZIP_STORED) -> Prepare:
    def write() -> None:
        with zipfile.ZipFile(DATA, "w", method) as target:
            target.writestr(name, content)

    return write


def header(shape: str, kind: str = "'|u1'") -> bytes:
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


BAD_DATA: Cases = {
    "an array of objects": (arrays(classes=np.array([Calling()])), "Object arrays cannot be loaded"),
    "more bytes than were packed": (packed("classes.npy", bytes(1 << 20), zipfile.ZIP_DEFLATED), "compressed, which"),
    "an array of a petabyte": (packed("classes.npy", header("(1000000000000000,)")), "cannot be read as an archive"),
    "an array of a negative size": (packed("classes.npy", header("(-1,)")), "data/generated.npz: "),
    "a header that is a program": (packed("classes.npy", header("__import__('os')")), "cannot be read as an archive"),
    "a member that leads out": (packed("../../executed.npy", header("(1,)") + b"x"), "found the arrays"),
    "a label beyond the classes": (arrays(test_labels=np.array([0, 1, 3], np.uint8)), "found label 3, expected 0 to 2"),
    "images of another size": (arrays(val_images=np.zeros((3, 3, 33, 32), np.uint8)), "val_images: found uint8 of"),
    "images that are fractions": (arrays(val_images=np.zeros((3, 3, 32, 32))), "val_images: found float64"),
    "another number of images": (arrays(), "found (3, 3, 3, 3), and the parameters say (3, 30, 12, 15)"),
    "half a file": (lambda: [arrays()(), os.truncate(DATA, 5000)], "cannot be read as an archive"),
    "a pipe": (lambda: os.mkfifo(DATA), "no zip archive"),
    "an endless device": (lambda: DATA.symlink_to("/dev/zero"), "no zip archive"),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "message"), BAD_DATA.values(), ids=BAD_DATA)
def test_data_files(prepare, message, capsys):
    DATA.parent.mkdir()
    prepare()
    line = refused(capsys, "train", "vgg08", "--seed", "0", code=1)
    assert message in line
    assert line.endswith("run `vanishing data`")


# Checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished training, for its checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        PARAMS.write_text(yaml.safe_dump(examples.content(TINY), sort_keys=False))
        settings = examples.study(TINY)
        stages.data(settings)
        stages.train(settings, [("vgg08", 0)])
    return folder


def snapshot(content: bytes) -> Prepare:
    return lambda: SNAPSHOT.write_bytes(content)


def changed(change: Callable[[bytes], bytes]) -> Prepare:
    return lambda: SNAPSHOT.write_bytes(change(SNAPSHOT.read_bytes()))


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Prepare:
    """Write a checkpoint that is sound in itself, of other weights."""

    def write() -> None:
        tensors, _ = checkpoints.read(SNAPSHOT)
        change(tensors)
        checkpoints.write(SNAPSHOT, tensors)

    return write


def torch_pickle() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": Calling()}, buffer)
    return buffer.getvalue()


def other_model() -> None:
    run = examples.study(TINY | {"model": {"filters": 8, "groups": 2}}).run("vgg08")
    checkpoints.write(SNAPSHOT, models.build(run.model, 3, 0).state_dict())


BAD_CHECKPOINTS: Cases = {
    "a pickle that calls the system": (snapshot(pickle.dumps(Calling())), "damaged or no checkpoint"),
    "PyTorch's pickle": (lambda: SNAPSHOT.write_bytes(torch_pickle()), "damaged or no checkpoint"),
    "half a file": (changed(lambda content: content[: len(content) // 2]), "damaged or no checkpoint"),
    "an empty file": (snapshot(b""), "damaged or no checkpoint"),
    "a flipped bit": (changed(lambda content: content[:-1] + bytes([content[-1] ^ 1])), "does not have the SHA-256"),
    "bytes behind the end": (changed(lambda content: content + b"\0"), "damaged or no checkpoint"),
    "a header of 2**63 bytes": (snapshot(b"\xff" * 7 + b"\x7f" + b"{}"), "damaged or no checkpoint"),
    "a header of endless depth": (snapshot((10**6).to_bytes(8, "little") + b"[" * 10**6), "damaged or no checkpoint"),
    "somebody else's": (snapshot(save({"weight": torch.ones(3)})), "damaged or no checkpoint"),
    "another model": (other_model, "weights of another model; the parameters have changed since"),
    "a layer too few": (weights(lambda tensors: tensors.pop("classifier.bias")), "weights of another model"),
    "a layer too many": (weights(lambda tensors: tensors.update(extra=torch.ones(1))), "weights of another model"),
    "a layer of another shape": (
        weights(lambda tensors: tensors.update({key: torch.ones(2, 2) for key in list(tensors)[:1]})),
        "weights of another model",
    ),
    "a name that is no epoch": ((TRAJECTORY / "epoch_x.safetensors").touch, "not the name of a snapshot"),
    "a folder": (replaced_by(SNAPSHOT.mkdir, SNAPSHOT), "damaged or no checkpoint"),
    "a pipe": (replaced_by(lambda: os.mkfifo(SNAPSHOT), SNAPSHOT), "damaged or no checkpoint"),
    "an endless device": (replaced_by(lambda: SNAPSHOT.symlink_to("/dev/zero"), SNAPSHOT), "damaged or no checkpoint"),
    "a file of 1 TiB": (lambda: os.truncate(SNAPSHOT, 1 << 40), "larger than 4,294,967,296 bytes; no check"),
    "nothing": (lambda: [path.unlink() for path in TRAJECTORY.iterdir()], "no trajectory; `dvc pull checkpoints/vgg08"),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "message"), BAD_CHECKPOINTS.values(), ids=BAD_CHECKPOINTS)
def test_checkpoints(trained, folder, monkeypatch, prepare, message, capsys):
    shutil.copytree(trained, folder / "trained")
    monkeypatch.chdir(folder / "trained")
    prepare()
    line = refused(capsys, "gradients", "vgg08", "--seed", "0", code=1)
    assert message in line
    assert str(TRAJECTORY) in line
    assert not GRADIENTS.exists()


# Results


def edited(path: Path, old: str, new: str, count: int = 1) -> Prepare:
    """Replace text of a file by hand."""

    def edit() -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, count))

    return edit


def row(path: Path, number: int, change: Callable[[list[str]], list[str]]) -> Prepare:
    """Replace a row (0 is the header) by those that `change` makes of it."""

    def edit() -> None:
        lines = path.read_text().splitlines()
        lines[number : number + 1] = change(lines[number].split(","))
        path.write_text("".join(f"{line}\n" for line in lines))

    return edit


def cell(path: Path, number: int, column: int, text: str) -> Prepare:
    def change(cells: list[str]) -> list[str]:
        cells[column] = text
        return [",".join(cells)]

    return row(path, number, change)


def summary(key: str, value: Any) -> Prepare:
    """Set a key of the summary, given with dots."""

    def edit() -> None:
        content = json.loads(SUMMARY.read_text())
        *above, last = key.split(".")
        inner = content
        for part in above:
            inner = inner[part]
        inner[last] = value
        SUMMARY.write_text(json.dumps(content))

    return edit


def without(key: str) -> Prepare:
    def edit() -> None:
        content = json.loads(SUMMARY.read_text())
        del content[key]
        SUMMARY.write_text(json.dumps(content))

    return edit


def twice(cells: list[str]) -> list[str]:
    return [",".join(cells)] * 2


BAD_RESULTS: Cases = {
    "text for a loss": (cell(HISTORY, 2, 2, "low"), "text in column train_loss"),
    "text for an epoch": (cell(HISTORY, 1, 0, "one"), "text in column epoch"),
    "a formula": (cell(HISTORY, 1, 2, "=cmd|' /C calc'!A0"), "text in column train_loss"),
    "truths for losses": (lambda: [cell(HISTORY, n, 2, "True")() for n in (1, 2)], "text in column train_loss"),
    "no loss": (row(HISTORY, 0, lambda cells: [",".join(cells).replace("val_loss", "loss")]), "no column val_loss"),
    "a column more": (row(HISTORY, 0, lambda cells: [",".join([*cells, "x"])]), "unknown column 'x'"),
    "a column twice": (
        lambda: HISTORY.write_text("".join(f"{line},1\n" for line in HISTORY.read_text().split())),
        "unknown column '1'",
    ),
    "a cell more": (edited(HISTORY, "0.4\n", "0.4,7\n", 2), "a row has more cells"),
    "a cell less": (row(HISTORY, 2, lambda cells: [",".join(cells[:-1])]), "a rate or accuracy that is no number"),
    "no number in the middle": (cell(HISTORY, 1, 2, "nan"), "a finite loss after a non-finite one"),
    "an end that the status denies": (cell(HISTORY, 2, 4, "inf"), "do not fit the summary's 'completed'"),
    "a status that the end denies": (summary("status", "diverged"), "do not fit the summary's 'diverged'"),
    "an epoch twice": (row(HISTORY, 2, twice), "the epochs are not 1, 2, 3"),
    "an epoch left out": (row(HISTORY, 1, lambda cells: []), "the epochs are not 1, 2, 3"),
    "an epoch less": (row(HISTORY, 2, lambda cells: []), "has 1 epochs, and the summary 2"),
    "epochs turned round": (lambda: [cell(HISTORY, 1, 0, "2")(), cell(HISTORY, 2, 0, "1")()], "the epochs are not 1"),
    "half an epoch": (cell(HISTORY, 2, 0, "1.5"), "the epochs are not 1, 2, 3"),
    "an accuracy in per cent": (cell(HISTORY, 2, 3, "50"), "an accuracy above 1"),
    "a negative loss": (cell(HISTORY, 2, 2, "-1"), "a negative number in column train_loss"),
    "an endless rate": (cell(HISTORY, 2, 1, "inf"), "a rate or accuracy that is no number"),
    "a plausible loss": (cell(HISTORY, 2, 2, "1.4"), "history.csv: not what results/runs/vgg08/seed0/summ"),
    "a history that no summary names": (summary("files", {}), "'files': no hash of history.csv"),
    "a null byte": (lambda: HISTORY.write_bytes(b"\0" * 100), "cannot be read"),
    "an open quote": (cell(HISTORY, 1, 1, '"'), "cannot be read"),
    "an empty history": (lambda: HISTORY.write_bytes(b""), "No columns to parse"),
    "a header alone": (lambda: HISTORY.write_text(HISTORY.read_text().split("\n")[0]), "no rows"),
    "a history that is a pipe": (replaced_by(lambda: os.mkfifo(HISTORY), HISTORY), "not a regular file"),
    "a history without end": (replaced_by(lambda: HISTORY.symlink_to("/dev/zero"), HISTORY), "not a regular file"),
    "a history of 1 TiB": (lambda: os.truncate(HISTORY, 1 << 40), "larger than 67,108,864 bytes"),
    "text for a gradient": (cell(GRADIENTS, 3, 5, "small"), "text in column mean_abs_gradient"),
    "a negative gradient": (cell(GRADIENTS, 3, 5, "-1e-9"), "a negative number in column mean_abs_gradient"),
    "a layer twice": (row(GRADIENTS, 3, twice), "not each layer of each snapshot"),
    "a layer left out": (row(GRADIENTS, 3, lambda cells: []), "not each layer of each snapshot"),
    "layers of no number": (cell(GRADIENTS, 3, 2, "nan"), "not each layer of each snapshot"),
    "a layer of another number": (edited(GRADIENTS, ",3,convolution", ",5,convolution", -1), "not numbered 1, 2, 3"),
    "images of no kind": (cell(GRADIENTS, 3, 1, "striped"), "'striped' in column images; allowed: plain, augmented"),
    "a layer of no kind": (cell(GRADIENTS, 3, 3, ""), "'nan' in column kind; allowed: convolution, linear, "),
    "augmented images alone": (edited(GRADIENTS, "plain", "augmented", -1), "not each layer of each snapshot"),
    "layers without names": (edited(GRADIENTS, "name", "surname"), "no column name"),
    "a measure of no name": (edited(GRADIENTS, "name,", "name,measure,"), "unknown column 'measure'"),
    "a gradient of no number": (edited(GRADIENTS, "mean_abs_gradient", "gradient"), "no column mean_abs_gradient"),
    "a summary cut short": (lambda: os.truncate(SUMMARY, 40), "summary.json: cannot be read"),
    "a summary of another kind": (lambda: SUMMARY.write_text("[]"), "no summary of a training"),
    "a summary of endless depth": (lambda: SUMMARY.write_text("[" * 200_000), "summary.json: cannot be read"),
    "a summary that is a folder": (replaced_by(SUMMARY.mkdir, SUMMARY), "not a regular file"),
    "a summary without figures": (without("train"), "'train': Field required"),
    "a summary without files": (without("files"), "no summary of a training"),
    "a summary without a configuration": (without("configuration"), "'configuration': Field required"),
    "an accuracy in words": (summary("test.accuracy", "0.5"), "'test.accuracy': Input should be a valid number"),
    "an accuracy of 200 %": (summary("test.accuracy", 2.0), "'test.accuracy': Input should be less than or equal to 1"),
    "a loss of no number": (summary("train.loss", float("nan")), "'train.loss': "),
    "a loss that is missing": (summary("train.loss", None), "completed, and without a training loss"),
    "a test that is missing": (summary("test", None), "completed, and without a training loss, a best epoch or a test"),
    "an unknown status": (summary("status", r"\input{x}"), "'status': Input should be 'completed', "),
    "layers in words": (summary("layers", r"\input{/etc/passwd}"), "'layers': Input should be a valid integer"),
    "no layer": (summary("layers", 0), "'layers': Input should be greater than or equal to 1"),
    "half an epoch in all": (summary("epochs", 1.5), "'epochs': Input should be a valid integer"),
    "an environment in words": (summary("environment", "x"), "'environment': Input should be a valid dictionary"),
    "a torch that cannot be set": (summary("environment", {"torch": "\u6df1"}), "String should match pattern"),
    "an environment of depth": (summary("environment", {"torch": [["x"]]}), "'environment.torch.constrained-str': "),
    "no environment": (without("environment"), "'environment': Field required"),
    "data in words": (summary("data", "x"), "'data': Input should be a valid dictionary"),
    "data of no hash": (summary("data", {"sha256": None}), "'data.sha256': Input should be a valid string"),
    "no data": (without("data"), "'data': Field required"),
    "a file that leads out": (summary("files", {"../../../etc/passwd": "0" * 64}), "String should match pattern"),
    "a hash that is none": (summary("files", {"history.csv": "0"}), "String should match pattern"),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "message"), BAD_RESULTS.values(), ids=BAD_RESULTS)
def test_results(prepare, message, capsys):
    examples.result(examples.study(TINY), "vgg08")
    prepare()
    line = refused(capsys, "tables", code=1)
    assert message in line
    assert str(RESULTS) in line
    assert not Path("report").exists()
    for proof in ("check", "verify"):
        refused(capsys, proof, code=1)


ENDLESS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("command", ["check", "verify", "manifest"])
@pytest.mark.parametrize("path", [HISTORY, GRADIENTS, SUMMARY, TABLE, DATA], ids=lambda path: path.name)
@pytest.mark.parametrize("make", ENDLESS.values(), ids=ENDLESS)
def test_what_has_no_end_is_not_read(make, path, command, capsys):
    settings = examples.study(TINY)
    for run in settings.runs:
        examples.result(settings, run)
    assert cli.main(["tables"]) == 0
    capsys.readouterr()
    replaced_by(lambda: make(path), path)()
    if path in (TABLE, DATA) and command == "check":  # which has no use for tables and images
        return
    assert "regular file" in refused(capsys, command, code=1) or command != "manifest"


@pytest.mark.parametrize("path", [HISTORY, GRADIENTS, SUMMARY, TABLE, SNAPSHOT, DATA], ids=lambda path: path.name)
@pytest.mark.parametrize("kind", ["a pipe", "an endless device"])
def test_sync_lets_no_engine_read_what_has_no_end(kind, path, capsys):
    settings = examples.study(TINY)
    for run in settings.runs:
        examples.result(settings, run)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    ENDLESS[kind](path)
    assert refused(capsys, "sync", code=1).startswith(f"vanishing sync: {path}: not a regular file")


def test_there_are_enough():
    cases = [BAD_PARAMETERS, BAD_CALLS, BAD_SOURCES, BAD_DATA, BAD_CHECKPOINTS, BAD_RESULTS]
    assert sum(map(len, cases)) >= 120
