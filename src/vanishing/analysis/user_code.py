"""Call what a user names on the command line as MODULE:CALLABLE, and tell their mistakes in one line."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from vanishing.errors import UserError

FOREIGN = ("site-packages", "dist-packages", "<frozen")
"""In the names of files that are nobody's own code."""

PACKAGE = str(Path(__file__).parents[1])


def model_and_batches(named: str, batches: str | None) -> tuple[nn.Module, Any]:
    """Build the network and the minibatches that are to be diagnosed.

    Args:
        named: MODULE:CALLABLE, where MODULE is a file or can be imported; it returns a model, or (model, batches).
        batches: the same for a callable that returns the minibatches alone.

    Raises:
        UserError: if there is no such module or callable, if it fails, or if it returns something else.
    """
    built = _call(named)
    model, found = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    if not isinstance(model, nn.Module):
        raise UserError(f"{named} returns a {type(model).__name__}; allowed: a torch.nn.Module, or (model, batches)")
    if batches is not None:
        found = _call(batches)
    if found is None:
        raise UserError(f"{named} returns no minibatches; return (model, batches), or add --batches MODULE:CALLABLE")
    return model, found


@contextlib.contextmanager
def errors_in(named: str) -> Iterator[None]:
    """Turn an exception in the user's code into one line with the file and line where it was raised."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{named}: {_place(error)}{type(error).__name__}{': ' if said else ''}{said}") from error


def _call(named: str) -> Any:
    module, _, function = named.rpartition(":")
    if not module or not function:
        raise UserError(f"{named!r} names no callable; allowed: MODULE:CALLABLE, such as model.py:build")
    with errors_in(named):
        found = getattr(_load(module), function, None)
    if not callable(found):
        fault = f"has no {function!r}" if found is None else f"has a {function!r} that cannot be called"
        raise UserError(f"{named}: {module} {fault}")
    with errors_in(named):
        return found()


def _load(module: str) -> ModuleType:
    """Import a file, with its folder on the path as `python FILE` has it, or a module as `python -m` does."""
    path = Path(module)
    if path.suffix != ".py" and not path.is_file():
        sys.path.insert(0, str(Path.cwd()))
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name and (module == error.name or module.startswith(f"{error.name}.")):
                raise UserError(f"{module}: no such module, and no such file") from None
            raise
    if not path.is_file():
        raise UserError(f"{module}: no such file")
    specification = importlib.util.spec_from_file_location(f"diagnosed_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise UserError(f"{module}: not a Python file")
    loaded = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = loaded
    sys.path.insert(0, str(path.resolve().parent))
    specification.loader.exec_module(loaded)
    return loaded


def _place(error: BaseException) -> str:
    """Return the file and line of the user's own code where an error was raised, or nothing if it was not there."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: "
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(PACKAGE)
        and not any(part in frame.filename for part in FOREIGN)
        and not frame.filename.startswith(str(Path(contextlib.__file__).parent))
    ]
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
