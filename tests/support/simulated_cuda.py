"""CUDA's streams, events and graphs, simulated on a CPU: what is captured where, and what waits for what.

A capture notes every operation with its operands; a replay runs the same operations on the same tensors, as the
device does, so that whatever Python computed between them is frozen as it is in a graph. Looking at a value during a
capture is an error here as there.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Simulation:
    """What has been called, in order: tuples of a verb and the numbers of streams, events, graphs and pools."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    thread: threading.local = field(default_factory=threading.local)
    """Has the streams that a thread is in."""
    counts: dict[str, int] = field(default_factory=dict)
    capturing: int | None = None
    failed_allocations: int = 0

    @property
    def streams(self) -> list[int]:
        """Return the streams that this thread has entered, the current one last; 0 is the default one."""
        self.thread.__dict__.setdefault("streams", [0])
        return self.thread.streams

    def number(self, kind: str) -> int:
        """Number streams, events, graphs and pools from 1, each kind by itself."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return self.counts[kind]

    def of(self, verb: str) -> list[tuple[Any, ...]]:
        """Return the operands of all calls of one verb."""
        return [call[1:] for call in self.calls if call[0] == verb]

    def install(self, patch: Any) -> Simulation:
        """Put the simulation in the place of PyTorch's, for as long as `patch` (pytest's monkeypatch) lasts."""
        for name, made in (("Stream", Stream), ("Event", Event), ("CUDAGraph", Graph), ("graph", capture)):
            patch.setattr(torch.cuda, name, partial(made, self))
        patch.setattr(torch.cuda, "stream", self.enter)
        patch.setattr(torch.cuda, "graph_pool_handle", lambda: self.number("pool"))
        patch.setattr(torch.cuda, "memory_stats", lambda: {"num_ooms": self.failed_allocations})
        return self

    @contextlib.contextmanager
    def enter(self, stream: Stream) -> Iterator[None]:
        """Stand for `torch.cuda.stream`."""
        self.streams.append(stream.number)
        try:
            yield
        finally:
            left = self.streams.pop()
            assert left == stream.number


class Stream:
    """A stream whose work is done at once."""

    def __init__(self, simulation: Simulation, device: torch.device | None = None) -> None:
        self.simulation, self.number = simulation, simulation.number("stream")

    def wait_event(self, event: Event) -> None:
        """Note who waits for what."""
        self.simulation.calls.append(("wait", self.number, event.number))


class Event:
    """An event that the device reaches once it has been waited for, or looked at twice in vain."""

    def __init__(self, simulation: Simulation, blocking: bool = False) -> None:
        self.simulation, self.number = simulation, simulation.number("event")
        self.blocking, self.looks = blocking, 0

    def record(self, stream: Stream) -> None:
        """Note where it stands."""
        self.simulation.calls.append(("record", stream.number, self.number))

    def query(self) -> bool:
        """Look."""
        self.looks += 1
        return self.looks > 2

    def synchronize(self) -> None:
        """Wait."""
        assert self.blocking, "whoever waits would keep a processor busy"
        self.looks = 2
        self.simulation.calls.append(("synchronize", self.number))


class Graph:
    """A graph that replays its tape."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation, self.number, self.tape = simulation, simulation.number("graph"), Tape()

    def replay(self) -> None:
        """Run what was captured, on the current stream."""
        self.simulation.calls.append(("replay", self.simulation.streams[-1], self.number))
        self.tape.replay()


@contextlib.contextmanager
def capture(simulation: Simulation, graph: Graph, pool: int, stream: Stream, capture_error_mode: str) -> Iterator[None]:
    """Stand for `torch.cuda.graph`: one capture at a time."""
    assert simulation.capturing is None
    simulation.capturing = graph.number
    simulation.calls.append(("capture", stream.number, graph.number, pool, capture_error_mode))
    with simulation.enter(stream), graph.tape:
        yield
    simulation.capturing = None


class Tape(TorchDispatchMode):
    """The operations of a capture, with their operands and results."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note it."""
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a value was looked at during a capture")
        result = function(*args, **(kwargs or {}))
        self.operations.append((function, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """Run all again, each result into the memory that it had; views and what changes in place are there already."""
        with torch.no_grad():
            for function, args, kwargs, result in self.operations:
                again = function(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)
