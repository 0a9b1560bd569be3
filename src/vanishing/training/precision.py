"""Computing in bfloat16 on every processor, those too for which PyTorch has no fast convolutions in it."""

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
    """Compute in bfloat16 where PyTorch's autocast does, with sums in single precision.

    Where that is slow (see `fast`), `conv2d` and `linear` compute in single precision on operands rounded to bfloat16,
    and their results are rounded, forward and backward. A product of two bfloat16 numbers is exact in single precision
    unless it underflows, so the results differ from those of other processors by little more than the order of sums.

    Args:
        kind: "cpu" or "cuda".
        bf16: whether to; if not, nothing changes.
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
    """Computes `conv2d` and `linear` in single precision from operands rounded to bfloat16, and rounds the result.

    Gradients are rounded in the same places, since the gradient of a cast is cast back.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func not in (functional.conv2d, functional.linear) or not torch.is_autocast_enabled("cpu"):
            return func(*args, **named)
        with torch.autocast("cpu", enabled=False):
            operands = (_rounded(value) for value in args)
            return func(*operands, **{name: _rounded(value) for name, value in named.items()}).bfloat16()


def _rounded(value: Any) -> Any:
    """Return a tensor in single precision with values of bfloat16, and anything else as it is."""
    return value.bfloat16().float() if isinstance(value, Tensor) else value
