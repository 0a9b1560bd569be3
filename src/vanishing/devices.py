"""The device that a run computes on, and the settings under which it gives the same bytes twice."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path
from typing import Any

import torch

from vanishing import parameters
from vanishing.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Names of glibc's malloc.h: from what size free memory is given back, and how many blocks come from mmap."""


def configure(train: parameters.Train) -> torch.device:
    """Set PyTorch up so that the same seed gives the same bytes, and return the device.

    The number of threads comes from the configuration, never from a scheduler: another number gives
    other sums. fp32 means IEEE single precision; PyTorch's default would convolve in TF32 on CUDA.
    """
    kind = train.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    elif kind == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device = 'cuda': this machine has no CUDA device; allowed here: auto, cpu")
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA starts, which is later
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = train.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = train.precision == "tf32"
    torch.set_num_threads(train.threads)
    _keep_memory()
    return torch.device(kind)


def memory_format(train: parameters.Train, device: torch.device) -> torch.memory_format:
    """Return the order in memory of activations and weights that convolutions are fastest in, which changes sums.

    Channels last on a CPU, where oneDNN's are 1.15 to 1.6 times as fast on it, and for tensor cores, which want it
    (NVIDIA, Deep Learning Performance: Convolutional Layers); channels first for IEEE single precision on CUDA,
    whose kernels are written for it, unless ours are to be used, which are not. `benchmarks/choices.py` measures the
    other one too.
    """
    plain = device.type == "cuda" and train.precision == "fp32" and train.kernels == "pytorch"
    return torch.contiguous_format if plain else torch.channels_last


def _keep_memory() -> None:
    """Tell glibc to keep freed memory for the next step: fresh pages for every activation cost a tenth of a step."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def hardware(device: torch.device) -> str:
    """Name what computes: the GPU, or the processor with the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {torch.get_num_threads()} threads"


def describe(device: torch.device) -> str:
    """Describe hardware and versions in a line for the log: what a reviewer asks for beside `environment`."""
    parts = [f"PyTorch {torch.__version__}", f"Python {platform.python_version()}", platform.machine()]
    if device.type == "cuda":
        driver = Path("/proc/driver/nvidia/version")
        parts += [torch.cuda.get_device_name(), f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}"]  # type: ignore[no-untyped-call]
        parts += [driver.read_text().splitlines()[0]] if driver.exists() else []
    else:
        parts += [torch.backends.cpu.get_cpu_capability(), f"{torch.get_num_threads()} threads"]
    return ", ".join(parts)


def environment(train: parameters.Train, device: torch.device) -> dict[str, Any]:
    """Name what the numbers depend on beside the configuration."""
    kind = torch.cuda.get_device_name() if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {
        "device": device.type,
        "kind": kind,
        "torch": torch.__version__,
        "precision": train.precision,
        "threads": train.threads,
    }
