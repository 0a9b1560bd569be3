"""Which of a machine's GPUs a process computes on, where an engine runs several processes at once.

CUDA gives every process the first GPU. Here each takes the first that no other holds, by a lock that the operating
system releases with the process; where there are more processes than GPUs, these are shared evenly.
"""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from pathlib import Path

import torch

from vanishing import locks
from vanishing.console import say
from vanishing.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""What CUDA reads when it starts: numbers or identifiers of the GPUs that it may use."""

_held: list[int] = []
"""The open file of this process's lock."""


def take() -> None:
    """Reserve one of several GPUs for this process until it ends, and make CUDA see that one alone.

    It chooses among those of `CUDA_VISIBLE_DEVICES`, by default all. Once CUDA has started it is too late, and nothing
    happens: whoever uses the package as a library may have chosen already.
    """
    if _held or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return
    count = torch.cuda.device_count()  # without starting CUDA
    listed = os.environ.get(VISIBLE, ",".join(map(str, range(count))))
    gpus = [gpu.strip() for gpu in listed.split(",")][:count]
    if len(gpus) < 2:
        return
    folder = Path(tempfile.gettempdir()) / f"vanishing-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for turn, gpu in ((turn, gpu) for turn in itertools.count() for gpu in gpus):
        name = re.sub(r"[^\w-]", "_", gpu)  # MIG devices have slashes
        descriptor = os.open(folder / f"{name}.{turn}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        free = locks.flock(descriptor)
        if free is None:
            raise UserError(f"{folder}: this file system has no flock; choose a GPU yourself, by {VISIBLE}")
        if free:
            _held.append(descriptor)
            os.environ[VISIBLE] = gpu
            sharing = f"; {turn} other{'s share' if turn > 1 else ' shares'} it" if turn else ""
            say(f"computing on GPU {gpu}, one of {len(gpus)}{sharing}")
            return
        os.close(descriptor)
