"""Checkpoints: tensors in safetensors files that hold their own checksum.

Snapshots, the weights of the best epoch and the resumable state have one format: tensors, plain values beside them, and
a SHA-256 over both, so that a flipped byte is an error and never a slightly different model. Equal content gives equal
bytes, whatever the file's name. `loop.Training` resumes from the state.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from vanishing import files
from vanishing.errors import UserError
from vanishing.training.streams import Stream

KEY = "vanishing"
"""The only metadata key: safetensors orders several at random."""

MAX_BYTES = 4 << 30
"""A larger file is neither read, since a checkpoint is read whole, nor written.

A resumable state holds 16 bytes for each parameter, so that networks may have 268 million; the study's largest has 1.3.
"""

PENDING = 4
"""Checkpoints that may wait to be written, each a copy of its tensors in the device's memory."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or not the one wanted."""


class Writer:
    """Writes checkpoints in a thread of its own, in order, so that no training step waits for a disk.

    Leaving the context waits until all are written, and raises their first error unless another error leaves it.

    Args:
        stream: the one in which the tensors change.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._pending: deque[Future[None]] = deque()

    def write(self, path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any] | None = None) -> None:
        """Write the tensors as they are now, later; see the function `write`.

        Call it within the stream. It waits only while `PENDING` writes are under way. Once a write has failed, this
        and every later call raise its error.
        """
        while self._pending and (len(self._pending) >= PENDING or self._pending[0].done()):
            self._retire()
        copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        taken, before = self._stream.mark(), self._pending[-1] if self._pending else None

        def later() -> None:
            if before:
                before.result()  # if a snapshot could not be written, the state after it must not be
            # not behind the training's work, where the copies would wait for all steps that have been handed over
            with self._stream.beside(taken):
                write(path, copies, values)

        self._pending.append(self._thread.submit(later))

    def wait(self) -> None:
        """Wait until all are written; raise the first error."""
        while self._pending:
            self._retire()

    def _retire(self) -> None:
        """Wait for the oldest write; a failed one stays the oldest, so that every later call raises its error."""
        self._pending[0].result()
        self._pending.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._thread.shutdown()
        with contextlib.nullcontext() if error is None else contextlib.suppress(Exception):
            self.wait()


def write(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any] | None = None) -> None:
    """Write tensors, and values that JSON can hold, to `path`, whole or not at all.

    Raises:
        CheckpointError: for more than `MAX_BYTES` of tensors.
    """
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    size = sum(tensor.nbytes for tensor in content.values())
    if size > MAX_BYTES:
        raise CheckpointError(f"{path}: would have {size:,} bytes; the limit is {MAX_BYTES:,}: a smaller network fits")
    files.write(path, save(content, {KEY: _envelope(content, values or {})}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and values that `write` wrote; `CheckpointError` if the file is missing or damaged."""
    try:
        if path.exists() and not path.is_file():
            raise IsADirectoryError(path) if path.is_dir() else ValueError("not a regular file")
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_BYTES:,} bytes; no checkpoint of this project")
        content = path.read_bytes()
        tensors = load(content)
        with safe_open(path, framework="pt") as handle:
            envelope = (handle.metadata() or {})[KEY]
        values = json.loads(envelope)["values"]
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: missing; `dvc pull` brings it if it was pushed, `vanishing train` makes it"
        ) from None
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{path}: damaged or no checkpoint of this project ({type(error).__name__})") from None
    if envelope != _envelope(tensors, values) or content != save(tensors, {KEY: envelope}):
        raise CheckpointError(f"{path}: damaged: its content does not have the SHA-256 written in it")
    return tensors, values


def load_weights(path: Path, model: nn.Module) -> None:
    """Load a checkpoint into a model; `CheckpointError` if it is missing, damaged or of another model."""
    weights, _ = read(path)
    try:
        model.load_state_dict(weights)
    except RuntimeError:
        again = "the parameters have changed since: set them back, or `vanishing train` trains anew"
        raise CheckpointError(f"{path}: weights of another model; {again}") from None


def _envelope(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> str:
    """Return the metadata: the values, and a SHA-256 over the tensors and them."""
    plain = json.dumps(values, sort_keys=True)
    digest = hashlib.sha256(save(dict(tensors), {KEY: plain})).hexdigest()
    return json.dumps({"sha256": digest, "values": values}, sort_keys=True)
