"""The device that a run computes on, and the settings under which it gives the same bytes twice."""

from __future__ import annotations

import os
from typing import Any

import torch

from vanishing import parameters
from vanishing.errors import UserError


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
    return torch.device(kind)


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
