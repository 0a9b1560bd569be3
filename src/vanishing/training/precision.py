"""Computing in bfloat16, on processors too that have no instructions for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


@contextmanager
def autocast(kind: str, bf16: bool) -> Iterator[None]:
    """Compute in bfloat16 where autocast does, with sums in single precision.

    Where PyTorch has no fast convolutions in bfloat16, as on x86 without AVX-512, those and the linear layers compute
    in single precision with operands and results rounded to bfloat16, forward and backward. A product of two bfloat16
    numbers is exact in single precision, so only the order of a sum is another than in bfloat16.

    Args:
        kind: "cpu" or "cuda".
        bf16: without it, nothing changes.
    """
    with torch.autocast(kind, torch.bfloat16, enabled=bf16):
        if bf16 and kind == "cpu" and not fast():
            with _Rounded():
                yield
        else:
            yield


@functools.cache
def fast() -> bool:
    """Say whether oneDNN convolves in bfloat16 here, as it does with AVX-512 and AVX-NE-CONVERT on x86."""
    with_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return with_onednn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Rounded(TorchFunctionMode):
    """Computes `conv2d` and `linear` in single precision, of operands rounded to bfloat16, and rounds the result.

    The gradients are rounded in the same places, as the derivative of a change of type is one too.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in (functional.conv2d, functional.linear):
            return func(*args, **(kwargs or {}))
        with torch.autocast("cpu", enabled=False):
            operands = [value.bfloat16().float() if isinstance(value, Tensor) else value for value in args]
            return func(*operands, **(kwargs or {})).bfloat16()
