"""Several trainings on one device at once: iterations per second of all of them together.

    python benchmarks/sharing.py [--device cpu|cuda] [--processes 1 2 4 8]

Every training is a process that is there, warmed up, before anything is measured, so that its numbers are taken in
turn with those of fewer and of more. On CUDA it is measured again under NVIDIA's Multi-Process Service, a private one
that ends with the benchmark; where it cannot be had, that is said.
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
from collections.abc import Iterator
from multiprocessing.connection import Connection

import measure
import torch

from vanishing import devices

MODEL = "vgg38_bn_rc"
CONTROL = "nvidia-cuda-mps-control"

PATIENCE = 300.0
"""Seconds in which a training must start, or end a measurement."""


def work(parent: Connection, device: str, threads: int, window: float) -> None:
    """Train for `window` seconds whenever the parent says so, and send it the iterations per second."""
    run = measure.configured(MODEL, device, threads)
    where = devices.configure(run.train)
    step = measure.step_of(run, measure.images(), where)
    inner = 50 if where.type == "cuda" else 1
    for _ in range(measure.WARM_UP):
        step()
    measure.synchronise(where)
    with contextlib.suppress(EOFError):  # the parent has closed its end
        parent.send(True)
        while parent.recv():
            start, done = time.perf_counter(), 0
            while time.perf_counter() - start < window:
                for _ in range(inner):
                    step()
                measure.synchronise(where)
                done += inner
            parent.send(done / (time.perf_counter() - start))


def received(pipe: Connection, seconds: float) -> float:
    """Return what comes through a pipe; `TimeoutError` after so many seconds."""
    if not pipe.poll(seconds):
        raise TimeoutError(f"a training has not answered within {seconds:.0f} s")
    return float(pipe.recv())


@contextlib.contextmanager
def trainings(count: int, device: str, threads: int, window: float) -> Iterator[list[Connection]]:
    """Start `count` processes that train on demand; end them with the block."""
    context = multiprocessing.get_context("spawn")
    started = []
    for _ in range(count):
        here, there = context.Pipe()
        process = context.Process(target=work, args=(there, device, threads, window), daemon=True)
        process.start()
        there.close()  # so that the death of the process is noticed
        started.append((process, here))
    try:
        for _, here in started:
            received(here, PATIENCE)
        yield [here for _, here in started]
    finally:
        for process, here in started:
            here.close()  # at which the process ends
            process.join(timeout=30)
            process.terminate()


@contextlib.contextmanager
def service() -> Iterator[None]:
    """Run a Multi-Process Service of our own for the processes that are started within the block."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        os.environ.update(own)
        try:
            subprocess.run([CONTROL, "-d"], check=True)
            try:
                yield
            finally:
                subprocess.run([CONTROL], input="quit\n", text=True, check=True, timeout=PATIENCE)
        finally:
            for name in own:
                del os.environ[name]


def measured(options: argparse.Namespace) -> dict[int, list[float]]:
    """Measure the sum of the rates of the first n trainings, for each n in turn, after one round of warm-up."""
    counts = sorted(options.processes)
    found: dict[int, list[float]] = {count: [] for count in counts}
    with trainings(max(counts), options.device, options.threads, options.window) as running:
        for repeat in range(options.repeats + 1):
            for count in counts:
                for each in running[:count]:
                    each.send(True)
                total = sum(received(each, options.window + PATIENCE) for each in running[:count])
                if repeat:
                    found[count].append(total)
    return found


def main() -> None:
    """Measure, print and write the table."""
    parser = measure.arguments(__doc__ or "")
    parser.set_defaults(threads=1)  # of each process
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2, 4, 8], help="trainings at once")
    parser.add_argument("--window", type=float, default=10.0, help="seconds of one measurement")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = {"none": measured(options)}
    if options.device == "cuda":
        try:
            with service():
                found["MPS"] = measured(options)
        except (OSError, subprocess.SubprocessError, EOFError) as error:
            print(f"the Multi-Process Service did not work here{' to its end' * ('MPS' in found)}: {error!r}")
    rows = []
    for kind, rates in found.items():
        alone = rates[min(rates)]
        for count, totals in rates.items():
            ratios = [total / one for total, one in zip(totals, alone, strict=True)]
            rows.append(
                {
                    "service": kind,
                    "processes": count,
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
