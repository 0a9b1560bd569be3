"""Several trainings on one device at once: iterations per second of all of them together.

    python benchmarks/sharing.py [--device cpu|cuda] [--at-once 1 2 4 8 16] [--precision bf16] [--kernels fused]

In one process, as `vanishing train --at-once N` has them, each in a stream of its own; and as a process each, which is
what `snakemake --resources gpu=N` does. All are there, warmed up, before anything is measured, so that numbers of few
and of many are taken in turn. On CUDA the processes are measured again under NVIDIA's Multi-Process Service, a private
one that ends with the benchmark; where it cannot be had, that is said.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from multiprocessing.connection import Connection
from typing import Any
from unittest import mock

import measure
import torch

from vanishing.training import devices, round_robin, streams
from vanishing.training.streams import Mark, Slot, Stream

MODEL = "vgg38_bn_rc"
CONTROL = "nvidia-cuda-mps-control"

PATIENCE = 300.0
"""Seconds in which a training must start, or end a measurement."""

Together = Callable[[int], float]
"""Measures so many trainings: iterations per second of all of them."""


class Endless:
    """A training that only takes steps, until a time is up; a task of `round_robin`."""

    def __init__(self, step: Callable[[], None], stream: Stream) -> None:
        self.step, self.stream, self.until, self.done = step, stream, 0.0, 0

    def proceed(self, slot: Slot) -> Generator[Mark, None, None]:
        """Take steps as `loop.Training` does."""
        ahead = deque([self.stream.mark()])
        while time.perf_counter() < self.until:
            for _ in range(self.stream.steps):
                self.step()
            self.done += self.stream.steps
            ahead.append(self.stream.mark())
            yield ahead.popleft()
        yield ahead.pop()

    def save(self) -> None:
        """Save nothing."""


@contextlib.contextmanager
def in_one_process(options: argparse.Namespace) -> Iterator[Together]:
    """Have trainings ready in this process, each in a stream of its own."""
    run, train = measure.configured(MODEL, options.device, options.threads, **chosen(options)), measure.images()
    device = devices.configure(run.train)
    ready = [slot.on(device) for slot in streams.slots(max(options.at_once))]
    tasks = [Endless(measure.step_of(run, train, device, stream=stream), stream) for stream in ready]

    def together(count: int) -> float:
        start = time.perf_counter()
        waiting = tasks[:count]
        for task in waiting:
            task.until, task.done = start + options.window, 0
        round_robin.run(lambda _: waiting.pop() if waiting else None, count)
        measure.synchronise(device)
        return sum(task.done for task in tasks[:count]) / (time.perf_counter() - start)

    yield together


def work(parent: Connection, options: argparse.Namespace) -> None:
    """Train for a window whenever the parent says so, and send it the iterations per second."""
    with in_one_process(argparse.Namespace(**vars(options) | {"at_once": [1]})) as together:
        together(1)
        with contextlib.suppress(EOFError):  # the parent has closed its end
            parent.send(0.0)
            while parent.recv():
                parent.send(together(1))


def received(pipe: Connection, seconds: float) -> float:
    """Return what comes through a pipe; `TimeoutError` after so many seconds."""
    if not pipe.poll(seconds):
        raise TimeoutError(f"a training has not answered within {seconds:.0f} s")
    return float(pipe.recv())


@contextlib.contextmanager
def a_process_each(options: argparse.Namespace) -> Iterator[Together]:
    """Start a process for each training, which trains on demand; end them with the block."""
    context = multiprocessing.get_context("spawn")
    started = []
    for _ in range(max(options.at_once)):
        here, there = context.Pipe()
        process = context.Process(target=work, args=(there, options), daemon=True)
        process.start()
        there.close()  # so that the death of the process is noticed
        started.append((process, here))

    def together(count: int) -> float:
        for _, here in started[:count]:
            here.send(True)
        return sum(received(here, options.window + PATIENCE) for _, here in started[:count])

    try:
        for _, here in started:
            received(here, PATIENCE)
        yield together
    finally:
        for process, here in started:
            here.close()  # at which the process ends
            process.join(timeout=30)
            process.terminate()


@contextlib.contextmanager
def under_the_service(options: argparse.Namespace) -> Iterator[Together]:
    """Do what `a_process_each` does under a Multi-Process Service of our own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # the service has so many connections for all of its clients
        own = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder, "CUDA_DEVICE_MAX_CONNECTIONS": "2"}
        with mock.patch.dict(os.environ, own):
            subprocess.run([CONTROL, "-d"], check=True)
            try:
                with a_process_each(options) as together:
                    yield together
            finally:
                subprocess.run([CONTROL], input="quit\n", text=True, check=True, timeout=PATIENCE)


def chosen(options: argparse.Namespace) -> dict[str, Any]:
    """Return the training settings that are not the project's defaults."""
    return {"precision": options.precision, "kernels": options.kernels}


def measured(together: Together, options: argparse.Namespace) -> dict[int, list[float]]:
    """Measure each number of trainings in turn, after one round of warm-up."""
    found: dict[int, list[float]] = {count: [] for count in sorted(options.at_once)}
    for repeat in range(options.repeats + 1):
        for count, totals in found.items():
            rate = together(count)
            if repeat:
                totals.append(rate)
    return found


def main() -> None:
    """Measure, print and write the table."""
    parser = measure.arguments(__doc__ or "")
    parser.set_defaults(threads=1)  # of each training
    parser.add_argument("--at-once", nargs="+", type=int, help="trainings at once")
    parser.add_argument("--window", type=float, help="seconds of one measurement")
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16"], default="bf16")
    parser.add_argument("--kernels", choices=["pytorch", "fused"], default="pytorch")
    options = parser.parse_args()
    cuda = options.device == "cuda"
    options.at_once = options.at_once or ([1, 2, 4, 8, 16] if cuda else [1, 2, 4])
    options.window = options.window or (2.0 if cuda else 10.0)
    torch.set_num_threads(options.threads)
    ways = {"one process": in_one_process, "a process each": a_process_each}
    rows = []
    for way, context in (ways | ({"a process each, MPS": under_the_service} if cuda else {})).items():
        try:
            with context(options) as together:
                found = measured(together, options)
        except (OSError, subprocess.SubprocessError, EOFError, torch.OutOfMemoryError) as error:
            print(f"{way}: did not work here: {error!r}")
            continue
        alone = found[min(found)]
        for count, totals in found.items():
            ratios = [total / one for total, one in zip(totals, alone, strict=True)]
            rows.append(
                {
                    "way": way,
                    "at once": count,
                    **chosen(options),
                    "together (it/s)": statistics.median(totals),
                    "against the fewest": statistics.median(ratios),
                    "min": min(ratios),
                    "max": max(ratios),
                }
            )
    device = torch.device(options.device)
    measure.report(rows, f"sharing-{device.type}", device, options.output)


if __name__ == "__main__":
    main()
