"""Pickles of plain values and numpy arrays, read without running anything that they name.

The official archive of CIFAR-100 holds pickles, and a pickle is a program. Here every name it may call is
one of the stand-ins below; numpy itself never sees the pickle's state.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from vanishing.data.archives import SourceError, brief, one_line

NUMBERS = frozenset({"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"})
"""Types of the arrays that are read; object arrays, which hold more pickles, are none of them."""

DIMENSIONS = 4
"""Limit of an array; images of CIFAR-100 have two in the official layout."""


def loads(name: str, content: bytes) -> Any:
    """Return the values of the pickle `content`; Python 2's strings come as bytes.

    `SourceError`, with the file's `name`, if the pickle is damaged or wants anything but plain values and
    arrays of integers.
    """
    try:
        _check_memo(content)
        return _plain(_Unpickler(io.BytesIO(content), encoding="bytes").load())
    except SourceError as error:
        raise SourceError(f"{name!r}: {error}") from None
    except Exception as error:  # what a damaged or hostile pickle can raise has no common type
        raise SourceError(f"{name!r}: no pickle of CIFAR-100: {one_line(error)}") from None


class _Type:
    """Stands in for `numpy.dtype`: one of the integer types, little-endian."""

    def __init__(self, code: object, *_: object) -> None:
        text = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(text, str) or text not in NUMBERS:
            raise SourceError(f"refused: the pickle has an array of type {brief(text)!r}; allowed: integers")
        self.code = text

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("|", "<", b"|", b"<"):
            raise SourceError("refused: the pickle has an array that is not little-endian")


class _Array:
    """Stands in for a pickled array: its state is checked, then read as bytes."""

    values: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        self.values = _view(content, kind, shape, "F" if fortran else "C")


def _view(content: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    plain = isinstance(content, (bytes, bytearray)) and isinstance(kind, _Type) and isinstance(shape, tuple)
    if not plain or len(shape) > DIMENSIONS or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise SourceError("refused: the pickle has an array that is not plain bytes")
    dtype = np.dtype("<" + kind.code)
    if max(shape, default=0) > len(content) or math.prod(shape) * dtype.itemsize != len(content):
        sizes = " x ".join(map(brief, shape))
        raise SourceError(f"the pickle has {len(content):,} bytes for an array of shape {sizes}")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if order in ("F", b"F") else "C")


def _reconstruct(*_: object) -> _Array:
    """Stand in for numpy's function of that name, which makes an empty array for the state to fill."""
    return _Array()


def _from_buffer(content: Any, kind: Any, shape: Any, order: Any, *_: object) -> _Array:
    """Stand in for numpy's function of that name (protocol 5)."""
    array = _Array()
    array.values = _view(content, kind, shape, order)
    return array


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Stand in for `_codecs.encode`, which brings bytes into pickles of Python 3 that Python 2 can read."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise SourceError(f"refused: the pickle wants the encoding {brief(encoding)!r}")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
} | {
    (f"{core}.{module}", name): stand_in
    for core in ("numpy.core", "numpy._core")
    for module, name, stand_in in (
        ("multiarray", "_reconstruct", _reconstruct),
        ("numeric", "_frombuffer", _from_buffer),
    )
}


def _with_keys(operation: bytes, keys: slice) -> tuple[int, Callable[[Any], None]]:
    """Return an operation that fills a dictionary, but checks the keys first: tuples can take for ever to hash."""
    load = pickle._Unpickler.dispatch[operation[0]]

    def checked(unpickler: Any) -> None:
        if not all(isinstance(key, (str, bytes)) for key in unpickler.stack[keys]):
            raise SourceError("refused: the pickle has a key that is no text")
        load(unpickler)

    return operation[0], checked


_SETS = {operation[0] for operation in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)}


class _Unpickler(pickle._Unpickler):
    """The unpickler in Python: that in C hashes keys and members of sets before anybody can look at them."""

    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items() if code not in _SETS} | dict(
        [
            _with_keys(pickle.SETITEM, slice(-2, -1)),
            _with_keys(pickle.SETITEMS, slice(None, None, 2)),
            _with_keys(pickle.DICT, slice(None, None, 2)),
        ]
    )

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _STAND_INS[module, name]
        except KeyError:
            called = f"{module}.{name}"[:60]
            raise SourceError(f"refused: the pickle wants {called!r}; allowed: numpy arrays and plain values") from None


def _check_memo(content: bytes) -> None:
    """Refuse a place in the memo beyond what was put there, and lengths beyond the content: room would be made."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if operation.name in ("PUT", "LONG_BINPUT") and argument is not None and argument > count + 1:
            raise SourceError(f"refused: the pickle puts value {argument:,} at step {count:,}")


def _plain(value: Any) -> Any:
    """Return a dictionary with text for its keys and arrays for their stand-ins; anything else as it is."""
    if not isinstance(value, dict):
        return value
    return {_text(key): item.values if isinstance(item, _Array) else item for key, item in value.items()}


def _text(key: Any) -> Any:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else key
