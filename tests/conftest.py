"""What the tests share: the study of `params.yaml`, a run and a data set that train in a moment, and three builds."""

import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import engines
import hypothesis
import pytest

from vanishing import config
from vanishing.data import synthetic
from vanishing.data.dataset import Dataset, canonical, hold_out

# the same examples every time, so that no build fails by chance; without a deadline, which a busy machine misses
hypothesis.settings.register_profile("project", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("project")

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


@pytest.fixture(scope="session")
def calendar(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, str]]:
    """Return a maker of the variables by which programs see a date so many days ago.

    Without a C compiler they are none, and so the date is the machine's.
    """
    library = tmp_path_factory.mktemp("calendar") / "calendar.so"
    if compiler := shutil.which("cc"):
        source = ROOT / "tests" / "support" / "calendar.c"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)

    def behind(days: int) -> dict[str, str]:
        return {"LD_PRELOAD": str(library), "DAYS_BEHIND": f"{days}"} if library.exists() else {}

    return behind


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory, calendar: Callable[[int], dict[str, str]]) -> dict[str, Path]:
    """Make each of `engines.BUILDS`, all at the same time; return their folders."""
    folders, started = {}, {}
    for name, build in engines.BUILDS.items():
        folders[name] = tmp_path_factory.mktemp(name) / build.folder
        engines.lay_out(folders[name], {})
        variables = calendar(build.days) | build.variables
        started[name] = engines.start(build.command, folders[name], variables, build.umask)
    printed = {name: process.communicate(timeout=600)[0] for name, process in started.items()}
    for name, process in started.items():
        assert process.returncode == 0, f"{name}:\n{printed[name][-3000:]}"
    return folders
