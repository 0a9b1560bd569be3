"""Streams: queues of work that a training hands to its device without waiting for it.

On a CPU, work is done when it has been handed over. On CUDA every training has streams of its own, so that several
share a GPU in one process, and what it repeats is recorded as a CUDA graph.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor

from vanishing.config import ParameterError

MOST = 16
"""Slots that a process may have, each with two CUDA streams: PyTorch hands out 32 and then the first ones again."""

WARM_UP = 3
"""Eager runs before a capture: they load kernels and allocate workspaces."""


class Mark:
    """A point in a stream, reached once all work before it is done: at once on a CPU, on CUDA an event."""

    def query(self) -> bool:
        """Return whether the device has reached it, without waiting."""
        return True

    def synchronize(self) -> None:
        """Sleep until the device has reached it."""


class Pause(Mark):
    """A mark that is reached once a time has passed, for a task that waits for something else than the device."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def query(self) -> bool:
        """Return whether the time has passed."""
        return time.monotonic() >= self._until

    def synchronize(self) -> None:
        """Sleep until it has."""
        time.sleep(max(0.0, self._until - time.monotonic()))


class Stream:
    """A queue of work on a CPU, which is done at once.

    Work within `with stream:` goes to this stream.
    """

    steps = 1
    """Training steps that are handed over between two looks at the clock and at other trainings."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def mark(self) -> Mark:
        """Mark the present end of the queue."""
        return Mark()

    def pool(self) -> Any:
        """Return a memory pool for the recordings of one training, which never run at the same time."""
        return None

    def record(self, work: Callable[[], None], changed: Mapping[str, Tensor], pool: Any) -> Callable[[], None]:
        """Return a function that hands over `work` once; on CUDA it replays a graph.

        Args:
            work: reads and writes the same tensors each time, and never waits for the device.
            changed: every tensor that it changes and whose content counts; recording leaves them as they were.
            pool: from `pool`.
        """
        return work

    def beside(self, after: Mark) -> AbstractContextManager[object]:
        """Return a context for copies to the host: they start once `after` is reached and wait for no later work."""
        return contextlib.nullcontext()

    def no_failed_allocations(self) -> AbstractContextManager[object]:
        """Return a context that raises `torch.OutOfMemoryError` if an allocation failed within it.

        cuDNN then silently takes an algorithm that needs less memory, and the training would give other bytes.
        """
        return contextlib.nullcontext()


class CudaStream(Stream):
    """Two CUDA streams, one for work and one for copies to the host, that nothing else in the process uses.

    Captures run on the first one too. By default all captures of a process share one stream, and so one cuBLAS
    workspace: two graphs that replay at once would overwrite each other's.
    """

    steps = 25

    def __init__(self, device: torch.device) -> None:
        self.work, self.copies = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
        self._entered: list[AbstractContextManager[object]] = []

    def __enter__(self) -> None:
        self._entered.append(torch.cuda.stream(self.work))
        self._entered[-1].__enter__()

    def __exit__(self, *error: object) -> None:
        self._entered.pop().__exit__(None, None, None)

    def mark(self) -> Mark:
        """Mark the present end of the queue; to wait for it does not keep a processor busy."""
        event: Any = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(self.work)
        return cast(Mark, event)

    def pool(self) -> Any:
        """Return a new memory pool, which is freed with the last recording."""
        return torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None], changed: Mapping[str, Tensor], pool: Any) -> Callable[[], None]:
        """Capture `work` after a warm-up."""
        with self:
            before = {name: tensor.clone() for name, tensor in changed.items()}
            for _ in range(WARM_UP):
                work()
            graph = torch.cuda.CUDAGraph()
            # thread_local: other threads, which copy checkpoints to the host meanwhile, do not break the capture
            with torch.cuda.graph(graph, pool=pool, stream=self.work, capture_error_mode="thread_local"):
                work()
            with torch.no_grad():
                for name, tensor in changed.items():
                    tensor.copy_(before[name])
        return functools.partial(_replay, graph, work)

    @contextlib.contextmanager
    def beside(self, after: Mark) -> Iterator[None]:
        """Work on the stream for copies, which first waits on the device for `after`."""
        self.copies.wait_event(cast(torch.cuda.Event, after))
        with torch.cuda.stream(self.copies):
            yield

    @contextlib.contextmanager
    def no_failed_allocations(self) -> Iterator[None]:
        """Compare PyTorch's count of failed allocations before and after."""
        before = torch.cuda.memory_stats()["num_ooms"]
        yield
        if torch.cuda.memory_stats()["num_ooms"] > before:
            raise torch.OutOfMemoryError("an operation went without the memory that it asked for")


def _replay(graph: torch.cuda.CUDAGraph, _: Callable[[], None]) -> None:
    """Replay the recording of work that is kept with it: a graph knows its tensors by their addresses alone."""
    graph.replay()


class Slot:
    """A place for one training at a time, with the streams that it works on."""

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}

    def on(self, device: torch.device) -> Stream:
        """Return the slot's stream on a device; on CUDA, up to `MOST` slots have distinct streams."""
        if device.type not in self._streams:
            self._streams[device.type] = CudaStream(device) if device.type == "cuda" else Stream()
        return self._streams[device.type]


def slots(at_once: int) -> list[Slot]:
    """Return a slot for each of `at_once` trainings; `ParameterError` for more than `MOST`."""
    if not 1 <= at_once <= MOST:
        raise ParameterError(f"--at-once {at_once}: allowed: 1 to {MOST}")
    return [Slot() for _ in range(at_once)]
