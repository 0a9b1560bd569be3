"""What the tests share: the study of `params.yaml`, a run and data set that train in a moment, and finished builds."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import engines
import hypothesis
import pytest

from vanishing import config, locks
from vanishing.data import synthetic
from vanishing.data.records import Dataset, canonical, hold_out

# the same examples every time, so that no build fails by chance; without a deadline, which a busy machine misses
hypothesis.settings.register_profile("project", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("project")

# one thread a process: workers share the cores, and these tensors are too small for two; read when PyTorch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where a test wants several, none of them spins while it waits

# `make test` would tell the makes that tests start to be parts of it
for _name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
    os.environ.pop(_name, None)

ROOT = Path(__file__).parents[1]

TINY = {
    "data": {
        "set": "generated",
        "validation_per_class": 4,
        "generated": {"classes": 3, "train_per_class": 14, "test_per_class": 5},
    },
    "model": {"stages": 2, "blocks": 0, "filters": 4, "groups": 2},
    "train": {"epochs": 3, "batch_size": 8, "precision": "fp32", "device": "cpu", "threads": 1, "snapshots": [1]},
}


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the disk: that a file outlives a loss of power is nothing that a test sees, and costs it milliseconds."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def study(root: Path) -> config.Parameters:
    """Return the project's own study."""
    return config.load(root / "params.yaml")


@pytest.fixture(scope="session")
def tiny(study: config.Parameters) -> Callable[..., config.Run]:
    """Return a maker of tiny runs; it takes differences of the blocks `model` and `train`."""

    def make(model: Mapping[str, Any] | None = None, train: Mapping[str, Any] | None = None) -> config.Run:
        defaults = {key: study.model_dump()[key] for key in config.Run.model_fields}
        differences = {"model": model or {}, "train": train or {}}
        return config.Run.model_validate(config.merge(config.merge(defaults, TINY), differences))

    return make


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """Return 30 training, 12 validation and 15 test images of 3 classes."""
    train, test, classes = synthetic.generate(3, 14, 5, seed=0)
    kept, held = hold_out(train, 4, seed=0)
    return Dataset(kept, held, canonical(test), classes)


@pytest.fixture
def holder() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a starter of processes that hold a lock, by code of `tests/support/holders.py`, until their input ends."""
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str, *arguments: object, folder: Path | None = None, **variables: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=folder, env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}"} | variables,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return a maker of folders that all workers of pytest-xdist share: who asks first makes it, the others wait.

    Nobody may change such a folder; a test that has to copies it.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / "once" / name, shared / f"{name}.done"
        with locks.hold(shared / f"{name}.lock", wait=float("inf")):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # what a worker has left that failed
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def preloaded(once: Callable[[str, Callable[[Path], object]], Path]) -> Callable[[str, int], dict[str, str]]:
    """Return a maker of the variables that preload a library of `tests/support` with a number compiled in.

    No other variable is needed, since few reach the programs that the pipeline starts. Without a C compiler there are
    none.
    """

    def variables(name: str, number: int) -> dict[str, str]:
        def compile_(folder: Path) -> None:
            folder.mkdir(parents=True)
            source = ROOT / "tests" / "support" / f"{name}.c"
            if compiler := shutil.which("cc"):
                library = folder / f"{name}.so"
                subprocess.run([compiler, "-shared", "-fPIC", f"-DNUMBER={number}", "-o", library, source], check=True)

        library = once(f"{name}-{number}", compile_) / f"{name}.so"
        return {"LD_PRELOAD": str(library)} if library.exists() else {}

    return variables


@pytest.fixture(scope="session")
def calendar(preloaded: Callable[[str, int], dict[str, str]]) -> Callable[[int], dict[str, str]]:
    """Return a maker of the variables by which programs see a date so many days ago, none without a C compiler."""
    return partial(preloaded, "calendar")


@pytest.fixture(scope="session")
def no_flock(preloaded: Callable[[str, int], dict[str, str]]) -> Callable[[int], dict[str, str]]:
    """Return a maker of the variables by which programs see no `flock` but an error of this number."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    return partial(preloaded, "no_flock")


@pytest.fixture(scope="session")
def build(once: Callable[[str, Callable[[Path], object]], Path], calendar: Callable[[int], dict[str, str]]):
    """Return a maker of `engines.BUILDS` by name: the tiny study built from nothing, for nobody to change."""

    def make(name: str) -> Path:
        chosen = engines.BUILDS[name]

        def start(folder: Path) -> None:
            engines.lay_out(folder / chosen.folder, {})
            process = engines.start(
                chosen.command, folder / chosen.folder, calendar(chosen.days) | chosen.variables, chosen.umask
            )
            printed, _ = process.communicate(timeout=engines.HUNG)
            assert process.returncode == 0, f"{name}:\n{printed[-3000:]}"

        return once(f"build-{name}", start) / chosen.folder

    return make
