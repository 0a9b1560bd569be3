"""Queues of work on a device: what a training hands over without waiting for it.

On a CPU work is done when it has been handed over. On CUDA every training has a stream of its own, so that
several share a GPU in one process, and what it repeats is recorded as a CUDA graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from vanishing.config import ParameterError

MOST = 16
"""Slots that a process may have, each with two CUDA streams: PyTorch hands out 32 and then the first ones again."""

WARM_UP = 3
"""Eager runs before a capture: kernels are loaded and workspaces allocated in them."""


class Mark:
    """A place in a queue: whether all that was handed over before it is done. On a CPU it always is."""

    def done(self) -> bool:
        """Return without waiting whether it is."""
        return True

    def wait(self) -> None:
        """Wait until it is, without using the processor."""


class Stream:
    """A queue of work on a CPU, which is done at once.

    Work within `with stream:` goes to this queue.
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
        """Return a handle of memory that recordings of one training share, as they never run at once."""
        return None

    def record(self, work: Callable[[], None], changed: Mapping[str, Tensor], pool: Any) -> Callable[[], None]:
        """Return what hands `work` over once; on CUDA as one graph, replayed.

        Args:
            work: reads and writes the same tensors each time, and never waits for the device.
            changed: every tensor that it changes and whose content counts; they are left as they were.
            pool: what `pool` gave for this training.
        """
        return work

    def beside(self, after: Mark) -> AbstractContextManager[object]:
        """Return a context whose work overtakes what this queue holds: copies to the host, once `after` is reached."""
        return contextlib.nullcontext()

    def unstrained(self) -> AbstractContextManager[object]:
        """Return a context that raises `torch.OutOfMemoryError` if memory was asked for in vain within it.

        cuDNN then tries an algorithm that needs less, in silence: other sums than the training gives alone.
        """
        return contextlib.nullcontext()


class CudaMark(Mark):
    """A CUDA event; whoever waits for it sleeps."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        self.event.record(stream)

    def done(self) -> bool:
        """Return without waiting whether the device has passed it."""
        return bool(self.event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        """Sleep until the device has passed it."""
        self.event.synchronize()


class CudaStream(Stream):
    """Two CUDA streams, one for work and one for copies to the host, that nothing else in the process uses.

    Captures take place on the first too. By default all captures of a process share one stream, and with it cuBLAS's
    workspace, of which there is one a stream: two graphs that replay at once would overwrite each other's.

    Args:
        device: a CUDA device.
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

    def mark(self) -> CudaMark:
        """Mark the present end of the queue."""
        return CudaMark(self.work)

    def pool(self) -> Any:
        """Return a new handle; the memory is freed with the last recording."""
        return torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None], changed: Mapping[str, Tensor], pool: Any) -> Callable[[], None]:
        """Capture `work`, after a few runs that warm up."""
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
        return graph.replay

    @contextlib.contextmanager
    def beside(self, after: Mark) -> Iterator[None]:
        """Work on the stream of copies, which first waits on the device for `after`."""
        if isinstance(after, CudaMark):
            self.copies.wait_event(after.event)
        with torch.cuda.stream(self.copies):
            yield

    @contextlib.contextmanager
    def unstrained(self) -> Iterator[None]:
        """Compare the number of allocations that failed."""
        before = _failed_allocations()
        yield
        if _failed_allocations() > before:
            raise torch.OutOfMemoryError("an operation went without the memory that it asked for")


def _failed_allocations() -> int:
    return int(torch.cuda.memory_stats()["num_ooms"])


class Slot:
    """A place that trainings take one after another, with the streams that they work on."""

    def __init__(self) -> None:
        self._streams: dict[str, Stream] = {}

    def on(self, device: torch.device) -> Stream:
        """Return the slot's queue on a device; on CUDA the streams of `MOST` slots are distinct."""
        if device.type not in self._streams:
            self._streams[device.type] = CudaStream(device) if device.type == "cuda" else Stream()
        return self._streams[device.type]


def slots(at_once: int) -> list[Slot]:
    """Return places for so many trainings; `ParameterError` for more than there are distinct streams for."""
    if not 1 <= at_once <= MOST:
        raise ParameterError(f"--at-once {at_once}: allowed: 1 to {MOST}")
    return [Slot() for _ in range(at_once)]
