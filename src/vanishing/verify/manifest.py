"""What a reviewer asks for: what must be the same for the same bytes, and, apart from it, what need not be."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vanishing import config, files, git
from vanishing.engines import catalogue
from vanishing.results import store
from vanishing.training import devices

PACKAGES = (
    "torchvision", "numpy", "pandas", "matplotlib", "seaborn", "safetensors", "papermill", "snakemake", "dvc",
)  # fmt: skip

SOURCES = ("report/*.tex",)
"""What the report is made of beside them."""


def collect(settings: config.Parameters) -> dict[str, Any]:
    """Return the manifest: `repeats`, equal wherever the bytes must be equal, and `varies`."""
    return {"repeats": _repeats(settings), "varies": _varies()}


def as_text(content: dict[str, Any]) -> str:
    """Return a manifest as JSON."""
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _repeats(settings: config.Parameters) -> dict[str, Any]:
    data, patterns = settings.data.path, (*catalogue.patterns(), *SOURCES)
    made = [path for pattern in patterns for path in Path().glob(pattern)]
    return {
        "configuration": settings.model_dump(mode="json", exclude={"data": {"sources"}}),
        "data": {str(data): files.sha256(data) if data.exists() else None},
        "seeds": settings.seeds,
        "numerics": {run: _numerics(settings.run(run).train) for run in settings.runs},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, **_versions()},
        "trained": {name: summary["environment"] for name, summary in store.trainings(settings)},
        "outputs": {str(path): files.sha256(path) for path in sorted(made)},
    }


def _versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


def _numerics(train: config.Train) -> dict[str, Any]:
    """Return the switches of PyTorch that change bits, as `devices.configure` sets them for a run."""
    devices.configure(train.model_copy(update={"device": "cpu"}))  # the switches are the same on any device
    return {
        "precision": train.precision,
        "threads": torch.get_num_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "matmul_allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "CUBLAS_WORKSPACE_CONFIG": os.environ["CUBLAS_WORKSPACE_CONFIG"],
    }


def _varies() -> dict[str, Any]:
    status = git.ask("status", "--porcelain")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": _hardware(),
        "driver": next(iter(_lines("/proc/driver/nvidia/version")), None),
        "operating_system": platform.platform(),
        "git": {
            "revision": (git.ask("rev-parse", "HEAD") or "").strip() or None,
            "clean": None if status is None else not status,
        },
    }


def _hardware() -> dict[str, Any]:
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "processor": names[0] if names else platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "gpus": gpus,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if gpus else None,  # type: ignore[no-untyped-call]
    }


def _lines(name: str) -> list[str]:
    path = Path(name)
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
