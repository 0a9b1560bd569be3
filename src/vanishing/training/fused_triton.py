"""The kernels of `fused`: two launches forward, two backward.

Activations lie channels last: a matrix of `rows` pixels by CHANNELS. A program takes `chunk` rows of up to COLUMNS
channels, in tiles of ROWS. The first launch of a pass writes a partial result for each program; every program of the
second combines all of them in the same order, which saves a third launch and a barrier.

There are no atomics, and the division into programs depends on the shape alone: the same input gives the same bytes
twice. Nothing waits for the device, so that a CUDA graph can record it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from vanishing.training.fused_reference import Gradients, Settings

TILE = 8192
"""Values of a tensor that a program loads at once: 32 a thread, four loads of 16 bytes in bfloat16, which leaves
registers for the two float32 numbers that `measure` and `gather` keep for each value."""

OPTIONS = {"num_warps": 8, "enable_fp_fusion": True}
"""Compiler options; newer compilers fuse multiplication and addition only on request."""

COLUMNS = 64
"""Most channels of a program: 128 bytes of a row in bfloat16, a whole cache line."""

PROGRAMS = 128
"""Most programs along the rows: about one for each processor of an A100 or H100."""


@triton.jit
def _place(rows, chunk, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return this program's number of rows, where they begin, the rows and columns of a tile, and its offsets."""
    first = tl.program_id(0) * chunk
    row = tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    begin = first.to(tl.int64) * CHANNELS  # a minibatch may have more than 2^31 values, a program's share has not
    return tl.minimum(chunk, rows - first), begin, row, column, row * CHANNELS + column


@triton.jit
def _combine(total, counts, means, squares):
    """Combine means and sums of squared deviations of groups along the first axis (Chan et al. 1983).

    Adding the mean of the residuals makes the mean as exact as rounding allows; otherwise its error would show where
    the numbers are far from 0 and close to each other.
    """
    mean = tl.sum(counts * means, 0, keep_dims=True) / total
    mean += tl.sum(counts * (means - mean), 0, keep_dims=True) / total
    apart = means - mean
    return mean, tl.sum(squares + counts * apart * apart, 0, keep_dims=True)


@triton.jit
def _partials(partials, column, CHANNELS: tl.constexpr, PARTIALS: tl.constexpr):
    """Return the numbers of all programs and their two partial results; 0 beyond the last program."""
    program = tl.arange(0, PARTIALS)[:, None]
    there = (program < tl.num_programs(0)) & (column < CHANNELS)
    partials += program * CHANNELS + column
    return program, tl.load(partials, there, 0), tl.load(partials + tl.num_programs(0) * CHANNELS, there, 0)


@triton.jit
def _activate(out, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    if ACTIVATION == "leaky_relu":
        out = tl.where(out > 0, out, out * SLOPE)
    elif ACTIVATION == "relu":
        out = tl.where(out <= 0, 0.0, out)  # NaN stays
    elif ACTIVATION == "sigmoid":
        out = tl.sigmoid(out)
    else:
        out = 2 * tl.sigmoid(2 * out) - 1  # tanh, to 2^-23, as good as `out` is
    return out


@triton.jit
def _through_activation(gradient, y, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    if ACTIVATION == "leaky_relu":
        gradient = tl.where(y > 0, gradient, gradient * SLOPE)
    elif ACTIVATION == "relu":
        gradient = tl.where(y <= 0, 0.0, gradient)
    elif ACTIVATION == "sigmoid":
        gradient = gradient * (1 - y) * y
    else:
        gradient = gradient * (1 - y * y)
    return gradient


@triton.jit(do_not_specialize=["rows", "chunk"])
def measure(
    x, partials, rows, chunk, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Write mean and sum of squared deviations of each program's rows: partials (2, programs, channels).

    Every element of the tile keeps its own (Welford 1962), so that the loop has no sum over threads.
    """
    mine, begin, row, column, offset = _place(rows, chunk, CHANNELS, ROWS, COLUMNS)
    x += begin
    means = tl.zeros((ROWS, COLUMNS), tl.float32)
    squares = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, mine, ROWS):
        there = (start + row < mine) & (column < CHANNELS)
        value = tl.load(x + start * CHANNELS + offset, there, 0).to(tl.float32)
        apart = tl.where(there, value - means, 0)
        means += apart * (1.0 / (start // ROWS + 1))
        squares += apart * (value - means)
    counts = ((mine - row + ROWS - 1) // ROWS).to(tl.float32)
    mean, square = _combine(mine.to(tl.float32), counts, means, squares)
    partials += tl.program_id(0) * CHANNELS + column
    tl.store(partials, mean, column < CHANNELS)
    tl.store(partials + tl.num_programs(0) * CHANNELS, square, column < CHANNELS)


@triton.jit(do_not_specialize=["rows", "chunk"])
def normalise(
    x, added, weight, bias, partials, y, statistics, running_mean, running_var, rows, chunk, eps, momentum,
    ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, ADDS: tl.constexpr, PARTIALS: tl.constexpr,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Combine the partials of `measure`; write y, statistics (2, channels) and the running statistics."""
    mine, begin, row, column, offset = _place(rows, chunk, CHANNELS, ROWS, COLUMNS)
    known = column < CHANNELS
    program, means, squares = _partials(partials, column, CHANNELS, PARTIALS)
    counts = tl.minimum(tl.maximum(rows - program * chunk, 0), chunk).to(tl.float32)
    mean, square = _combine(rows.to(tl.float32), counts, means, squares)
    inverse = 1 / tl.sqrt_rn(square / rows.to(tl.float32) + eps)
    if tl.program_id(0) == 0:
        tl.store(statistics + column, mean, known)
        tl.store(statistics + CHANNELS + column, inverse, known)
        kept = tl.load(running_mean + column, known, 0) * (1 - momentum)
        tl.store(running_mean + column, kept + momentum * mean, known)
        kept = tl.load(running_var + column, known, 0) * (1 - momentum)
        tl.store(running_var + column, kept + momentum * (square / (rows - 1).to(tl.float32)), known)
    scale = inverse * tl.load(weight + column, known, 0)
    shift = tl.load(bias + column, known, 0)
    for start in range(0, mine, ROWS):
        there = (start + row < mine) & known
        at = begin + start * CHANNELS
        out = (tl.load(x + at + offset, there, 0).to(tl.float32) - mean) * scale + shift
        if ADDS:
            out += tl.load(added + at + offset, there, 0).to(tl.float32)
        out = _activate(out, ACTIVATION, SLOPE)
        tl.store(y + at + offset, out.to(y.dtype.element_ty), there)


@triton.jit(do_not_specialize=["rows", "chunk"])
def gather(
    gradient, x, y, statistics, partials, rows, chunk,
    ACTIVATION: tl.constexpr, SLOPE: tl.constexpr,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write each program's sums of g and g x': partials (2, programs, channels)."""
    mine, begin, row, column, offset = _place(rows, chunk, CHANNELS, ROWS, COLUMNS)
    known = column < CHANNELS
    mean = tl.load(statistics + column, known, 0)
    inverse = tl.load(statistics + CHANNELS + column, known, 0)
    plain = tl.zeros((ROWS, COLUMNS), tl.float32)
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, mine, ROWS):
        there = (start + row < mine) & known
        at = begin + start * CHANNELS
        slope = tl.load(gradient + at + offset, there, 0).to(tl.float32)
        slope = _through_activation(slope, tl.load(y + at + offset, there, 0).to(tl.float32), ACTIVATION, SLOPE)
        plain += slope
        product += slope * (tl.load(x + at + offset, there, 0).to(tl.float32) - mean)
    partials += tl.program_id(0) * CHANNELS + column
    tl.store(partials, tl.sum(plain, 0, keep_dims=True), known)
    tl.store(partials + tl.num_programs(0) * CHANNELS, tl.sum(product, 0, keep_dims=True) * inverse, known)


@triton.jit(do_not_specialize=["rows", "chunk"])
def differentiate(
    gradient, x, y, weight, statistics, partials, by_x, by_added, by_weight, by_bias, rows, chunk,
    ACTIVATION: tl.constexpr, SLOPE: tl.constexpr, ADDS: tl.constexpr, PARTIALS: tl.constexpr,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Combine the partials of `gather`; write the gradients."""
    mine, begin, row, column, offset = _place(rows, chunk, CHANNELS, ROWS, COLUMNS)
    known = column < CHANNELS
    _, plain, product = _partials(partials, column, CHANNELS, PARTIALS)
    plain = tl.sum(plain, 0, keep_dims=True)
    product = tl.sum(product, 0, keep_dims=True)
    if tl.program_id(0) == 0:
        tl.store(by_bias + column, plain, known)
        tl.store(by_weight + column, product, known)
    mean = tl.load(statistics + column, known, 0)
    inverse = tl.load(statistics + CHANNELS + column, known, 0)
    scale = inverse * tl.load(weight + column, known, 0)
    plain /= rows.to(tl.float32)
    product *= inverse / rows.to(tl.float32)
    for start in range(0, mine, ROWS):
        there = (start + row < mine) & known
        at = begin + start * CHANNELS
        slope = tl.load(gradient + at + offset, there, 0).to(tl.float32)
        slope = _through_activation(slope, tl.load(y + at + offset, there, 0).to(tl.float32), ACTIVATION, SLOPE)
        if ADDS:
            tl.store(by_added + at + offset, slope.to(by_added.dtype.element_ty), there)
        centred = slope - plain - (tl.load(x + at + offset, there, 0).to(tl.float32) - mean) * product
        tl.store(by_x + at + offset, (scale * centred).to(by_x.dtype.element_ty), there)


class _Division(NamedTuple):
    """How a minibatch is divided into programs."""

    rows: int
    """Values of a channel."""
    chunk: int
    """Rows of a program."""
    grid: tuple[int, int]
    """Programs along rows, and along channels."""
    partials: int
    """Programs along rows, rounded up to a power of 2, as a tile must be."""
    tile: dict[str, int]
    """Constants compiled into a kernel."""


def divide(shape: torch.Size) -> _Division:
    """Divide a minibatch (batch, channels, height, width) into programs, the same on every device."""
    channels = shape[1]
    rows = shape.numel() // channels
    columns = min(COLUMNS, triton.next_power_of_2(channels))
    height = TILE // columns
    chunk = triton.cdiv(rows, min(PROGRAMS, triton.cdiv(rows, height)))
    programs = triton.cdiv(rows, chunk)
    return _Division(
        rows,
        chunk,
        (programs, triton.cdiv(channels, columns)),
        triton.next_power_of_2(programs),
        {"CHANNELS": channels, "ROWS": height, "COLUMNS": columns, **OPTIONS},
    )


def forward(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, running: tuple[Tensor, Tensor], settings: Settings
) -> tuple[Tensor, Tensor]:
    """Compute `fused_reference.forward`, channels last."""
    x = _channels_last(x)
    shortcut = x if added is None else _channels_last(added)  # read only where one is added
    rows, chunk, grid, partials, tile = divide(x.shape)
    y = torch.empty_like(x)
    measured = x.new_empty((2, grid[0], x.shape[1]), dtype=torch.float32)
    statistics = x.new_empty((2, x.shape[1]), dtype=torch.float32)
    measure[grid](x, measured, rows, chunk, **tile)
    normalise[grid](
        x, shortcut, weight, bias, measured, y, statistics, *running, rows, chunk, settings.eps, settings.momentum,
        settings.activation, settings.slope, settings.adds, partials, **tile,
    )  # fmt: skip
    return y, statistics


def backward(
    gradient: Tensor, x: Tensor, y: Tensor, weight: Tensor, statistics: Tensor, settings: Settings
) -> Gradients:
    """Compute `fused_reference.backward`, channels last."""
    gradient, x = _channels_last(gradient), _channels_last(x)
    rows, chunk, grid, partials, tile = divide(x.shape)
    by_x = torch.empty_like(x)
    by_added = torch.empty_like(x) if settings.adds else None
    by_weight, by_bias = torch.empty_like(weight), torch.empty_like(weight)
    gathered = x.new_empty((2, grid[0], x.shape[1]), dtype=torch.float32)
    gather[grid](
        gradient, x, y, statistics, gathered, rows, chunk, settings.activation, settings.slope, **tile
    )  # fmt: skip
    differentiate[grid](
        gradient, x, y, weight, statistics, gathered, by_x, by_x if by_added is None else by_added, by_weight, by_bias,
        rows, chunk, settings.activation, settings.slope, settings.adds, partials, **tile,
    )  # fmt: skip
    return by_x, by_added, by_weight, by_bias


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
