"""The manifest for reviewers: what must be equal for equal bytes and, apart from it, what may differ."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vanishing import config, files, git, project
from vanishing.engines import catalogue, graph
from vanishing.results import store
from vanishing.training import devices

PACKAGES = (
    "torchvision", "numpy", "pandas", "scipy", "matplotlib", "seaborn", "safetensors", "papermill", "pillow", "jinja2",
    "vl-convert-python", "snakemake", "dvc",
)  # fmt: skip


def collect(settings: config.Parameters) -> dict[str, Any]:
    """Return the manifest: `repeats`, which is equal wherever the bytes must be equal, and `varies`."""
    return {"repeats": _repeats(settings), "varies": _varies()}


def as_text(content: dict[str, Any]) -> str:
    """Return a manifest as JSON."""
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def _repeats(settings: config.Parameters) -> dict[str, Any]:
    data = settings.data.path
    apart: Any = {"data": {"sources", *settings.data.absent}, "tensorboard": True}  # on which no byte depends
    made = [path for pattern in catalogue.patterns() for path in Path().glob(pattern)] + [
        path for path in graph.report_text() if path.exists()
    ]
    return {
        "configuration": settings.model_dump(mode="json", exclude=apart),
        "data": {str(data): files.sha256(data) if data.exists() else None},
        "seeds": settings.seeds,
        "numerics": {
            run: {"precision": settings.run(run).train.precision, **devices.numerics(settings.run(run).train)}
            for run in settings.runs
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "vanishing": version("vanishing"),
            **{name: version(name) for name in PACKAGES},
        },
        "code": project.code_hash(),
        "trained": {name: summary["environment"] for name, summary in store.trainings(settings)},
        "outputs": {str(path): files.sha256(path) for path in sorted(made)},
    }


def _varies() -> dict[str, Any]:
    status = git.ask("status", "--porcelain")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": _hardware(),
        "driver": devices.driver(),
        "operating_system": platform.platform(),
        "git": {
            "revision": (git.ask("rev-parse", "HEAD") or "").strip() or None,
            "clean": None if status is None else not status,
            "obstacle": git.obstacle(),
        },
    }


def _hardware() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "processor": devices.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpus,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if gpus else None,  # type: ignore[no-untyped-call]
    }
