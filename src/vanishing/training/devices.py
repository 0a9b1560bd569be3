"""The device that a run computes on, and the settings under which it gives the same bytes twice."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import platform
import re
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch

from vanishing import config
from vanishing.console import say
from vanishing.environment import switches
from vanishing.errors import UserError
from vanishing.training import gpus, precision

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's mallopt: the size from which free memory is returned, and the number of blocks from mmap."""

NO_GPU = "this machine has no CUDA device"

_say_once = functools.cache(say)
_in_force: tuple[config.Train, bool] | None = None
"""Arguments of the last `configure`."""


def numerics(train: config.Train, measuring: bool = False) -> dict[str, Any]:
    """Describe the settings of PyTorch that change bits; `configure` puts them in force.

    The number of threads comes from the configuration, never from a scheduler: another number gives other sums. fp32
    means IEEE single precision, where PyTorch's default convolves in TF32 on CUDA.

    Args:
        train: precision and threads.
        measuring: compute in IEEE single precision, whatever the run trains in.
    """
    tf32 = train.precision == "tf32" and not measuring
    return {
        "threads": train.threads,
        "deterministic_algorithms": True,
        "cudnn_benchmark": False,
        "cudnn_allow_tf32": tf32,
        "matmul_allow_tf32": tf32,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }


def configure(train: config.Train, measuring: bool = False) -> torch.device:
    """Set PyTorch up so that the same seed gives the same bytes, and return the device; see `numerics` and `choose`."""
    global _in_force  # noqa: PLW0603 - PyTorch's settings are the process's too
    device, settings = choose(train, measuring), numerics(train, measuring)
    torch.use_deterministic_algorithms(settings["deterministic_algorithms"])
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = settings["cudnn_benchmark"]
    torch.backends.cudnn.allow_tf32 = settings["cudnn_allow_tf32"]
    torch.backends.cuda.matmul.allow_tf32 = settings["matmul_allow_tf32"]
    torch.set_num_threads(settings["threads"])
    _keep_memory()
    _in_force = train, measuring
    return device


def reconfigure(train: config.Train) -> None:
    """Put the settings of `train` in force again if `configure` was called for another run in between."""
    if _in_force != (train, False):
        configure(train)


def choose(train: config.Train, measuring: bool = False) -> torch.device:
    """Return the device that a run computes on; with `auto`, a GPU that cannot be used is named in a line.

    Raises:
        UserError: if the run needs a GPU, and this machine has no usable one; if it needs fused kernels, and their
            compiler is missing.
    """
    # CUDA reads both when it starts; streams beyond the connections, 8 by default, wait for one another
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = numerics(train)["CUBLAS_WORKSPACE_CONFIG"]
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    if train.device != "cpu":
        gpus.take()
    obstacle = "" if train.device == "cpu" else cuda_obstacle()
    if train.device == "cpu" or (train.device == "auto" and obstacle):
        if obstacle not in ("", NO_GPU):
            _say_once(f"train.device = 'auto': {obstacle}; computing on the CPU")
        return torch.device("cpu")
    if obstacle:
        raise UserError(f"train.device = 'cuda': {obstacle}; allowed here: auto, cpu")
    if train.kernels == "fused" and not measuring:
        _check_compiler()
    return torch.device("cuda")


def _check_compiler() -> None:
    """Raise `UserError` unless Triton can compile for this GPU: it writes C to call a kernel by, and bf16 needs 8.0."""
    major, minor = torch.cuda.get_device_capability()
    if not importlib.util.find_spec("triton"):
        missing = "the package triton is not installed"
    elif not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        missing = "gcc or clang, which Triton needs, is not installed"
    elif not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing = "Python.h, which Triton needs (Debian: python3-dev), is not installed"
    elif major < 8:
        missing = f"{torch.cuda.get_device_name()} has compute capability {major}.{minor}, and 8.0 is needed"
    else:
        return
    raise UserError(f"train.kernels = 'fused': {missing}; allowed here: pytorch")


def cuda_obstacle() -> str:
    """Say why this machine cannot compute on a GPU; an empty text if it can.

    Metal has no double precision (PyTorch, MPS backend: Double-precision types), and ROCm reports its GPUs as CUDA's.
    """
    if torch.backends.mps.is_available():
        return "an Apple GPU has neither CUDA nor the double precision that sums are taken in"
    if not torch.cuda.is_available():
        return NO_GPU
    if torch.version.hip:
        return f"PyTorch {torch.__version__} is built for AMD GPUs (ROCm), on which nothing here has been tested"
    capability, kernels = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
    if kernels and not any(_runs(built, capability) for built in kernels):
        name = f"{torch.cuda.get_device_name()}, of compute capability {capability[0]}.{capability[1]}"
        return f"PyTorch {torch.__version__} has kernels for {', '.join(kernels)}, and none for {name}"
    return ""


def _runs(built: str, capability: tuple[int, int]) -> bool:
    """Return whether code built for an architecture, such as sm_86 or compute_90, runs on a compute capability.

    Binaries (sm) run within their major version, from their minor one on; PTX (compute) on all that is newer
    (NVIDIA, CUDA C++ Programming Guide: Binary Compatibility, PTX Compatibility).
    """
    parts = re.match(r"(sm|compute)_(\d+)(\d)", built)
    if not parts:
        return True  # an unknown naming scheme: CUDA itself will tell
    kind, least = parts[1], (int(parts[2]), int(parts[3]))
    return capability >= least and (kind == "compute" or capability[0] == least[0])


def memory_format(train: config.Train, device: torch.device) -> torch.memory_format:
    """Return the memory format of activations and weights in which convolutions are fastest; it changes sums.

    Channels last on a CPU, where oneDNN's convolutions are 1.15 to 1.6 times as fast with it, for tensor cores, which
    want it (NVIDIA, Deep Learning Performance: Convolutional Layers), and for the fused kernels; channels first for
    IEEE single precision on CUDA, whose kernels are written for it. `benchmarks/choices.py` measures the other one too.
    """
    plain = device.type == "cuda" and train.precision == "fp32" and train.kernels == "pytorch"
    return torch.contiguous_format if plain else torch.channels_last


def _keep_memory() -> None:
    """Tell glibc to keep freed memory for the next step: fresh pages for every activation cost a tenth of a step."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def processor() -> str:
    """Name the processor, or its architecture where the system does not tell more."""
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else platform.machine()


def driver() -> str | None:
    """Return the version line of NVIDIA's driver, None without one."""
    return next(iter(_lines("/proc/driver/nvidia/version")), None)


def _lines(name: str) -> list[str]:
    path = Path(name)
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def hardware(device: torch.device) -> str:
    """Name the GPU, or the processor with the number of threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{processor()}, {torch.get_num_threads()} threads"


def describe(device: torch.device) -> str:
    """Describe hardware and versions in a line for the log, in more detail than `environment`."""
    parts = [f"PyTorch {torch.__version__}", f"Python {platform.python_version()}", platform.machine()]
    if device.type == "cuda":
        parts += [torch.cuda.get_device_name(), f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}"]  # type: ignore[no-untyped-call]
        parts += filter(None, [driver()])
    else:
        parts += [torch.backends.cpu.get_cpu_capability(), f"{torch.get_num_threads()} threads"]
    return ", ".join(parts)


def environment(train: config.Train, device: torch.device) -> dict[str, Any]:
    """Return what the results depend on beside the configuration.

    Some keys are there only where they say something: `switches` that the user has set; `bf16` where it is computed in
    fp32 (`precision.autocast`); `loss` of bf16 on CUDA, whose trainings without it rounded it (`step.cross_entropy`).
    """
    chosen = switches()
    in_fp32 = train.precision == "bf16" and device.type == "cpu" and not precision.fast()
    return {
        "device": device.type,
        "kind": torch.cuda.get_device_name() if device.type == "cuda" else torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "precision": train.precision,
        "threads": train.threads,
        **({"bf16": "in fp32"} if in_fp32 else {}),
        **({"loss": "in fp32"} if train.precision == "bf16" and device.type == "cuda" else {}),
        **({"switches": chosen} if chosen else {}),
    }
